"""Listeners against a real PostgreSQL and a real WebSocket server: what arrives, and how a connection ends."""

from __future__ import annotations

import asyncio
import datetime
import gc
import logging
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator

import asyncpg
import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.asyncio.server import Server, ServerConnection, serve

from pgcachewatch import listeners, models, strategies, utils
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, EventsLost
from tests.postgres import Database
from tests.waiting import eventually

CHANNEL = models.PGChannel("ch_listeners")
PAYLOAD = '{"operation": "update", "table": "users", "sent_at": "2030-01-01T00:00:00Z"}'


def event(operation: models.OPERATIONS = "update", channel: str = CHANNEL) -> models.Event:
    return models.Event(
        channel=models.PGChannel(channel),
        operation=operation,
        sent_at=datetime.datetime.now(tz=datetime.UTC),
        table="users",
    )


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def other(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database.dsn)
    yield connection
    await connection.close()


async def get(listener: listeners.EventQueue) -> models.Event | None:
    async with asyncio.timeout(30):
        return await listener.get()


async def test_an_event_arrives_equal_to_what_was_emitted(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)
    sent = event()

    await utils.emit_event(other, sent)

    assert await get(listener) == sent


async def test_the_channel_of_a_payload_is_the_one_it_came_by(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)

    await other.execute("SELECT pg_notify($1, $2)", CHANNEL, event(channel="forged").model_dump_json())

    received = await get(listener)
    assert received is not None
    assert received.channel == CHANNEL


async def test_every_event_committed_after_connect_arrives_in_order(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)

    for number in range(200):
        await utils.emit_event(other, event().model_copy(update={"table": f"t{number}"}))

    received = [await get(listener) for _ in range(200)]
    assert [one.table for one in received if one] == [f"t{number}" for number in range(200)]


async def test_a_listener_connects_only_once(connection: asyncpg.Connection) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)

    with pytest.raises(RuntimeError, match="connects only once"):
        await listener.connect(connection, CHANNEL)


async def test_a_connect_that_failed_may_be_tried_again(connection: asyncpg.Connection, database: Database) -> None:
    closed = await asyncpg.connect(database.dsn)
    await closed.close()
    listener = listeners.PGEventQueue()
    with pytest.raises(asyncpg.InterfaceError):
        await listener.connect(closed, CHANNEL)

    await listener.connect(connection, CHANNEL)

    assert listener.connection_healthy()


async def test_a_channel_that_postgresql_would_cut_off_is_refused(connection: asyncpg.Connection) -> None:
    with pytest.raises(ConfigurationError, match="63 bytes"):
        await listeners.PGEventQueue().connect(connection, models.PGChannel("c" * 64))


async def test_get_gives_what_is_left_and_then_none_after_the_program_closed_the_connection(
    connection: asyncpg.Connection,
) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)
    left = event()
    listener.put_nowait(left)

    await connection.close()

    assert [await get(listener), await get(listener), await get(listener)] == [left, None, None]


async def test_a_waiting_get_ends_when_the_program_closes_or_terminates_the_connection(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    for one, end in ((connection, connection.close), (other, other.terminate)):
        listener = listeners.PGEventQueue()
        await listener.connect(one, CHANNEL)
        waiting = asyncio.create_task(get(listener))
        await asyncio.sleep(0)

        ended = end()
        if ended is not None:
            await ended

        assert await waiting is None


async def test_a_loop_over_get_ends_after_an_orderly_close(connection: asyncpg.Connection) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)
    listener.put_nowait(event())
    seen = []

    async def program() -> None:
        while received := await listener.get():
            seen.append(received)

    running = asyncio.create_task(program())
    await asyncio.sleep(0)
    await connection.close()
    async with asyncio.timeout(30):
        await running
    assert len(seen) == 1


async def test_a_waiting_get_raises_when_the_connection_is_lost(
    connection: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)
    waiting = asyncio.create_task(get(listener))
    await asyncio.sleep(0)

    await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())

    with pytest.raises(ConnectionFailed, match=CHANNEL):
        await waiting
    with pytest.raises(ConnectionFailed):
        await get(listener)
    assert not listener.connection_healthy()


