"""The whole relay in this process: losing PostgreSQL, leaving, and being seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from websockets.asyncio.client import connect
from websockets.protocol import State

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.io.metrics import METRICS
from pgcachewatch_daemon.io.websocket import SocketLimits
from pgcachewatch_daemon.relay import Relay
from tests.postgres import Database
from tests.proxy import Proxy, port_of, through
from tests.raw_client import (
    CHANNEL,
    SOURCE,
    Client,
    get,
    kill_listener,
    notify,
    options,
    payload,
    refused,
    running,
)
from tests.waiting import eventually


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[Relay]:
    async with running(options(database.dsn)) as relay:
        yield relay


# --- losing PostgreSQL


@pytest.mark.rule("W-STALE-1")
@pytest.mark.rule("W-MARK-2")
@pytest.mark.rule("W-POSITION-1")
async def test_a_killed_listener_is_stale_at_once_then_a_new_epoch(relay: Relay, database: Database) -> None:
    async with Client(relay) as client:
        await client.hello()
        before = client.epoch
        await kill_listener(database)
        stale = await client.until("stale")
        assert stale["reason"] == "connection_lost"
        reset = await client.until("reset")
        assert reset["e"] != before
        since = client.seen.index(stale)
        assert not [each for each in client.seen[since : client.seen.index(reset)] if each.get("as_of")]
        await client.until("mark")
        await notify(database, payload("users", "after"))
        assert (await client.until("ev"))["i"][0][2] == "after"


async def test_a_server_that_is_killed_and_restarted_is_found_again(private_server: EmbeddedPostgres) -> None:
    async with running(options(private_server.dsn)) as relay, Client(relay) as client:
        await client.hello()
        await asyncio.to_thread(private_server.kill)
        await client.until("stale")
        assert (await get(relay, "/readyz")).status_code == 503
        await asyncio.to_thread(private_server.restart)
        await client.until("reset")
        await client.until("mark")
        assert (await get(relay, "/readyz")).status_code == 200


async def test_a_black_holed_connection_is_noticed_by_the_loopback(database: Database) -> None:
    async with Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        dsn = through(proxy, database.dsn)
        source = replace(SOURCE, overdue_s=0.5, connect_timeout_s=1.0)
        async with running(options(dsn, source)) as relay, Client(relay) as client:
            await client.hello()
            proxy.black_hole()
            assert (await client.until("stale"))["reason"] == "loopback_overdue"
            proxy.forward()
            await client.until("reset")
            await notify(database, payload("users", "seen"))
            assert (await client.until("ev"))["i"][0][2] == "seen"


async def test_a_barrier_asked_for_while_the_source_is_lost_passes_afterwards(relay: Relay, database: Database) -> None:
    async with Client(relay) as client:
        await client.hello()
        await kill_listener(database)
        await client.until("stale")
        await client.say(t="barrier", id=1)
        await client.until("barrierok", id=1)
        kinds = [message["t"] for message in client.seen]
        assert kinds.index("reset") < kinds.index("barrierok")


# --- leaving


@pytest.mark.rule("W-CLOSE-2")
async def test_a_drain_says_bye_and_closes_by_path_and_lets_nobody_in(database: Database) -> None:
    async with running(options(database.dsn)) as relay:
        async with Client(relay) as client, connect(relay.url + f"/pgpubsub/{CHANNEL}", proxy=None) as plain:
            await client.hello()
            draining = asyncio.create_task(relay.drain())
            assert (await client.until("bye"))["code"] == 4000
            assert await client.close_code() == 4000
            await plain.wait_closed()
            assert plain.protocol.close_code == 1012
            await draining
        assert not relay._server.connections
        answer = await get(relay, "/readyz")
        assert answer.json()["checks"]["accepting"]["ok"] is False
        assert await refused(relay.url + f"/pgpubsub/{CHANNEL}") == 503


async def test_a_drain_ends_with_the_grace_when_a_client_does_not_go(database: Database) -> None:
    sockets = SocketLimits(close_s=60.0)
    async with running(options(database.dsn, drain_grace_s=0.05, sockets=sockets)) as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        await eventually(lambda: len(relay._server.connections) == 1)
        await relay.drain()
        writer.close()


async def test_run_returns_once_it_was_stopped_and_drained(database: Database) -> None:
    async with running(options(database.dsn)) as relay, Client(relay) as client:
        await client.hello()
        serving = asyncio.create_task(relay.run())
        relay.stop()
        await serving
        assert client.socket.protocol.state is not State.OPEN or await client.close_code() == 4000


# --- being seen


@pytest.mark.rule("W-PLAIN-4")
async def test_readiness_is_the_loopback_not_the_connection(relay: Relay) -> None:
    answer = await get(relay, "/readyz")
    assert answer.status_code == 200
    assert set(answer.json()["checks"]) == {"source", "loopback", "accepting"}
    assert (await get(relay, "/up")).status_code == 200


async def test_metrics_show_the_whole_table(relay: Relay, database: Database) -> None:
    async with Client(relay) as client:
        await client.hello()
        await notify(database, payload())
        await notify(database, "not json")
        await client.until("ev")
        await client.until("ev")
        text = (await get(relay, "/metrics")).text
    for row in METRICS:
        assert f"# TYPE {row.full_name} {row.kind}" in text, row.full_name
    assert "pgcachewatch_source_up 1.0" in text
    assert 'pgcachewatch_clients{path="v1"} 1.0' in text
    assert "pgcachewatch_events_received_total 1.0" in text
    assert 'pgcachewatch_gaps_received_total{reason="not_json"} 1.0' in text
    assert "process_cpu_seconds_total" in text


async def test_what_leaves_is_forgotten(relay: Relay) -> None:
    for _ in range(5):
        async with Client(relay) as client:
            await client.hello()
            await client.say(t="barrier", id=1)
        async with connect(relay.url + "/pgpubsub/x", proxy=None):
            pass
    await eventually(lambda: not relay._server.connections)
    assert not relay._reception.visitors
    assert relay._admission.stats.connections == 0
    assert relay._hub.stats.clients == 0
    assert relay._hub.stats.plain_clients == 0
