"""100,000 frames of a hostile client: the relay's session answers or closes, and its neighbour hears every event.

The session is the one that ships, with the hub, the outboxes and the barriers behind it. What it answers is read with
the client's own codec, so an answer that is itself malformed is a failure too.
"""

from __future__ import annotations

import datetime

import pytest

from pgcachewatch.models import Event
from pgcachewatch.protocol import codec, messages, relay_session
from pgcachewatch.protocol.client_session import Change, ClientSession, Invalidate
from pgcachewatch.protocol.relay_session import RelaySession
from pgcachewatch.protocol.transitions import RelayState
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.core.loopback import Loopback, LoopbackLimits
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane
from tests.conformance.hostile import Frame, Hostile, Json

FRAMES = 50_000
EPOCH = "00000000000000aa"
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
EVENT = Event.model_validate({"channel": "c", "table": "users", "operation": "update", "sent_at": NOW, "keys": ["7"]})
PUBLISH_EVERY = 50
HELLO = {"t": "hello", "v": 1, "name": "n", "token": "t", "caps": ["x"], "subs": [{"t": "sub", "id": 0}]}
SUB = {"t": "sub", "id": 1, "channel": "c", "table": "users", "schema": "s", "ops": ["i", "u"], "keys": ["1", "2"]}
VALID: list[Json] = [
    HELLO,
    {**HELLO, "resume": {"e": EPOCH, "s": 0}, "subs": [SUB, {**SUB, "id": 2, "mode": "stream"}]},
    SUB,
    {"t": "sub", "id": 3, "channel": "c", "mode": "stream"},
    {"t": "unsub", "id": 1},
    {"t": "barrier", "id": 4},
    {"t": "ping", "id": 5},
    {"t": "auth", "token": "x"},
    {"t": "ack", "s": 6},
]


class Relay:
    """A hub with one good reader, and the connection of a bad one."""

    def __init__(self) -> None:
        self.loopback = Loopback(lambda: "nonce", LoopbackLimits())
        self.hub = Hub(
            MemoryBackplane(lambda: EPOCH),
            History(HistoryLimits()),
            HubSettings("node", 500.0),
            framing=Framing(str.encode),
        )
        self.neighbour = ClientSession(subscriptions=[messages.Sub(id=1, channel="c")])
        good = RelaySession(default_channel="c")
        (opened,) = good.receive(self.neighbour.hello(now_s=0.0), now_ms=0.0)
        assert isinstance(opened, relay_session.Opened)
        self.good = self.hub.join(opened.hello, opened.subscriptions, now_ms=0.0)
        self.accepted = self.violations = self.events = 0
        self.connect()

    def connect(self) -> None:
        self.session = RelaySession(default_channel="c")
        self.bad: Subscriber | None = None

    def disconnect(self) -> None:
        if self.bad is not None:
            self.loopback.drop(self.bad)
            self.hub.leave(self.bad)
        self.connect()

    def take(self, frame: Frame) -> None:
        effects = self.session.receive(frame, now_ms=1.0)
        closing = [effect for effect in effects if isinstance(effect, relay_session.CloseWith)]
        assert bool(closing) == (self.session.state is RelayState.CLOSED)
        for effect in effects:
            self._perform(effect)
        if closing:
            assert effects[-1] is closing[0]
            assert closing[0].code in (4300, 4308)
            assert len(closing[0].reason.encode()) <= codec.REASON_BYTES
            assert self.session.receive('{"t":"ping","id":1}', now_ms=1.0) == []
            self.violations += 1
            self.disconnect()
        else:
            self.accepted += 1

    def _perform(self, effect: relay_session.Effect) -> None:
        match effect:
            case relay_session.Send(text):
                self._read(text)
            case relay_session.Opened(hello, subscriptions):
                self.bad = self.hub.join(hello, subscriptions, now_ms=1.0)
            case relay_session.Subscribed(subscription):
                assert self.bad is not None
                self.hub.subscribe(self.bad, subscription)
            case relay_session.Unsubscribed(sid):
                assert self.bad is not None
                self.hub.unsubscribe(self.bad, sid)
            case relay_session.BarrierRequested(identity):
                assert self.bad is not None
                self.loopback.request(self.bad, identity, now_ms=1.0)
            case _:
                pass

    def _read(self, text: str) -> None:
        """What a client gets must be a message that a client knows."""
        assert not [message for message in codec.decode_relay(text) if isinstance(message, codec.Unknown)], text

    def publish(self) -> None:
        """An event: the neighbour gets it in order, and the bad one gets well-formed frames."""
        self.hub.publish(EVENT, channel="c", payload="{}", now_s=0.0)
        heard = [each for frame in self.good.drain() for each in self.neighbour.receive(frame.decode())]
        assert Invalidate((Change(1, "u", "7"),)) in heard
        assert self.neighbour.is_open
        if self.bad is not None:
            for frame in self.bad.drain():
                self._read(frame.decode())
        self.events += 1


@pytest.mark.rule("W-FRAME-1")
@pytest.mark.rule("W-FRAME-2")
def test_random_frames_are_refused_and_harm_nobody() -> None:
    relay, hostile = Relay(), Hostile(seed=1)
    for number in range(FRAMES):
        if number % 2:
            relay.take('{"t":"hello","v":1,"subs":[]}' if relay.bad is None else '{"t":"ping","id":1}')
        relay.take(hostile.random_frame())
        if number % PUBLISH_EVERY == 0:
            relay.publish()
    assert relay.violations > FRAMES * 0.9
    assert relay.events == FRAMES // PUBLISH_EVERY


@pytest.mark.rule("W-FRAME-3")
@pytest.mark.rule("W-FORWARD-1")
@pytest.mark.rule("W-FORWARD-2")
def test_mutated_frames_are_answered_or_refused_and_harm_nobody() -> None:
    relay, hostile = Relay(), Hostile(seed=2)
    for number in range(FRAMES):
        if relay.bad is None and number % 3:
            relay.take('{"t":"hello","v":1,"subs":[{"t":"sub","id":9,"mode":"stream"}]}')
        relay.take(hostile.of(VALID))
        if number % PUBLISH_EVERY == 0:
            relay.publish()
    assert relay.violations > FRAMES * 0.2
    assert relay.accepted > FRAMES * 0.2
