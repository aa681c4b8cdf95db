"""TLS from end to end: every client there is, over wss, with what may happen to a relay."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

import pgcachewatch
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.listeners import WSEventQueue
from pgcachewatch_daemon.io.websocket import TlsOptions
from pgcachewatch_daemon.relay import Relay
from tests.certificates import DAY, Authority
from tests.integration.users import Users
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, Message, notify, options, payload
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually

CLIENTS = 200
OPENING_AT_ONCE = 20
EVENTS = 20


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def secured(database: Database, authority: Authority, **settings: str) -> RelayProcess:
    certificate, key = authority.issue("relay", ends_in=100 * DAY)
    files = {"tls_certificate_file": str(certificate), "tls_key_file": str(key)}
    relay = RelayProcess(database.dsn, port=0, **{"heartbeat_s": "0.05", **files, **settings})
    relay.trust = authority.client()
    return relay


async def test_a_client_is_right_again_after_its_relay_was_killed(database: Database, authority: Authority) -> None:
    users = Users(database.dsn)
    await users.create()
    with secured(database, authority) as relay:
        async with asyncio.timeout(3 * LIMIT_S), pgcachewatch.connect(relay.url, ssl=relay.trust) as client:
            cached = client.cache(users.version, tables=["users"])
            await client.wait_live(LIMIT_S)
            assert await cached(1) == await users.version_now(1)
            relay.kill()
            await users.change(1)
            relay.start()
            await eventually(lambda: client.status.reconnects >= 1 and client.status.state == "live")
            assert await cached(1) == await users.version_now(1)
            await users.change(1)
            await client.barrier(timeout=LIMIT_S)
            assert await cached(1) == await users.version_now(1)


async def test_a_cut_connection_resumes_and_published_clients_work_unchanged(
    database: Database, authority: Authority
) -> None:
    with secured(database, authority) as relay:
        async with connect(f"{relay.url}/pgpubsub/{CHANNEL}", ssl=relay.trust, proxy=None) as plain:
            queue = WSEventQueue()
            await queue.connect(plain)
            async with Client(relay, ssl=relay.trust) as client:
                await client.hello()
                await notify(database, payload("users", "1"))
                await client.until("ev", i=[[1, "u", "1"]])
                client.socket.transport.abort()
            await notify(database, payload("users", "2"))
            async with Client(relay, ssl=relay.trust) as again:
                again.cursor = client.cursor
                resume: Message = {"e": client.epoch, "s": client.cursor}
                assert (await again.hello(resume=resume))["resumed"] is True
                await again.until("ev", i=[[1, "*", "2"]])
            await eventually(lambda: queue.qsize() == 2)
            assert queue.connection_healthy()


async def test_two_hundred_clients_of_two_workers_hear_each_event_in_order(
    database: Database, authority: Authority
) -> None:
    keys = [str(number) for number in range(EVENTS)]
    # Twenty marks a second for each of them, and pings, are more than the other ends, all in this process, can read.
    settings = {"workers": "2", "heartbeat_s": "1", "handshake_timeout_s": "60", "hello_timeout_s": "60"}
    opening = asyncio.Semaphore(OPENING_AT_ONCE)
    joined = asyncio.Barrier(CLIENTS + 1)

    async def listen(relay: RelayProcess) -> list[str]:
        heard: list[str] = []
        async with AsyncExitStack() as stack:
            async with opening:
                client = Client(relay, ssl=relay.trust, compression=None, ping_interval=None, max_queue=None)
                await stack.enter_async_context(client)
                await client.hello({"t": "sub", "id": 1, "table": "users", "mode": "stream"})
                await client.until("subok")
            await joined.wait()
            while len(heard) < EVENTS:
                heard += [item[3]["keys"][0] for item in (await client.until("ev"))["i"]]
        return heard

    with secured(database, authority, **settings) as relay:
        async with asyncio.timeout(3 * LIMIT_S), asyncio.TaskGroup() as group:
            listening = [group.create_task(listen(relay)) for _ in range(CLIENTS)]
            await joined.wait()
            for key in keys:
                await notify(database, payload("users", key))
        assert [each.result() for each in listening] == [keys] * CLIENTS
        status, metrics = relay.get("/metrics")
        assert status == 200
        assert 'pgcachewatch_disconnects_total{code="1006"}' not in metrics


async def test_a_reload_takes_other_files_and_refuses_those_that_do_not_work(
    database: Database, authority: Authority, tmp_path: Path
) -> None:
    first = TlsOptions(*map(str, authority.issue("first", ends_in=100 * DAY)))
    successor = Authority(tmp_path, "successor")
    second = TlsOptions(*map(str, successor.issue("second", ends_in=100 * DAY)))
    async with Relay(options(database.dsn, tls=first)) as relay:
        await relay.ready()
        async with Client(relay, ssl=authority.client()) as old:
            await old.hello()
            with pytest.raises(ConfigurationError):
                relay.prepare(replace(relay.options, tls=replace(second, key_file=first.key_file)))()
            relay.prepare(replace(relay.options, tls=second))()
            async with Client(relay, ssl=successor.client()) as new:
                await new.hello()
                await notify(database, payload("users", "1"))
                for client in (old, new):
                    await client.until("ev", i=[[1, "u", "1"]])
