"""The original's listeners on a relay of this package: proven fresh, and nothing lost or doubled."""

from __future__ import annotations

import asyncio
import datetime
import gc
import http
import logging
from collections.abc import AsyncIterator

import asyncpg
import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from pgcachewatch import decorators, listeners, models, queries, strategies
from pgcachewatch.protocol import messages
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.relay import Relay, RelayOptions
from tests.postgres import Database
from tests.proxy import Proxy
from tests.waiting import eventually

WITHIN_S = 90.0
CHANNEL = models.DEFAULT_PG_CHANNEL
SENT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn)
    await connection.execute("CREATE TABLE users (id int PRIMARY KEY)")
    await connection.execute(queries.create_notify_function(CHANNEL, "notify"))
    await connection.execute(queries.create_after_change_trigger("watch", "users", "notify"))
    yield connection
    await connection.close()


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[Relay]:
    options = RelayOptions(port=0, source=SourceOptions(dsn=database.dsn))
    async with Relay(options) as relay, asyncio.timeout(WITHIN_S):
        await relay.ready()
        yield relay


class Counted:
    """A function that counts its runs, with the original's decorator around it."""

    def __init__(self, listener: listeners.EventQueue) -> None:
        self.runs = 0
        self.call = decorators.cache(strategy=strategies.Greedy(listener=listener))(self._run)

    async def _run(self) -> int:
        self.runs += 1
        return self.runs


async def test_each_event_is_told_once_to_the_queue_and_once_to_the_cache(
    relay: Relay, connection: asyncpg.Connection
) -> None:
    async with websocket_connect(f"{relay.url}/pgpubsub/{CHANNEL}", proxy=None) as ws:
        listener = listeners.WSEventQueue()
        await listener.connect(ws)
        counted = Counted(listener)
        for number in range(1, 21):
            assert [await counted.call(), await counted.call()] == [number, number]
            await connection.execute("INSERT INTO users VALUES ($1)", number)
            event = await listener.get()
            assert event is not None
            assert (event.operation, event.table) == ("insert", "users")
            await eventually(lambda: not counted.call.cache_contains())
        assert listener.qsize() == 0
        assert listener.unreadable == 0


async def test_events_from_before_the_listener_took_the_socket_are_in_its_queue(
    relay: Relay, connection: asyncpg.Connection
) -> None:
    async with websocket_connect(f"{relay.url}/pgpubsub/{CHANNEL}", proxy=None) as ws:
        for number in range(100):
            await connection.execute("INSERT INTO users VALUES ($1)", number)
        listener = listeners.WSEventQueue()
        await listener.connect(ws)
        for _ in range(100):
            assert await listener.get() is not None


async def test_a_silent_relay_is_unhealthy_after_the_bound_and_nothing_old_is_served(
    relay: Relay, connection: asyncpg.Connection
) -> None:
    async with Proxy("127.0.0.1", relay.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/pgpubsub/{CHANNEL}"
        async with websocket_connect(url, proxy=None, close_timeout=0.1) as ws:
            listener = listeners.WSEventQueue()
            await listener.connect(ws)
            counted = Counted(listener)
            assert [await counted.call(), await counted.call()] == [1, 1]
            proxy.black_hole()
            await connection.execute("INSERT INTO users VALUES (1)")
            await eventually(lambda: not listener.connection_healthy())
            assert [await counted.call(), await counted.call()] == [2, 3]


async def test_a_listener_leaves_the_relay_when_its_socket_ends(relay: Relay) -> None:
    async with Proxy("127.0.0.1", relay.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/pgpubsub/{CHANNEL}"
        async with websocket_connect(url, proxy=None) as ws:
            listener = listeners.WSEventQueue()
            await listener.connect(ws)
            assert proxy.connections == 2
        await eventually(lambda: proxy.connections == 0)
        assert await listener.get() is None


async def test_a_direct_listener_that_nobody_holds_leaves_the_relay(
    relay: Relay, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy("127.0.0.1", relay.port) as proxy:
        monkeypatch.setenv("PGCACHEWATCH_URL", f"ws://127.0.0.1:{proxy.port}")
        listener = listeners.PGEventQueue()
        await listener.connect(connection)
        assert proxy.connections == 1
        del listener
        gc.collect()
        await eventually(lambda: proxy.connections == 0)


async def test_where_the_protocol_can_not_be_reached_a_listener_goes_on_without_proof(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A reverse proxy that lets through only the path it knows."""

    async def send(ws: ServerConnection) -> None:
        await ws.send(models.Event(channel=CHANNEL, operation="update", sent_at=SENT, table="users").model_dump_json())
        await ws.wait_closed()

    def refuse(ws: ServerConnection, request: Request) -> Response | None:
        known = request.path.startswith(messages.PLAIN_PATH_PREFIX)
        return None if known else ws.respond(http.HTTPStatus.NOT_FOUND, "no such path\n")

    def announce(ws: ServerConnection, request: Request, response: Response) -> None:
        response.headers[messages.PROTOCOL_HEADER] = messages.SUBPROTOCOL

    async with serve(send, "127.0.0.1", 0, process_request=refuse, process_response=announce) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with websocket_connect(f"ws://127.0.0.1:{port}/pgpubsub/{CHANNEL}", proxy=None) as ws:
            listener = listeners.WSEventQueue()
            with caplog.at_level(logging.WARNING, logger="pgcachewatch"):
                await listener.connect(ws)
            assert "without proof of freshness" in caplog.text
            event = await listener.get()
            assert event is not None
            assert event.operation == "update"
            assert listener.connection_healthy()
