"""What leaves for real sockets: shared bytes in slices, what one has of its own, full sockets and lost ones."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from pgcachewatch.models import Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon import departures
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.departures import DEFLATED, Departures, pack_deflated
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane
from pgcachewatch_daemon.io.websocket import (
    Connection,
    HttpRequest,
    SocketLimits,
    SocketStats,
    WebSocketServer,
    text_frame,
)
from tests.daemon.core.test_hub import event
from tests.daemon.io.websocket.site import Site, handshake
from tests.waiting import eventually


@dataclass
class Door:
    """An application that lets everybody in: `/stream` in stream mode, any other path to be invalidated."""

    outbox: OutboxLimits
    hub: Hub = field(init=False)
    departures: Departures = field(init=False)
    stats: SocketStats = field(default_factory=SocketStats)
    subscribers: list[Subscriber] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hub = Hub(
            MemoryBackplane(lambda: "e" * 16),
            History(HistoryLimits()),
            HubSettings("node", 500.0, self.outbox),
            framing=Framing(text_frame),
            on_dirty=lambda: self.departures.schedule(),
        )
        self.departures = Departures(self.hub, self.stats)

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        if connection.check_upgrade(None):
            connection.upgrade()
            mode = "stream" if request.path == "/stream" else "invalidate"
            wish = Subscription(sid=1, id=1, channel="c1", mode=mode)  # type: ignore[arg-type]  # one of two words
            subscriber = self.hub.join(messages.Hello(), [wish], now_ms=0.0)
            subscriber.shell = connection.visitor = connection
            subscriber.write = connection.write
            self.subscribers.append(subscriber)

    def of(self, connection: Connection) -> Subscriber:
        return next(each for each in self.subscribers if each.shell is connection)

    def received(self, connection: Connection, frame: str | bytes) -> None:
        self.hub.send(self.of(connection), json.dumps({"t": "pong", "id": 1, "now": 0.0}))

    def expired(self, connection: Connection) -> None: ...

    def filled(self, connection: Connection) -> None:
        self.hub.filled(self.of(connection))

    def drained(self, connection: Connection) -> None:
        self.departures.write_own(self.of(connection))

    def gone(self, connection: Connection) -> None:
        self.hub.leave(self.of(connection))

    def publish(self, count: int, padding: str = "") -> None:
        for _ in range(count):
            change = event("c1", "users", f"k{padding}")
            self.hub.publish(change, channel="c1", payload="", now_s=0.0)
            self.departures.published(change)


@asynccontextmanager
async def serving(outbox: OutboxLimits | None = None, **limits: float) -> AsyncIterator[tuple[Door, Site]]:
    door = Door(outbox or OutboxLimits())
    sockets = SocketLimits(**limits)  # type: ignore[arg-type]  # ints and floats
    server = WebSocketServer(door, sockets, clock=asyncio.get_running_loop().time, stats=door.stats)
    await server.start("127.0.0.1", 0)
    try:
        yield door, Site(server, door)  # type: ignore[arg-type]  # another application
    finally:
        await server.close()


async def sequences(client: ClientConnection, upto: int) -> list[int]:
    """Sequences of the events read until the chain reaches `upto`; asserts that it is unbroken."""
    found, cursor = [], None
    while cursor is None or cursor < upto:
        message = json.loads(await client.recv())
        if message["t"] in ("ev", "mark"):
            assert cursor in (None, message["p"]), "the chain broke"
            cursor = message["s"]
        if message["t"] == "ev":
            found.append(message["s"])
    return found


async def test_everybody_in_step_is_written_in_slices_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "SLICE_WRITES", 2)
    async with serving() as (door, site):
        clients = [await connect(site.url, proxy=None) for _ in range(5)]
        await eventually(lambda: not any(each.outbox for each in door.subscribers) and len(door.subscribers) == 5)
        before = door.stats.writes
        for _ in range(10):
            door.publish(3)
            await asyncio.sleep(0)
        for client in clients:
            assert await sequences(client, 30) == list(range(1, 31))
        assert door.stats.writes - before < 5 * 30, "what gathers leaves in one write"
        for client in clients:
            await client.close()


async def test_an_answer_comes_behind_the_events_before_it_and_ahead_of_those_behind_it() -> None:
    async with serving() as (door, site), connect(site.url, proxy=None) as client:
        await eventually(lambda: len(door.subscribers) == 1 and door.subscribers[0].outbox is None)
        door.publish(1)
        door.hub.send(door.subscribers[0], '{"t":"pong","id":7,"now":0.0}')
        door.publish(1)
        kinds: list[object] = []
        while kinds[-1:] != [2]:
            message = json.loads(await client.recv())
            kinds += [message["s"] if message["t"] == "ev" else "pong"] if message["t"] in ("ev", "pong") else []
        assert kinds == [1, "pong", 2]


@pytest.mark.rule("W-SLOW-1")
async def test_a_reader_that_stops_is_apart_and_bounded_and_reads_on_when_it_can() -> None:
    limits = OutboxLimits(bytes=20_000)
    async with serving(limits, send_buffer_bytes=4_096) as (door, site), connect(site.url, proxy=None) as quick:
        reader, writer = await handshake(site, receive_buffer=4_096)
        await eventually(lambda: len(door.subscribers) == 2 and not any(each.outbox for each in door.subscribers))
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # a read transport
        slow = door.subscribers[1]
        published = 0
        while slow.outbox is None or not slow.outbox.is_conflating:
            door.publish(20, padding="x" * 200)
            published += 20
            assert await sequences(quick, published) == list(range(published - 19, published + 1))
            assert slow.outbox is None or slow.outbox.size_bytes <= limits.bytes + 1_000
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        data = b""
        while b'"p":%d,"s":%d' % (published, published) not in data:
            data = (data + await reader.read(65_536))[-100_000:]
        await eventually(lambda: slow.outbox is None)
        writer.close()


@pytest.mark.rule("W-SLOW-2")
async def test_a_stream_is_written_before_it_would_be_too_much() -> None:
    async with serving(OutboxLimits(bytes=5_000)) as (door, site), connect(site.url + "/stream", proxy=None) as client:
        await eventually(lambda: len(door.subscribers) == 1 and door.subscribers[0].outbox is None)
        door.publish(500)
        assert await sequences(client, 500) == list(range(1, 501))
        assert door.hub.stats.overflowed_streams == 0


async def test_a_burst_is_not_conflated_for_who_keeps_up() -> None:
    async with serving(OutboxLimits(bytes=60_000, keys=4)) as (door, site), connect(site.url, proxy=None) as client:
        await eventually(lambda: len(door.subscribers) == 1 and door.subscribers[0].outbox is None)
        door.publish(800, padding="x" * 50)  # 80 kB in one iteration of the loop
        assert await sequences(client, 800) == list(range(1, 801))
        assert door.hub.stats.conflated_key == 0


async def test_a_close_comes_behind_what_is_pending() -> None:
    async with serving() as (door, site), connect(site.url, proxy=None) as client:
        await eventually(lambda: len(door.subscribers) == 1)
        door.hub.publish(Gap(Scope("c1"), "forced"), channel="c1", payload="", now_s=0.0)
        door.hub.send_away(door.subscribers[0], 4000, reason="go", jitter_ms=0.0)
        assert await sequences(client, 1) == [1]
        assert json.loads(await client.recv())["t"] == "bye"
        await client.wait_closed()
        assert client.close_code == 4000


async def test_a_socket_that_is_lost_while_it_is_written_harms_nobody() -> None:
    async with serving() as (door, site), connect(site.url, proxy=None) as client:
        _, writer = await handshake(site)
        await eventually(lambda: len(door.subscribers) == 2)
        lost: socket.socket = writer.get_extra_info("socket")
        lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()
        for published in itertools.count(1):
            door.publish(1)
            assert await sequences(client, published) == [published]
            if door.hub.stats.clients == 1:
                break


def unpacked(data: bytes) -> list[list[object]]:
    """The frames in `data` as the library's client reads them, each with its messages."""
    client = ClientProtocol(parse_uri("ws://relay/"), state=OPEN, max_size=messages.RELAY_FRAME_BYTES)
    client.extensions = [PerMessageDeflate(True, True, 15, 15)]
    client.receive_data(data)
    frames = [frame for frame in client.events_received() if isinstance(frame, Frame)]
    contents = [json.loads(bytes(frame.data)) for frame in frames]
    return [content if isinstance(content, list) else [content] for content in contents]


