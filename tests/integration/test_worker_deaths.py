"""Workers that die, a primary that dies, and the ends that are asked for: clients resume, nobody is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from websockets.exceptions import ConnectionClosed

import pgcachewatch
from pgcachewatch_daemon.workers import member, restarts
from pgcachewatch_daemon.workers.primary import PrimaryRelay
from pgcachewatch_daemon.workers.staff import WorkersFailed
from tests.integration.users import Users
from tests.integration.workforce import (
    CLIENTS,
    WORKERS,
    children,
    client_of,
    clients_by_worker,
    everywhere,
    is_running,
    running,
)
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, notify, options, payload
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[PrimaryRelay]:
    async with running(options(database.dsn, workers=WORKERS)) as relay:
        yield relay


# --- resuming, and the death of workers


async def test_a_position_can_be_resumed_at_any_worker(relay: PrimaryRelay, database: Database) -> None:
    async with everywhere(relay) as clients:
        epoch, seq = clients[0].epoch, clients[0].cursor
    for number in range(3):
        await notify(database, payload("users", str(number)))
    async with AsyncExitStack() as stack:
        again: list[Client] = []
        while len(again) < CLIENTS or 0 in await clients_by_worker(relay):
            again.append(await stack.enter_async_context(client_of(relay)))
            again[-1].cursor = seq
            assert (await again[-1].hello(resume={"e": epoch, "s": seq}))["resumed"] is True
            await again[-1].until("ev", s=3)  # the last may have been read behind the others, and come by itself
            keys = [item[2] for each in again[-1].seen if each["t"] == "ev" for item in each["i"]]
            assert sorted(keys) == ["0", "1", "2"]


async def test_a_channel_another_worker_began_to_listen_to_can_not_be_resumed_from_before(
    relay: PrimaryRelay, database: Database
) -> None:
    async with everywhere(relay) as clients:
        position = {"e": clients[0].epoch, "s": clients[0].cursor}
        await notify(database, payload())
        await clients[0].until("ev")
        await clients[0].say(t="sub", id=2, channel="heard_late")
        await clients[0].until("subok", id=2)
        others = []
        async with AsyncExitStack() as stack:
            for _ in range(CLIENTS):
                others.append(await stack.enter_async_context(client_of(relay)))
                welcome = await others[-1].hello({"t": "sub", "id": 1, "channel": "heard_late"}, resume=position)
                assert welcome["resumed"] is False


async def test_when_workers_are_killed_their_clients_resume_with_warm_caches(
    relay: PrimaryRelay, database: Database
) -> None:
    users = Users(database.dsn)
    await users.create()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(pgcachewatch.connect(relay.url)) for _ in range(CLIENTS)]
        cached = [client.cache(users.version, tables=["users"]) for client in clients]
        for client in clients:
            await client.wait_live(LIMIT_S)
        await users.change(1)
        await asyncio.gather(*(client.barrier(timeout=LIMIT_S) for client in clients))
        await asyncio.gather(*(each(1) for each in cached))
        runs = users.runs
        # Both, one after another: whoever was at the first may be at its replacement, which knows the past from a
        # journal only.
        for number in (1, 2):
            killed = relay.workers[number]
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda: relay.workers.get(number, killed) != killed)  # noqa: B023  # of this turn
            assert relay._staff.restarts == number
        await eventually(lambda: all(client.status.state == "live" for client in clients))
        assert sum(client.status.resumes for client in clients) >= CLIENTS
        assert [client.status.gaps for client in clients] == [0] * CLIENTS
        assert await asyncio.gather(*(each(1) for each in cached)) == [1] * CLIENTS
        assert users.runs == runs, "the caches are as warm as before"
        await users.change(1)
        await asyncio.gather(*(client.barrier(timeout=LIMIT_S) for client in clients))
        assert await asyncio.gather(*(each(1) for each in cached)) == [2] * CLIENTS


async def test_what_changed_while_a_worker_was_dead_is_not_served(relay: PrimaryRelay, database: Database) -> None:
    users = Users(database.dsn)
    await users.create()
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(pgcachewatch.connect(relay.url)) for _ in range(CLIENTS)]
        cached = [client.cache(users.version, tables=["users"]) for client in clients]
        for client in clients:
            await client.wait_live(LIMIT_S)
        for turn in range(1, 4):
            await asyncio.gather(*(each(1) for each in cached))
            victim = relay.workers[1 + turn % WORKERS]
            os.kill(victim, signal.SIGKILL)
            await users.change(1)
            await eventually(lambda: len(relay.workers) == WORKERS and victim not in relay.workers.values())  # noqa: B023
            await asyncio.gather(*(client.barrier(timeout=LIMIT_S) for client in clients))
            assert await asyncio.gather(*(each(1) for each in cached)) == [turn] * CLIENTS
        assert [client.status.gaps for client in clients] == [0] * CLIENTS


async def test_a_worker_that_is_asked_to_end_sends_its_clients_to_the_others(relay: PrimaryRelay) -> None:
    async with everywhere(relay) as clients:
        leaving = relay.workers[1]
        os.kill(leaving, signal.SIGTERM)
        await eventually(lambda: leaving not in relay.workers.values() and len(relay.workers) == WORKERS)
        told = [client for client in clients if await _was_sent_away(client)]
        assert 0 < len(told) < len(clients)


async def _was_sent_away(client: Client) -> bool:
    """Whether the relay said goodbye to this client, with the code of a planned end."""
    try:
        await client.say(t="ping", id=1)
        await client.until("pong")
    except ConnectionClosed:
        byes = [each for each in client.seen if each["t"] == "bye"] or [await client.until("bye")]
        assert [(each["code"], await client.close_code()) for each in byes] == [(4000, 4000)]
        return True
    return False


async def test_a_worker_that_does_not_read_is_replaced_and_the_others_do_not_wait(
    relay: PrimaryRelay, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, other = relay.workers[1], relay.workers[2]
    link = next(each._link for each in relay._staff.serving if each.pid == stopped)
    assert link is not None
    monkeypatch.setattr(link, "_limit_bytes", 100_000)
    async with everywhere(relay):
        os.kill(stopped, signal.SIGSTOP)
        connection = await database.connect()
        await connection.execute(
            "SELECT pg_notify($1, $2 || n) FROM generate_series(1, 10000) n", CHANNEL, payload() + " " * 100
        )
        await eventually(lambda: relay.workers.get(1, stopped) != stopped)
    assert relay.workers[2] == other
    assert relay._staff.restarts == 1


# --- the port


async def test_workers_that_inherit_the_socket_serve_as_those_that_share_the_port(database: Database) -> None:
    async with running(options(database.dsn, workers=WORKERS), is_spread=False) as relay:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(relay)) for _ in range(CLIENTS)]
            for client in clients:
                await client.hello()
            for worker in tuple(relay.workers.values()):
                os.kill(worker, signal.SIGKILL)
            for client in clients:
                await client.socket.wait_closed()
        async with client_of(relay) as again:  # waits for whoever accepts first
            await again.hello()
            await notify(database, payload("users", "seen"))
            assert (await again.until("ev"))["i"][0][2] == "seen"


async def test_workers_that_end_at_each_start_end_the_relay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "MODULE", "pgcachewatch_daemon.there_is_none")
    monkeypatch.setattr(restarts, "PAUSE_S", 0.001)
    relay = PrimaryRelay(options(database.dsn, workers=WORKERS))
    with pytest.raises(WorkersFailed, match=rf"ended {restarts.TRIES} times in a row"):
        await relay.start()
    await relay.close()


# --- the end


@pytest.mark.rule("W-CLOSE-2")
async def test_sigterm_drains_all_workers_and_leaves_with_0(database: Database) -> None:
    with RelayProcess(database.dsn, workers=str(WORKERS)) as relay:
        workers = children(relay.pid)
        assert len(workers) == WORKERS
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(relay)) for _ in range(CLIENTS)]
            for client in clients:
                await client.hello()
            relay.signal(signal.SIGTERM)
            for client in clients:
                assert (await client.until("bye"))["code"] == 4000
                assert await client.close_code() == 4000
        assert await asyncio.to_thread(relay.wait) == 0
        assert relay.log().count("relay listening") == 1
        assert "Traceback" not in relay.log()
    assert not [each for each in workers if is_running(each)]


async def test_sigterm_to_all_processes_at_once_is_the_same(database: Database) -> None:
    """As a supervisor does it that ends a whole control group."""
    with RelayProcess(database.dsn, workers=str(WORKERS)) as relay:
        workers = children(relay.pid)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(relay)) for _ in range(CLIENTS)]
            for client in clients:
                await client.hello()
            for each in (*workers, relay.pid):
                os.kill(each, signal.SIGTERM)
            for client in clients:
                await client.until("bye")
                assert await client.close_code() == 4000
        assert await asyncio.to_thread(relay.wait) == 0
        assert "Traceback" not in relay.log()
    assert not [each for each in workers if is_running(each)]


async def test_nobody_outlives_a_primary_that_was_killed_and_clients_are_told(database: Database) -> None:
    with RelayProcess(database.dsn, workers=str(WORKERS)) as relay:
        workers = children(relay.pid)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(relay)) for _ in range(CLIENTS)]
            for client in clients:
                await client.hello()
            await asyncio.to_thread(relay.kill)
            for client in clients:
                await client.until("bye")
                assert await client.close_code() == 4000
        await eventually(lambda: not any(is_running(each) for each in workers))


async def test_nobody_outlives_a_primary_that_was_killed_while_its_workers_were_starting(database: Database) -> None:
    relay = RelayProcess(database.dsn, workers=str(WORKERS))
    relay.start()
    try:
        await eventually(lambda: len(children(relay.pid)) == WORKERS)
        workers = children(relay.pid)
        await asyncio.to_thread(relay.kill)
        await eventually(lambda: not any(is_running(each) for each in workers))
    finally:
        relay.__exit__(None, None, None)


async def test_a_second_signal_ends_all_of_it_whoever_is_connected(database: Database) -> None:
    with RelayProcess(database.dsn, workers=str(WORKERS), drain_grace_s="600") as relay:
        workers = children(relay.pid)
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port)  # says nothing, and never goes
        relay.signal(signal.SIGTERM)
        await eventually(lambda: "relay draining" in relay.log())
        relay.signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait) == 128 + signal.SIGTERM
        await eventually(lambda: not any(is_running(each) for each in workers))
        writer.close()


async def test_ctrl_c_in_a_terminal_is_the_primary_s_business(database: Database) -> None:
    with RelayProcess(database.dsn, workers=str(WORKERS)) as relay:
        for each in children(relay.pid):
            assert os.getpgid(each) != os.getpgid(relay.pid)
            os.kill(each, signal.SIGINT)
        async with client_of(relay) as client:
            await client.hello()
        relay.signal(signal.SIGINT)
        assert await asyncio.to_thread(relay.wait) == 0
        assert "worker ended" not in relay.log()


async def test_a_relay_that_can_not_keep_its_workers_leaves_with_1_and_says_why(database: Database) -> None:
    program = (
        "import sys; from pgcachewatch_daemon.workers import member, restarts; from pgcachewatch_daemon import cli;"
        "member.MODULE = 'pgcachewatch_daemon.there_is_none'; restarts.PAUSE_S = 0.001;"
        "sys.exit(cli.serve(sys.argv[1:]))"
    )
    arguments = ("--workers", str(WORKERS), "--port", "0", "--dsn", database.dsn)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, *arguments), stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert said.decode().splitlines()[-1].startswith("pgcachewatch serve: worker ")
    assert "times in a row soon after its start" in said.decode()
