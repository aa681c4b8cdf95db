"""A relay in memory, for the tests of programs that use this package. No network, no database, no sleeping.

    from pgcachewatch.testing import FakeRelay, fake_relay  # fake_relay is a pytest fixture

    async def test_price_is_read_again_after_an_update(fake_relay: FakeRelay) -> None:
        async with fake_relay.connect() as client:
            price = client.cache(read_price, tables=["prices"])
            await client.wait_live()
            await price("book")
            fake_relay.emit("prices", "update")
            await price("book")  # runs read_price again

What a test does takes effect before the call returns: after `emit` the entry is gone, after `drop` the link is. Only
coming back (`restore`) needs the event loop: `await client.wait_live()`. The real client runs on top, with the real
session, codec and protocol; the fake speaks frames, and takes the relay's place alone.

Time stands still, so that a lease never ends because a test is slow: `advance` moves it. Bounds: EVENTS_KEPT for
resume, after which a client that comes back is told to flush, as by a real relay.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pgcachewatch.aio.connection import Link, LinkLost, LinkRefused, Receiver
from pgcachewatch.core.keytext import ANY_TYPE, key_of, text_of
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import DEFAULT_PG_CHANNEL, OPERATIONS
from pgcachewatch.protocol import codec, messages, relay_session

if TYPE_CHECKING:
    from pgcachewatch.aio.connecting import Connecting
    from pgcachewatch.threads import Client as SyncClient

URL = "ws://fake-relay.invalid"
EVENTS_KEPT = 10_000
STARTED_S = 1_000.0  # what the client's clock shows first
RELAY_AHEAD_S = 5_000.0  # the relay's clock starts elsewhere, as in life
HEARTBEAT_S = 0.5
LOOP_ANSWER_S = 10.0
FIRST_XID = 1_000


@dataclass(frozen=True, slots=True)
class FakeEvent:
    """One change as the fake remembers it."""

    seq: int
    channel: str
    table: str
    schema: str | None
    operation: OPERATIONS
    keys: tuple[str, ...] | None
    columns: Mapping[str, tuple[str, ...]]  # texts of columns, for those who tell rows apart by them
    sent_at: datetime.datetime
    xid: int


class FakeRelay:
    """One relay and the database behind it. Use it from the thread of the client's event loop, or from any other."""

    def __init__(self) -> None:
        self.connects = 0
        self._now_s = STARTED_S
        self._epochs = itertools.count(1)
        self._epoch = self._next_epoch()
        self._seq = 0
        self._kept: collections.deque[FakeEvent] = collections.deque(maxlen=EVENTS_KEPT)
        self._next_xid = FIRST_XID
        self._forgotten_to = 0  # events up to here can not be replayed
        self._links: list[_FakeLink] = []
        self._is_up = True
        self._has_source = True
        self._is_mute = False
        self._refusal: LinkRefused | None = None
        self._up_again: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._lock = threading.RLock()

    # --- connecting

    def connect(self, *_url: object, **options: Any) -> Connecting:  # Any: the options of pgcachewatch.connect
        """As `pgcachewatch.connect`, to this relay: a url is accepted and not used, so it can stand in for it:
        `monkeypatch.setattr(pgcachewatch, "connect", fake_relay.connect)`.
        """
        from pgcachewatch.aio.connecting import connect_over

        return connect_over([URL], open_link=self.open_link, clock=self.clock, chance=lambda: 0.0, **options)

    def connect_sync(self, *_url: object, **options: Any) -> SyncClient:  # Any: the options of sync.connect
        """As `pgcachewatch.sync.connect`, to this relay."""
        from pgcachewatch.threads import connect_over

        return connect_over([URL], open_link=self.open_link, clock=self.clock, chance=lambda: 0.0, **options)

    def clock(self) -> float:
        """The client's monotonic clock, in seconds."""
        return self._now_s

    async def open_link(self, url: str, receiver: Receiver) -> Link:
        """The OpenLink of this relay: waits while the relay is dropped."""
        while not self._is_up:
            loop = asyncio.get_running_loop()
            waiting: asyncio.Future[None] = loop.create_future()
            self._up_again.append((loop, waiting))
            await waiting
        if self._refusal is not None:
            raise self._refusal
        link = _FakeLink(self, receiver)
        with self._lock:
            self._links.append(link)
            self.connects += 1
        return link

    # --- what a test does

    def emit(
        self,
        table: str,
        operation: OPERATIONS = "update",
        *,
        key: str | Sequence[str] | None = None,
        schema: str | None = "public",
        channel: str = DEFAULT_PG_CHANNEL,
        xid: int | None = None,
        **columns: object,
    ) -> int:
        """Commit a change of `table`. When this returns every connected client has applied it.

        `id=5` says which row: columns of its key, or further ones, with a value or a list of old and new ones. `key` is
        the same as text, of one row or several; without either the change names no row, and drops what depends on any
        row of the table. While the link is dropped the event is remembered, and replayed when the client resumes.

        Returns the transaction that made the change: `xid`, or the next one. `snapshot()` is what a read sees now.
        """
        if operation not in messages.OP_CODES:
            raise ConfigurationError(f"operation {operation!r} is not one of {', '.join(messages.OP_CODES)}")
        with self._lock:
            self._seq += 1
            xid = self._next_xid if xid is None else xid
            self._next_xid = max(self._next_xid, xid + 1)
            keys = None if key is None else (key,) if isinstance(key, str) else tuple(key)
            texts = {name: _texts(value) for name, value in columns.items()}
            now = datetime.datetime.now(tz=datetime.UTC)
            event = FakeEvent(self._seq, channel, table, schema, operation, keys, texts, now, xid)
            if len(self._kept) == EVENTS_KEPT:
                self._forgotten_to = self._kept[0].seq
            self._kept.append(event)
            self._each(lambda link: link.tell(event, self._epoch))
        return xid

    def snapshot(self) -> str:
        """What `pg_current_snapshot()::text` would say to a read that begins now, for `pgcachewatch.read_in`."""
        return f"{self._next_xid}:{self._next_xid}:"

    def drop(self) -> None:
        """Cut every link, and let nobody in until `restore`. Hits go on until the lease ends."""
        with self._lock:
            self._is_up = False
            links, self._links = self._links, []
        for link in links:
            link.on_loop(link.cut)

    def restore(self, *, forget: bool = False) -> None:
        """Let clients in again. They resume and keep what they cached, unless the relay is to `forget` its history.

        Wait for them with `await client.wait_live()`.
        """
        with self._lock:
            if forget:
                self._forget()
            self._is_up, self._is_mute = True, False
            waiting, self._up_again = self._up_again, []
        for loop, future in waiting:
            loop.call_soon_threadsafe(_let_in, future)

    def lose_source(self) -> None:
        """The relay loses PostgreSQL: it says `stale`, and proves nothing until `gap`."""
        with self._lock:
            self._has_source = False
            stale = codec.encode(messages.Stale(since=self.relay_ms(), reason="the test said so"))
            self._each(lambda link: link.push(stale))

    def gap(self) -> None:
        """Continuity is lost, and the relay has PostgreSQL again: a new epoch. Clients flush what they cached."""
        with self._lock:
            self._has_source = True
            self._forget()
            self._each(lambda link: link.reset(self._epoch, self._seq))

    def mute(self) -> None:
        """Say nothing any more, on links that look healthy: a half-open socket. `restore` after `drop` ends it."""
        self._is_mute = True

    def refuse(self, status: int, *, retry_after_s: float = 0.0) -> None:
        """Answer each further attempt to connect with this HTTP status; 0 ends that."""
        self._refusal = LinkRefused(status, retry_after_s=retry_after_s) if status else None

    def advance(self, seconds: float) -> None:
        """Let time pass. A connected client hears a mark with fresh proof at the end of it, as it would in life."""
        with self._lock:
            self._now_s += seconds
            self._each(lambda link: link.prove())

    def send(self, frame: str) -> None:
        """Send this very frame to every client, to see how it takes what a relay should not say."""
        self._each(lambda link: link.push(frame))

    def close(self, code: int, reason: str = "") -> None:
        """Close every link in an orderly way, with a code of PROTOCOL.md; clients may come back at once."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.on_loop(functools.partial(link.cut, code, reason))

    # --- for the links

    @property
    def is_mute(self) -> bool:
        return self._is_mute

    @property
    def has_source(self) -> bool:
        return self._has_source

    @property
    def head(self) -> tuple[str, int]:
        """Epoch and sequence of the newest event."""
        return self._epoch, self._seq

    def relay_ms(self) -> float:
        """The relay's own clock."""
        return (self._now_s + RELAY_AHEAD_S) * 1000

    def since(self, resume: messages.Resume | None) -> list[FakeEvent] | None:
        """What a client that resumes has missed; None when that is not known."""
        if resume is None or resume.e != self._epoch or not self._forgotten_to <= resume.s <= self._seq:
            return None
        return [event for event in self._kept if event.seq > resume.s]

    def gone(self, link: _FakeLink) -> None:
        with self._lock:
            if link in self._links:
                self._links.remove(link)

    def _forget(self) -> None:
        self._epoch = self._next_epoch()
        self._kept.clear()
        self._forgotten_to = self._seq

    def _next_epoch(self) -> str:
        return f"{next(self._epochs):016x}"

    def _each(self, act: Callable[[_FakeLink], None]) -> None:
        for link in list(self._links):
            link.on_loop(functools.partial(act, link))