def test_the_texts_of_one_write_are_packed_into_one_compressed_frame() -> None:
    texts = [b'{"t":"ev","p":%d,"s":%d}' % (number, number + 1) for number in range(100)]
    data = pack_deflated(texts)
    assert unpacked(data) == [[json.loads(text) for text in texts]]
    assert len(data) < sum(map(len, texts)) / 4


def test_a_short_text_is_packed_as_it_is() -> None:
    assert pack_deflated([b"{}"]) == text_frame("{}")
    assert pack_deflated([]) == b""


@pytest.mark.rule("W-LIMIT-2")
@given(st.lists(st.integers(100, 400_000), max_size=9))
@settings(max_examples=30, deadline=None)
def test_what_is_packed_stays_within_the_limit_of_a_frame(sizes: list[int]) -> None:
    texts = [json.dumps("x" * size).encode() for size in sizes]
    frames = unpacked(pack_deflated(texts))
    assert [text for frame in frames for text in frame] == [json.loads(text) for text in texts]


@pytest.mark.rule("W-FRAME-1")
async def test_compressed_and_plain_readers_are_told_the_same() -> None:
    async with serving() as (door, site), connect(site.url, proxy=None) as plain:
        await eventually(lambda: len(door.subscribers) == 1)
        wish = Subscription(sid=1, id=1, channel="c1")
        deflated = door.hub.join(messages.Hello(), [wish], now_ms=0.0, framing=DEFLATED)
        door.publish(20)
        read = [text for frame in unpacked(pack_deflated(deflated.drain())) for text in frame]
        told = [await plain.recv() for _ in read]
    assert [json.loads(text) for text in told] == read