@pytest.mark.parametrize("statement", ["UNLISTEN *", "DISCARD ALL", "select 1; unlisten ch_listeners"])
async def test_a_connection_that_was_told_to_stop_listening_is_unhealthy(
    connection: asyncpg.Connection, statement: str
) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)
    await connection.execute("select 'unlisten'")
    await asyncio.sleep(0)
    assert listener.connection_healthy()

    await connection.execute(statement)
    await asyncio.sleep(0)

    assert not listener.connection_healthy()
    with pytest.raises(ConnectionFailed, match="stop listening"):
        await get(listener)


async def test_a_connection_that_was_reset_is_unhealthy(connection: asyncpg.Connection) -> None:
    listener = listeners.PGEventQueue()
    await listener.connect(connection, CHANNEL)

    await connection.reset()

    assert not listener.connection_healthy()


async def test_a_connection_released_to_its_pool_is_unhealthy_and_raises_nothing(database: Database) -> None:
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        listener = listeners.PGEventQueue()
        connection = await pool.acquire()
        await listener.connect(connection, CHANNEL)
        assert listener.connection_healthy()

        with pytest.warns(asyncpg.InterfaceWarning, match="active"):
            await pool.release(connection)

        assert listener.connection_healthy() is False


@pytest.mark.parametrize(
    "payload",
    [
        "no json",
        '"text"',
        "[]",
        "{}",
        PAYLOAD.replace("update", "vacuum"),
        PAYLOAD.replace("2030-01-01T00:00:00Z", "soon"),
        "[" * 50_000,
        b"\xff\xfe",
        "",
    ],
)
def test_what_can_not_be_read_flushes_caches_and_is_told_to_the_reader_once(payload: str | bytes) -> None:
    listener = listeners.PGEventQueue()
    listener.begin(CHANNEL)
    strategy = strategies.Greedy(listener, predicate=lambda event: False)
    listener.receive(PAYLOAD)
    assert listener.get_nowait().table == "users"
    assert not strategy.clear()

    listener.receive(payload)

    assert strategy.clear()
    assert listener.unreadable == 1
    with pytest.raises(EventsLost) as lost:
        listener.get_nowait()
    assert lost.value.reason == "unreadable"
    with pytest.raises(asyncio.QueueEmpty):
        listener.get_nowait()


def test_unreadable_notifications_are_logged_once_per_period(caplog: pytest.LogCaptureFixture) -> None:
    listener = listeners.PGEventQueue()

    with caplog.at_level(logging.WARNING, "pgcachewatch"):
        for _ in range(100):
            listener.receive("no json")

    assert len(caplog.records) == 1
    assert listener.unreadable == 100


def test_a_bounded_queue_that_overflows_tells_its_reader_and_no_cache_misses_anything() -> None:
    listener = listeners.PGEventQueue(max_size=3)
    strategy = strategies.Greedy(listener)
    for _ in range(5):
        listener.put_nowait(event())

    with pytest.raises(EventsLost, match="2 lost"):
        listener.get_nowait()
    assert [listener.get_nowait().operation for _ in range(3)] == ["update"] * 3
    assert [strategy.clear() for _ in range(6)] == [True] * 5 + [False]


def test_a_queue_is_bounded_when_nobody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgcachewatch.aio.queue.QUEUED_EVENTS", 50)
    listener = listeners.PGEventQueue()
    for number in range(1_000):
        listener.put_nowait(number)

    assert listener.qsize() == 51  # what is kept, and the word that something is missing


def test_anything_can_be_put_and_comes_out_as_it_was() -> None:
    listener = listeners.WSEventQueue()
    assert listener.empty()

    for item in (0, "text", None):
        listener.put_nowait(item)

    assert listener.qsize() == 3
    assert [listener.get_nowait() for _ in range(3)] == [0, "text", None]
    assert not listener.full()


async def test_a_reader_and_two_strategies_each_see_every_event() -> None:
    listener = listeners.PGEventQueue()
    first, second = strategies.Greedy(listener), strategies.Greedy(listener)
    await listener.put(event())

    assert [first.clear(), second.clear()] == [True, True]
    assert listener.get_nowait().operation == "update"


