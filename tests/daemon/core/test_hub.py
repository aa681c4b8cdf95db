"""The chain is never wrong and nothing is skipped: the hub against a reference client."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from pgcachewatch.models import Event, Gap, Position, Scope
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.client_session import (
    BarrierPassed,
    ClientSession,
    CloseWith,
    Delivery,
    Flush,
    Invalidate,
    Opened,
    Proof,
)
from pgcachewatch.protocol.relay_session import Opened as RelayOpened
from pgcachewatch.protocol.relay_session import RelaySession, Subscribed, Unsubscribed
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane

CHANNELS = ("c1", "c2")
TABLES = ("users", "orders")
KEYS = ("1", "2", "3")
SENT_AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def make_hub(
    *,
    outbox: OutboxLimits | None = None,
    history: HistoryLimits | None = None,
    frame: Callable[[str], bytes] = str.encode,
) -> Hub:
    epochs = (f"{number:016x}" for number in range(1, 10_000))
    return Hub(
        MemoryBackplane(lambda: next(epochs)),
        History(history or HistoryLimits()),
        HubSettings("node", 500.0, outbox or OutboxLimits()),
        framing=Framing(frame),
    )


def event(channel: str = "c1", table: str = "users", *keys: str, operation: str = "update") -> Event:
    return Event.model_validate(
        {
            "channel": channel,
            "table": table,
            "operation": operation,
            "sent_at": SENT_AT,
            "keys": keys or None,
        }
    )


@dataclass
class Client:
    """A real client session on a real relay session, with the entries a cache would hold."""

    hub: Hub
    subs: list[messages.Sub]
    cached: set[tuple[int, str]] = field(default_factory=set)  # (subscription id, key)
    seen: list[str] = field(default_factory=list)  # stream items
    passed: list[int] = field(default_factory=list)
    proofs: list[float] = field(default_factory=list)
    flushes: int = 0
    opened: Opened | None = None
    closed: CloseWith | None = None

    def connect(self, resume: Position | None = None) -> None:
        self.client = ClientSession(subscriptions=self.subs, resume=resume)
        self.relay = RelaySession(default_channel="c1")
        (opened,) = self.relay.receive(self.client.hello(now_s=0.0), now_ms=0.0)
        assert isinstance(opened, RelayOpened)
        self.subscriber = self.hub.join(opened.hello, opened.subscriptions, now_ms=1.0)
        self.subscriber.write = self.take

    def ask(self, frame: str) -> None:
        for effect in self.relay.receive(frame, now_ms=0.0):
            if isinstance(effect, Subscribed):
                self.hub.subscribe(self.subscriber, effect.subscription)
            elif isinstance(effect, Unsubscribed):
                self.hub.unsubscribe(self.subscriber, effect.sid)

    def read(self) -> None:
        """All there is, from a socket that takes everything."""
        for frame in self.subscriber.drain():
            self.take(frame)
        self.hub.written(self.subscriber)

    def take(self, data: bytes) -> int:
        for frame in data.splitlines():
            for delivery in self.client.receive(frame.decode()):
                self._live_with(delivery)
        return len(data)

    def _live_with(self, delivery: Delivery) -> None:
        match delivery:
            case Opened():
                self.opened = delivery
            case Flush():
                self.flushes += 1
                self.cached.clear()
                self.seen.append("gap")
            case Invalidate(changes):
                for change in changes:
                    if change.detail is not None or self._is_stream(change.id):
                        self.seen.append(f"{change.op}:{change.detail}")
                    self.cached -= {
                        entry for entry in self.cached if entry[0] == change.id and change.key in (None, entry[1])
                    }
            case Proof(as_of_ms):
                self.proofs.append(as_of_ms)
            case BarrierPassed(identity):
                self.passed.append(identity)
            case CloseWith():
                self.closed = delivery
            case _:
                pass

    def _is_stream(self, identity: int) -> bool:
        return any(sub.id == identity and sub.mode == "stream" for sub in self.subs)


def joined(hub: Hub, *subs: messages.Sub, resume: Position | None = None) -> Client:
    client = Client(hub, list(subs))
    client.connect(resume)
    client.read()
    return client


def publish(hub: Hub, change: Event | Gap) -> None:
    channel = change.channel if isinstance(change, Event) else change.scope.channel or "c1"
    hub.publish(change, channel=channel, payload="payload", now_s=0.0)


def test_identical_subscription_sets_share_one_packet() -> None:
    hub = make_hub()
    clients = [joined(hub, messages.Sub(id=7), messages.Sub(id=9, table="users")) for _ in range(2)]
    publish(hub, event())
    packets = [client.subscriber.own_outbox()._packets[0] for client in clients]
    assert packets[0] is packets[1]


@pytest.mark.rule("W-SUB-4")
def test_a_change_reaches_exactly_those_it_may_concern() -> None:
    hub = make_hub()
    wants = {
        "channel": messages.Sub(id=1),
        "table": messages.Sub(id=1, table="users"),
        "schema": messages.Sub(id=1, table="users", schema_name="s"),
        "inserts": messages.Sub(id=1, table="users", ops=["i"]),
        "key": messages.Sub(id=1, table="users", keys=["1"]),
        "other table": messages.Sub(id=1, table="orders"),
        "other channel": messages.Sub(id=1, channel="c2"),
    }
    clients = {name: joined(hub, sub) for name, sub in wants.items()}

    def told() -> set[str]:
        return {name for name, client in clients.items() if client.subscriber.drain()}

    publish(hub, event("c1", "users"))
    assert told() == {"channel", "table", "schema", "key"}
    publish(hub, event("c1", "users", "2"))
    assert told() == {"channel", "table", "schema"}
    publish(hub, event("c1", "users", "1").model_copy(update={"schema_name": "other"}))
    assert told() == {"channel", "table", "key"}


@pytest.mark.rule("W-EV-5")
def test_an_unreadable_notification_reaches_each_subscription_it_may_concern() -> None:
    hub = make_hub()
    clients = [
        joined(hub, messages.Sub(id=1, table="users", keys=["1"])),
        joined(hub, messages.Sub(id=1, table="orders")),
        joined(hub, messages.Sub(id=1, channel="c2")),
    ]
    for client in clients:
        client.cached = {(1, "1")}
    publish(hub, Gap(Scope("c1", "users"), "unreadable"))
    for client in clients:
        client.read()
    assert [bool(client.cached) for client in clients] == [False, True, True]


@pytest.mark.rule("W-BARRIER-1")
@pytest.mark.rule("W-MARK-1")
@pytest.mark.rule("W-SLOW-1")
def test_neither_a_mark_nor_a_barrier_overtakes_an_event_also_when_conflated() -> None:
    for limit in (10**9, 100):
        hub = make_hub(outbox=OutboxLimits(bytes=limit))
        client = joined(hub, messages.Sub(id=1))
        client.cached = {(1, "1"), (1, "2"), (1, "3")}
        for key in ("1", "2"):
            publish(hub, event("c1", "users", key))
        hub.mark(50.0)
        hub.barrier_passed(client.subscriber, 9)
        frames = [codec.decode_relay(frame.decode())[0] for frame in client.subscriber.drain()]
        kinds = [frame.t for frame in frames]
        assert kinds[-2:] == ["mark", "barrierok"]
        assert set(kinds[:-2]) == {"ev"}


@pytest.mark.rule("W-SLOW-1")
def test_a_slow_reader_costs_a_constant_and_misses_nothing() -> None:
    limits = OutboxLimits(bytes=1_000, keys=50)
    hub = make_hub(outbox=limits)
    slow = joined(hub, messages.Sub(id=1, table="users"), messages.Sub(id=2, table="orders"))
    slow.cached = {(1, str(number)) for number in range(10_000)} | {(2, "1"), (2, "2")}
    for number in range(10_000):
        publish(hub, event("c1", "users", str(number)))
        publish(hub, event("c1", "orders", "1"))
        hub.mark(float(number))
        assert slow.subscriber.own_outbox().size_bytes <= limits.bytes + 200
    slow.read()
    assert slow.cached == {(2, "2")}
    assert slow.proofs[-1] == 9_999.0
    publish(hub, event("c1", "orders", "2"))
    slow.read()
    assert not slow.cached
    assert slow.closed is None


@pytest.mark.rule("W-SLOW-2")
def test_a_stream_that_overflows_is_closed_and_resumes_without_a_loss() -> None:
    hub = make_hub(outbox=OutboxLimits(bytes=2_000))
    stream = joined(hub, messages.Sub(id=1, mode="stream"))
    publish(hub, event("c1", "t0"))
    stream.read()
    hub.filled(stream.subscriber)
    for number in range(1, 100):
        publish(hub, event("c1", f"t{number}"))
        if stream.subscriber.close is not None:
            break
    close = stream.subscriber.close
    assert close is not None
    assert close.code == 4103
    assert stream.subscriber.drain() == []
    hub.leave(stream.subscriber)
    again = Client(hub, stream.subs, seen=stream.seen)
    again.connect(stream.client.cursor)
    again.read()
    assert [seen.count("'table': 't") for seen in again.seen[1:]] == [1] * (number + 1)
    assert "gap" not in again.seen[1:]


@pytest.mark.rule("W-RESUME-1")
def test_a_replay_that_does_not_fit_is_an_honest_flush() -> None:
    hub = make_hub(outbox=OutboxLimits(bytes=2_000))
    before = hub.position
    for number in range(100):
        publish(hub, event("c1", f"t{number}"))
    stream = joined(hub, messages.Sub(id=1, mode="stream"), resume=before)
    assert stream.opened is not None
    assert not stream.opened.resumed
    assert stream.subscriber.close is None


@pytest.mark.rule("W-RESUME-1")
@pytest.mark.parametrize(
    ("resume", "resumed"),
    [
        (Position("0000000000000001", 3), True),
        (Position("0000000000000001", 5), True),
        (Position("0000000000000001", 2), False),
        (Position("0000000000000001", 6), False),
        (Position("00000000000000ff", 5), False),
    ],
)
def test_resume_is_all_or_nothing(resume: Position, *, resumed: bool) -> None:
    hub = make_hub(history=HistoryLimits(events=2))
    for number in range(5):
        publish(hub, event("c1", "users", str(number)))
    client = Client(hub, [messages.Sub(id=1)], cached={(1, str(number)) for number in range(5)})
    client.connect(resume)
    client.read()
    assert client.opened is not None
    assert client.opened.resumed is resumed
    assert client.cached == ({(1, str(number)) for number in range(resume.seq)} if resumed else set())
    assert client.client.cursor == hub.position


@pytest.mark.rule("W-STALE-1")
@pytest.mark.rule("W-POSITION-1")
@pytest.mark.rule("W-PLAIN-3")
def test_a_lost_source_is_told_at_once_and_its_return_is_a_new_epoch() -> None:
    hub = make_hub()
    client, plain = joined(hub, messages.Sub(id=1)), hub.join_plain("c1")
    first = hub.position
    client.cached = {(1, "1")}
    hub.source_lost("connection lost", now_ms=5.0)
    assert b'"stale"' in client.subscriber.drain()[0]
    assert plain.close is not None
    assert plain.close.code == 1012
    hub.source_restored("connection lost")
    client.read()
    assert not client.cached
    assert client.client.cursor == hub.position
    assert hub.position.epoch != first.epoch


@pytest.mark.rule("W-MARK-2")
def test_who_joins_while_the_source_is_lost_gets_no_proof() -> None:
    hub = make_hub()
    hub.mark(5.0)
    assert joined(hub, messages.Sub(id=1)).proofs == [5.0]
    hub.source_lost("connection lost", now_ms=6.0)
    assert joined(hub, messages.Sub(id=1)).proofs == []


@pytest.mark.rule("W-PLAIN-1")
def test_a_plain_reader_gets_the_raw_payloads_of_its_channel_in_order() -> None:
    hub = make_hub()
    plain = hub.join_plain("c1")
    for payload in ("one", "two"):
        hub.publish(Gap(Scope("c1"), "unreadable"), channel="c1", payload=payload, now_s=0.0)
    hub.publish(event("c2"), channel="c2", payload="other", now_s=0.0)
    assert plain.drain() == [b"one", b"two"]
    hub.leave(plain)
    hub.leave(plain)
    assert hub.stats.plain_clients == 0


@pytest.mark.rule("W-CLOSE-2")
def test_a_planned_end_says_bye_before_it_closes() -> None:
    hub = make_hub()
    client, plain = joined(hub, messages.Sub(id=1)), hub.join_plain("c1")
    hub.say_bye(4000, reason="drain", after_ms=10, jitter_ms=20)
    assert b'"bye"' in client.subscriber.drain()[-1]
    assert client.subscriber.close is not None
    assert client.subscriber.close.code == 4000
    assert plain.close is not None
    assert plain.close.code == 1012


def test_each_dirty_subscriber_is_taken_once_and_announced_once() -> None:
    announced: list[int] = []
    hub = make_hub()
    hub._on_dirty = lambda: announced.append(1)
    client = joined(hub, messages.Sub(id=1))
    other = joined(hub, messages.Sub(id=1))
    hub.take_apart(9)
    hub.filled(other.subscriber)
    announced.clear()
    for _ in range(3):
        publish(hub, event())
    assert hub.take_apart(9) == [other.subscriber]
    share = hub.take_share(writes=9, size_bytes=1_000)
    assert share is not None
    assert (list(share.members), share.frames) == ([client.subscriber], 3)
    assert not hub.has_work
    assert announced == [1]


@pytest.mark.rule("W-SLOW-2")
def test_a_stream_whose_readers_are_written_in_time_is_never_closed() -> None:
    hub = make_hub(outbox=OutboxLimits(bytes=2_000), frame=lambda text: f"{text}\n".encode())
    stream = joined(hub, messages.Sub(id=1, mode="stream"))
    for number in range(1, 100):
        publish(hub, event("c1", f"t{number}"))
        while hub.is_pressed:
            share = hub.take_share(writes=9, size_bytes=1_000)
            if share is not None:
                stream.take(share.data)
    stream.read()
    assert [seen.count("'table': 't") for seen in stream.seen[1:]] == [1] * 99
    assert stream.subscriber.close is None


def test_each_audience_has_its_turn() -> None:
    hub = make_hub()
    many = [joined(hub, messages.Sub(id=1, table="users")) for _ in range(3)]
    few = [joined(hub, messages.Sub(id=1))]
    publish(hub, event())
    order = []
    while share := hub.take_share(writes=1, size_bytes=1_000):
        order += [client for client in many + few if client.subscriber in share.members]
    assert order == [many[0], few[0], many[1], many[2]]


def test_a_subscriber_that_left_is_told_nothing_more() -> None:
    hub = make_hub()
    client = joined(hub, messages.Sub(id=1))
    hub.leave(client.subscriber)
    hub.leave(client.subscriber)
    publish(hub, event())
    hub.mark(1.0)
    assert not hub.has_work
    assert (hub.stats.clients, hub.stats.subscriptions_invalidate) == (0, 0)
    assert isinstance(client.subscriber, Subscriber)