class _FakeLink:
    """One connection, relay end and wire in one. Delivers into the client in the same step."""

    def __init__(self, relay: FakeRelay, receiver: Receiver) -> None:
        self._relay = relay
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._session = relay_session.RelaySession(default_channel=DEFAULT_PG_CHANNEL)
        self._subscriptions: list[relay_session.Subscription] = []
        self._barriers: list[int] = []
        self._cursor = 0
        self._is_cut = False

    # --- the client's side: a Link

    def send(self, text: str) -> None:
        # Answered in a step of its own, as over a network: a client must not be called while it calls.
        self._loop.call_soon(self._take, text)

    def abort(self) -> None:
        self._is_cut = True
        self._relay.gone(self)

    async def close(self, code: int, reason: str) -> None:
        self.abort()

    # --- the relay's side

    def on_loop(self, act: Callable[[], None]) -> None:
        """Run `act` on the client's loop, and return when it is done."""
        if threading.get_ident() == self._thread:
            act()
            return

        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(LOOP_ANSWER_S)

    def push(self, frame: str) -> None:
        if not self._is_cut and not self._relay.is_mute and self._session.is_open:
            self._receiver.receive(frame)

    def cut(self, code: int | None = None, reason: str = "cut by the test") -> None:
        if not self._is_cut:
            self._is_cut = True
            self._receiver.lost(LinkLost(code, reason))

    def tell(self, event: FakeEvent, epoch: str) -> None:
        """The event, and a mark behind it."""
        items = [item for one in self._subscriptions for item in _items(event, one)]
        if items and self._session.is_open:
            previous, self._cursor = self._cursor, event.seq
            self.push(codec.encode_ev(previous, event.seq, items))
        self.prove()

    def prove(self) -> None:
        """A mark: position, and freshness as of now while the relay has its source."""
        if not self._session.is_open:
            return
        as_of_ms = self._relay.relay_ms() if self._relay.has_source else None
        has_stamps = as_of_ms is not None and any(one.has_stamps for one in self._subscriptions)
        # Twice with stamps, because the client takes the first for one that was under way (W-STAMP-3).
        for snapshot in [self._relay.snapshot()] * 2 if has_stamps else [None]:
            previous, self._cursor = self._cursor, self._relay.head[1]
            self.push(codec.encode_mark(previous, self._cursor, as_of_ms, snapshot))
        if self._relay.has_source:
            for identity in self._barriers:
                self.push(codec.encode(messages.Barrierok(id=identity, s=self._cursor)))
            self._barriers.clear()

    def reset(self, epoch: str, seq: int) -> None:
        self._cursor = seq
        self.push(codec.encode(messages.Reset(e=epoch, s=seq)))
        self.prove()

    def _take(self, text: str) -> None:
        if self._is_cut or self._relay.is_mute:
            return
        for effect in self._session.receive(text, now_ms=self._relay.relay_ms()):
            self._act(effect)

    def _act(self, effect: relay_session.Effect) -> None:
        match effect:
            case relay_session.Send(frame):
                self.push(frame)
            case relay_session.Opened(hello, subscriptions):
                self._open(hello, subscriptions)
            case relay_session.Subscribed(subscription):
                self._subscriptions.append(subscription)
                self._grant(subscription)
                self.prove()
            case relay_session.Unsubscribed(sid):
                self._subscriptions = [one for one in self._subscriptions if one.sid != sid]
            case relay_session.BarrierRequested(identity, _):
                self._barriers.append(identity)
                self.prove()
            case relay_session.CloseWith(code, reason):
                self.cut(code, reason)
            case relay_session.TokenOffered() | relay_session.Acknowledged():
                pass
            case relay_session.TakerJoined(_, consume):
                self._session.refused(consume.id)
                text = "a fake relay has no database to keep a consumer's place in"
                self.push(codec.encode(messages.Err(id=consume.id, code="no_consumers", message=text)))
            case relay_session.JobsDone() | relay_session.JobsFailed():
                pass

    def _open(self, hello: messages.Hello, subscriptions: Sequence[relay_session.Subscription]) -> None:
        epoch, head = self._relay.head
        missed = self._relay.since(hello.resume)
        self._subscriptions = list(subscriptions)
        self._cursor = hello.resume.s if missed is not None and hello.resume is not None else head
        self.push(
            codec.encode(
                messages.Welcome(
                    e=epoch,
                    s=head,
                    resumed=missed is not None,
                    now=self._relay.relay_ms(),
                    hb_ms=HEARTBEAT_S * 1000,
                    node="fake",
                )
            )
        )
        for subscription in subscriptions:
            self._grant(subscription)
        for event in missed or ():
            items = [item for one in self._subscriptions for item in _items(event, one)]
            if items:
                previous, self._cursor = self._cursor, event.seq
                self.push(codec.encode_ev(previous, event.seq, items))
        self.prove()

    def _grant(self, subscription: relay_session.Subscription) -> None:
        seq = self._relay.head[1]
        types = None if subscription.columns is None else [ANY_TYPE] * len(subscription.columns)
        self.push(codec.encode(messages.Subok(id=subscription.id, sid=subscription.sid, s=seq, types=types)))