async def test_a_get_that_is_cancelled_takes_no_event_with_it() -> None:
    listener = listeners.PGEventQueue()
    cancelled = asyncio.create_task(listener.get())
    waiting = asyncio.create_task(listener.get())
    await asyncio.sleep(0)
    listener.put_nowait(event())
    cancelled.cancel()

    received = await waiting
    assert received is not None
    assert cancelled.cancelled() or await cancelled is None


async def test_an_event_older_than_max_latency_is_logged_and_delivered(caplog: pytest.LogCaptureFixture) -> None:
    listener = listeners.PGEventQueue(max_latency=datetime.timedelta(seconds=1))
    listener.begin(CHANNEL)

    with caplog.at_level(logging.WARNING, "pgcachewatch"):
        listener.receive(PAYLOAD.replace("2030", "2000"))

    assert "max_latency" in caplog.text
    assert listener.get_nowait().table == "users"


def test_a_dropped_strategy_is_not_kept_by_its_listener() -> None:
    listener = listeners.PGEventQueue()
    strategy = strategies.Greedy(listener)
    reference = weakref.ref(strategy)

    del strategy
    gc.collect()
    listener.put_nowait(event())

    assert reference() is None


def test_the_modules_of_the_original_can_be_imported_without_asyncpg() -> None:
    program = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from pgcachewatch import decorators, listeners, models, strategies, utils\n"
        "listeners.PGEventQueue(); listeners.WSEventQueue()"
    )

    subprocess.run([sys.executable, "-c", program], check=True)


# --- over a WebSocket


class Relay:
    """Sends what a test says to whoever connected."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []
        self.server: Server | None = None

    async def __call__(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        await connection.wait_closed()

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"ws://127.0.0.1:{next(iter(self.server.sockets)).getsockname()[1]}/pgpubsub/{CHANNEL}"


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    relay = Relay()
    async with serve(relay, "127.0.0.1", 0) as relay.server:
        yield relay


async def test_events_arrive_over_a_websocket(relay: Relay) -> None:
    async with websocket_connect(relay.url) as ws:
        listener = listeners.WSEventQueue()
        await listener.connect(ws, CHANNEL)
        assert listener.connection_healthy()
        await eventually(lambda: bool(relay.connections))

        await relay.connections[0].send(PAYLOAD)

        received = await get(listener)
        assert received is not None
        assert (received.channel, received.operation) == (CHANNEL, "update")
        with pytest.raises(RuntimeError, match="connects only once"):
            await listener.connect(ws, CHANNEL)


async def test_get_gives_none_after_this_side_closed_the_websocket(relay: Relay) -> None:
    ws = await websocket_connect(relay.url)
    listener = listeners.WSEventQueue()
    await listener.connect(ws, CHANNEL)
    waiting = asyncio.create_task(get(listener))

    await ws.close()

    assert await waiting is None
    assert not listener.connection_healthy()


@pytest.mark.parametrize("code", [1000, 1001, 1012, 4000])
async def test_get_raises_after_the_relay_closed_the_websocket(relay: Relay, code: int) -> None:
    async with websocket_connect(relay.url) as ws:
        listener = listeners.WSEventQueue()
        await listener.connect(ws, CHANNEL)
        strategy = strategies.Greedy(listener)
        await eventually(lambda: bool(relay.connections))

        await relay.connections[0].close(code)

        with pytest.raises(ConnectionFailed, match=CHANNEL):
            await get(listener)
        assert strategy.clear()
        assert not listener.connection_healthy()


async def test_get_raises_after_the_websocket_was_cut(relay: Relay) -> None:
    async with websocket_connect(relay.url) as ws:
        listener = listeners.WSEventQueue()
        await listener.connect(ws, CHANNEL)
        await eventually(lambda: bool(relay.connections))

        relay.connections[0].transport.abort()

        with pytest.raises(ConnectionFailed):
            await get(listener)


def test_a_listener_that_was_never_connected_is_unhealthy() -> None:
    assert not listeners.PGEventQueue().connection_healthy()
    assert not listeners.WSEventQueue().connection_healthy()
