"""100,000 frames of a hostile relay: the client applies or flushes, and never serves past a break of the chain.

The session is the one that ships, with the client's own watch, lease and store on top. A second reading of the chain,
made here from the bare JSON, says which frames must break it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from pgcachewatch.aio.watch import CacheReader, Watch
from pgcachewatch.core.store import Store
from pgcachewatch.core.trust import Trust
from pgcachewatch.models import EVERYTHING, Position, Scope
from pgcachewatch.protocol.client_session import Advance, ClientSession, CloseWith, Delivery, Flush
from pgcachewatch.testing import FakeRelay
from tests.client.virtual_time import virtual_time
from tests.conformance.hostile import Frame, Hostile, Json

FRAMES = 50_000
WHOLE_CLIENT_FRAMES = 2_000
EPOCH, OTHER_EPOCH = "00000000000000aa", "00000000000000bb"
NOW_S = 100.0
CLOSE_REASON_BYTES = 123  # RFC 6455, 5.5.1
LINK_LOST_EVERY = 37
WELCOME = {"t": "welcome", "e": EPOCH, "s": 5, "resumed": False, "now": 1000.0, "hb_ms": 500, "node": "n", "caps": []}


def valid(cursor: Position | None) -> list[Json]:
    """What a relay may say to a client whose cursor stands here: most of it moves nothing or goes on from there."""
    epoch, seq = (cursor.epoch, cursor.seq) if cursor is not None else (EPOCH, 0)
    return [
        {"t": "ev", "p": seq, "s": seq + 1, "i": [[1, "u", "7"]]},
        {"t": "ev", "p": seq, "s": seq + 1, "i": [[0, "*", None]]},
        {"t": "ev", "p": seq, "s": seq + 2, "i": []},
        {"t": "mark", "p": seq, "s": seq},
        {"t": "mark", "p": seq, "s": seq + 3, "as_of": 1000.0},
        {"t": "mark", "p": seq, "s": seq, "as_of": 1e12},
        {"t": "reset", "e": epoch, "s": seq, "scope": {"channel": "c", "table": "orders", "schema": "public"}},
        {"t": "reset", "e": OTHER_EPOCH, "s": 3},
        {"t": "stale", "since": 5.0, "reason": "connection_lost"},
        {"t": "barrierok", "id": 3, "s": seq},
        {"t": "pong", "id": 2**40 + 1, "now": 2000.0},
        {"t": "err", "id": 9, "code": "unknown_id", "message": "no", "retry": False, "after_ms": 5},
        {"t": "bye", "code": 4000, "after_ms": 1, "jitter_ms": 2},
        {"t": "subok", "id": 1, "sid": 2, "s": seq},
        WELCOME,
        {"t": "dance", "id": 5},
    ]


class Client:
    """A session, and what it keeps up to date: the lease, one entry, and one run of the function."""

    def __init__(self) -> None:
        self.watch = Watch(staleness_s=2.0, clock=lambda: NOW_S)
        self.trust = Trust()
        self.store: Store[str, None] = Store(self.trust)
        self.reader = CacheReader(self.store, self.trust, watch=self.watch, label="fuzzed")
        self.watch.add_cache(self.reader)
        self.watch.subscriptions.add(self.reader, [Scope("c", "users")])
        self.cursor: Position | None = None
        self.connect()

    def connect(self) -> None:
        self.watch.begin_connection()
        self.session = ClientSession(subscriptions=self.watch.wanted(), resume=self.cursor)
        self.session.hello(now_s=NOW_S)
        self.session.ping(now_s=NOW_S)

    def be_welcomed(self) -> None:
        """The handshake as it should be; a client with a cursor is resumed."""
        epoch, seq = (self.cursor.epoch, self.cursor.seq) if self.cursor is not None else (EPOCH, 5)
        answers = [f'{{"t":"subok","id":{sub.id},"sid":1,"s":{seq}}}' for sub in self.watch.wanted()]
        is_resumed = "false" if self.cursor is None else "true"
        self.apply(
            f'[{{"t":"welcome","e":"{epoch}","s":{seq},"resumed":{is_resumed},"now":1000,"hb_ms":500,"node":"n"}},'
            f'{"".join(answer + "," for answer in answers)}{{"t":"mark","p":{seq},"s":{seq},"as_of":1000}}]'
        )
        assert self.session.is_open

    def apply(self, frame: Frame) -> list[Delivery]:
        deliveries = self.session.receive(frame)
        for delivery in deliveries:
            self.watch.apply(delivery)
        self.cursor = self.session.cursor
        return deliveries

    def warm(self) -> None:
        if self.reader.is_live and self.store.lookup("entry") is None:
            assert self.store.finish(self.store.begin("entry", now=NOW_S, run=None), "value")

    @property
    def is_servable(self) -> bool:
        return self.store.lookup("entry") is not None and self.trust.lease > NOW_S


class Trial:
    """Feeds a client, judges each outcome, and counts."""

    def __init__(self) -> None:
        self.client = Client()
        self.client.be_welcomed()
        self.broken = self.broken_while_warm = self.kept = self.flushed = 0

    def take(self, frame: Frame) -> None:
        client = self.client
        client.warm()
        was_servable, was_open, before = client.is_servable, client.session.is_open, client.cursor
        running = client.store.begin("running", now=NOW_S, run=None)
        deliveries = client.apply(frame)
        closing = [delivery for delivery in deliveries if isinstance(delivery, CloseWith)]
        if was_open and must_break(frame, before):
            assert closing, f"the chain broke unseen at {before}: {frame!r}"
        if closing:
            self._judge_end(deliveries)
            self.broken_while_warm += was_servable
        elif any(isinstance(delivery, Flush) and delivery.scope == EVERYTHING for delivery in deliveries):
            self.flushed += 1
            assert not client.is_servable
        else:
            assert not (client.is_servable and must_drop(frame)), f"a change was not applied: {frame!r}"
            self.kept += client.is_servable
        is_kept = client.store.lookup("entry") is not None
        is_stored = client.store.finish(running, "value")
        assert not (is_stored and (closing or was_servable > is_kept)), "a run from before it was stored after it"
        assert not [each for each in deliveries if isinstance(each, Advance) and each.position.seq < 0]

    def _judge_end(self, deliveries: list[Delivery]) -> None:
        """Whatever came before in its frame: a violation ends with a flush of everything, and nothing is kept."""
        client = self.client
        flush, close = deliveries[-2:]
        assert isinstance(flush, Flush)
        assert flush.scope == EVERYTHING
        assert isinstance(close, CloseWith)
        assert close.code in (4300, 4308)
        assert len(close.reason.encode()) <= CLOSE_REASON_BYTES
        assert client.session.cursor is None
        assert client.session.receive(json.dumps(WELCOME)) == []
        assert not client.is_servable
        self.broken += 1

    def go_on(self, number: int, hostile: Hostile) -> None:
        """A connection for the next frame: mostly a good one, now and then one that is welcomed in a hostile way."""
        client = self.client
        if number % LINK_LOST_EVERY == 0:
            client.session.close()
        if client.session.is_open:
            return
        if not client.watch.wanted():  # the relay refused what there was to ask for
            client = self.client = Client()
        client.connect()
        if number % 10 == 0:
            self.take(hostile.of([WELCOME, {**WELCOME, "resumed": True}, {**WELCOME, "e": OTHER_EPOCH}]))
        if not client.session.is_open:
            client.connect()
            client.be_welcomed()


def must_break(frame: Frame, cursor: Position | None) -> bool:
    """True for a frame that can not be read, or whose first messages are of the chain and do not follow the cursor."""
    seq = cursor.seq if cursor is not None else None
    try:
        for message in chained(frame):
            previous, following = message.get("p"), message.get("s")
            if previous != seq or type(following) is not int or following < previous:
                return True
            seq = following
    except (ValueError, RecursionError):
        return True
    return False


def must_drop(frame: Frame) -> bool:
    """True for a frame that broke nothing and first of all says that users or everything changed."""
    return any(item[0] in (0, 1) for message in chained(frame) if message["t"] == "ev" for item in message["i"])


def chained(frame: Frame) -> Iterator[Json]:
    """The messages of the chain up to the first that is none. Raises what the JSON reader does."""
    content = json.loads(frame)
    for message in content if isinstance(content, list) else [content]:
        if not isinstance(message, dict) or message.get("t") not in ("ev", "mark"):
            return
        yield message


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pgcachewatch")  # thousands of refusals would be thousands of lines


@pytest.mark.rule("W-FRAME-1")
@pytest.mark.rule("W-FRAME-2")
async def test_random_frames_of_a_relay_end_the_connection_with_a_flush() -> None:
    trial, hostile = Trial(), Hostile(seed=3)
    for number in range(FRAMES):
        trial.go_on(number, hostile)
        trial.take(hostile.random_frame())
    assert trial.broken_while_warm > FRAMES * 0.8


@pytest.mark.rule("W-CHAIN-1")
@pytest.mark.rule("W-FRAME-3")
@pytest.mark.rule("W-FORWARD-1")
@pytest.mark.rule("W-FORWARD-2")
async def test_mutated_frames_of_a_relay_are_applied_or_flush_everything() -> None:
    trial, hostile = Trial(), Hostile(seed=4)
    for number in range(FRAMES):
        trial.go_on(number, hostile)
        trial.take(hostile.of(valid(trial.client.cursor)))
    assert trial.broken_while_warm > FRAMES * 0.3
    assert trial.kept > FRAMES * 0.1
    assert trial.flushed > FRAMES * 0.01


def test_what_a_relay_wrote_fits_the_close_that_quotes_it() -> None:
    client = Client()
    client.be_welcomed()
    (_, close) = client.apply('"' + "ü" * 1_000 + '"')
    assert isinstance(close, CloseWith)
    assert "üü" in close.reason
    assert len(close.reason.encode()) <= CLOSE_REASON_BYTES


@virtual_time
async def test_a_whole_client_is_live_and_right_again_after_each_hostile_frame() -> None:
    relay, hostile = FakeRelay(), Hostile(seed=5)
    database, hits = 0, 0
    refusals: tuple[str, ...] = ()
    async with relay.connect() as client:

        async def read() -> int:
            return database

        cached = client.cache(read, tables=["users"])
        for _ in range(WHOLE_CLIENT_FRAMES):
            await client.wait_live()
            assert await cached() == database
            frame = hostile.of(valid(client.status.position))
            assert isinstance(frame, str)
            relay.send(frame)
            await asyncio.sleep(0)
            hits += cached.cache_contains()
            database += 1
            relay.emit("users")
            assert await cached() == database, f"stale after {frame!r}"
            if client.status.refusals != refusals:
                refusals = client.status.refusals
                cached = client.cache(read, tables=["users"])  # it was refused its subscription: ask for another
        assert client.status.gaps > WHOLE_CLIENT_FRAMES * 0.3
        assert hits > WHOLE_CLIENT_FRAMES * 0.1