async def test_the_way_of_a_burst_is_measured_once_and_only_when_somebody_is_told() -> None:
    async with serving() as (door, site):
        door.publish(3)  # nobody is there
        door.departures.flush()
        assert sum(door.departures.seconds.counts) == 0

        async with connect(site.url, proxy=None) as client:
            await eventually(lambda: len(door.subscribers) == 1 and not door.hub.has_work)
            door.publish(3)
            await sequences(client, upto=6)
            await eventually(lambda: sum(door.departures.seconds.counts) == 1)
            door.publish(1)
            door.departures.flush_all()
            assert sum(door.departures.seconds.counts) == 2
            sent_at = event("c1", "users", "k").sent_at
            age_s = (datetime.datetime.now(tz=datetime.UTC) - sent_at).total_seconds()
            assert door.departures.seconds.total == pytest.approx(max(0.0, age_s) * 2, abs=60.0)


async def test_a_clock_that_is_ahead_counts_as_no_time() -> None:
    async with serving() as (door, site), connect(site.url, proxy=None):
        await eventually(lambda: len(door.subscribers) == 1)
        ahead = datetime.datetime.now(tz=datetime.UTC) + datetime.timedelta(hours=1)
        change = event("c1", "users", "k").model_copy(update={"sent_at": ahead})
        door.hub.publish(change, channel="c1", payload="", now_s=0.0)
        door.departures.published(change)
        door.departures.flush_all()
        assert door.departures.seconds.total == 0.0
        assert door.departures.seconds.counts[0] == 1