def _let_in(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _items(event: FakeEvent, subscription: relay_session.Subscription) -> Iterator[codec.Item]:
    op = messages.OP_CODES[event.operation]
    keys = subscription.keys
    if (
        subscription.channel != event.channel
        or subscription.table not in (None, event.table)
        or (None not in (subscription.schema, event.schema) and subscription.schema != event.schema)
        or (subscription.ops is not None and op not in subscription.ops)
        or (keys is not None and event.keys is not None and keys.isdisjoint(event.keys))
    ):
        return
    told = _keys(event, subscription.columns)
    if subscription.mode == "invalidate":
        for key in told:
            if subscription.has_stamps:
                yield (subscription.sid, op, key, {"x": event.xid})
            else:
                yield (subscription.sid, op, key)
        return
    detail: dict[str, object] = {"table": event.table, "sent_at": event.sent_at.isoformat()}
    if event.schema is not None:
        detail["schema"] = event.schema
    if told != (None,):
        detail["keys"] = list(told)
    yield (subscription.sid, op, event.keys[0] if event.keys and len(event.keys) == 1 else None, detail)


def _keys(event: FakeEvent, columns: Sequence[str] | None) -> tuple[str | None, ...]:
    """Which rows an event says changed, to one who tells them apart by `columns`; None for any row."""
    if columns is not None and not columns:
        return (None,)
    names = tuple(event.columns) if columns is None else columns
    if names and set(names) <= event.columns.keys():
        return tuple(map(key_of, itertools.product(*(event.columns[name] for name in names))))
    return event.keys or (None,)


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    return tuple(text_of(one, ANY_TYPE) for one in values)


try:
    import pytest
except ImportError:  # FakeRelay serves any test runner; only the fixture needs pytest
    pass
else:

    @pytest.fixture
    def fake_relay() -> FakeRelay:
        """A relay in memory that nobody is connected to yet."""
        return FakeRelay()
