"""A relay in one process with its clients: the real hub, history, outboxes, loopback and sessions, wired as relay.py
does.

Only the shells are replaced: the LISTEN connection by a session of the simulated database, sockets by wires. Its
clock runs at an offset of its own, and a little fast or slow, as another machine's would. `log` remembers which
commit got which position, for the oracle.
"""

from __future__ import annotations

import asyncio
import datetime
import random
from collections.abc import Callable, Iterable

from pgcachewatch.models import Event
from pgcachewatch.protocol.relay_session import (
    BarrierRequested,
    CloseWith,
    Effect,
    Opened,
    RelaySession,
    Send,
    Subscribed,
    Subscription,
    Unsubscribed,
)
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.granted import Granted
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.core.intake import Intake
from pgcachewatch_daemon.core.loopback import Ignored, Loopback, LoopbackLimits
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.core.reach import Reach
from pgcachewatch_daemon.core.uses import Uses
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane
from tests.simulation.database import CHANNEL, LOOPBACK_CHANNEL, Database, ListenSession
from tests.simulation.network import RelayEnd, Wire

HEARTBEAT_S = 0.2
OVERDUE_S = 0.9
RETRY_S = (0.01, 0.2)
DRIFT = 200e-6
RECEIVED_AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
HISTORY = HistoryLimits(events=20)
OUTBOX = OutboxLimits(bytes=1_500, keys=4)
SLICE_WRITES = 2
SLICE_BYTES = 1_000
SLICE_S = (0.0, 0.002)
UNUSED_S = (0.0, 0.1)  # then another channel takes its place

Log = dict[str, list[tuple[int, str, int]]]  # epoch -> (seq, row, version) in order


class Visit:
    """One connection, relay side."""

    def __init__(self, relay: SimulatedRelay, wire: Wire) -> None:
        self.session = RelaySession(default_channel=CHANNEL)
        self.end = RelayEnd(wire)
        self.subscriber: Subscriber | None = None
        self._relay = relay
        wire.relay_receives = self._receive
        wire.relay_drained = self.write_own
        wire.relay_lost = self.gone

    def _receive(self, frame: str) -> None:
        for effect in self.session.receive(frame, now_ms=self._relay.now_ms()):
            self._do(effect)
        self._relay.flush()

    def _do(self, effect: Effect) -> None:
        hub = self._relay.hub
        if isinstance(effect, Opened):
            if not self._relay.is_up:
                self.end.close(4104)
                return
            subscriptions = tuple(map(typed, effect.subscriptions))
            resume = effect.hello.resume
            self._relay.listen_to(each.channel for each in effect.subscriptions)
            is_whole = resume is None or self._relay.reach.is_whole(effect.subscriptions, after=resume.s)
            now_ms = self._relay.now_ms()
            self.subscriber = hub.join(effect.hello, subscriptions, now_ms=now_ms, is_log_whole=is_whole)
            self.subscriber.shell = self
            self.subscriber.write = self._write
            self._relay.hasten()
        elif isinstance(effect, CloseWith):
            self.end.close(effect.code)
        elif self.subscriber is not None:
            match effect:
                case Send(text):
                    hub.send(self.subscriber, text)
                case Subscribed(subscription):
                    self._relay.listen_to([subscription.channel])
                    hub.subscribe(self.subscriber, typed(subscription))
                case Unsubscribed(sid):
                    hub.unsubscribe(self.subscriber, sid)
                case BarrierRequested(identity):
                    self._relay.barrier(self.subscriber, identity)
                case _:
                    pass

    def write_own(self) -> None:
        """Write what is pending, unless the socket is full: then it waits, and conflates."""
        subscriber = self.subscriber
        if subscriber is None or self.end.is_full:
            return
        outbox = subscriber.own_outbox()
        if not self._send(b"".join(outbox.drain())):
            return
        if outbox.close is not None:
            self.end.close(outbox.close.code)
        else:
            self._relay.hub.written(subscriber)

    def _send(self, data: bytes) -> bool:
        """False when the socket is full now."""
        for frame in data.decode().splitlines():
            self.end.send(frame)
        return not self.end.is_full

    def _write(self, data: bytes) -> int:
        if not self._send(data) and self.subscriber is not None:
            self._relay.hub.filled(self.subscriber)
        return len(data)

    def gone(self) -> None:
        self.session.close()
        if self.subscriber is not None:
            self._relay.loopback.drop(self.subscriber)
            self._relay.hub.leave(self.subscriber)
            self.subscriber = None


def typed(subscription: Subscription) -> Granted:
    """A grant as of a relay that knows its tables, all of whose keys are text."""
    return Granted(subscription, types=subscription.columns and ("text",) * len(subscription.columns))


class SimulatedRelay:
    """One life of a relay. `stop` ends it as SIGKILL does; a new one starts from nothing."""

    def __init__(self, database: Database, chance: random.Random, log: Log) -> None:
        self._database = database
        self._chance = chance
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._offset_s = chance.uniform(0, 1e6)
        self._speed = 1 + chance.uniform(-DRIFT, DRIFT)
        self.hub = Hub(
            MemoryBackplane(lambda: f"{chance.getrandbits(64):016x}"),
            History(HISTORY),
            HubSettings("simulated", HEARTBEAT_S * 1_000, OUTBOX),
            framing=Framing(lambda text: f"{text}\n".encode()),
            uses=Uses(began=self._use, ended=self._leave),
            on_dirty=lambda: None,
        )
        self.loopback = Loopback(lambda: f"{chance.getrandbits(64):x}", LoopbackLimits())
        self.intake = Intake()
        self.reach = Reach()
        self._used: dict[str, None] = {}  # ordered, so that a seed repeats itself
        self.is_up = False
        self.is_alive = True
        self.wires: dict[Wire, None] = {}
        self.session: ListenSession | None = None
        self._retry()

    def now_ms(self) -> float:
        return (self._offset_s + self._loop.time() * self._speed) * 1_000

    def accept(self, wire: Wire) -> None:
        self.wires[wire] = None
        Visit(self, wire)

    def stop(self) -> None:
        """The process is gone: its sockets close, its connection to PostgreSQL too."""
        self.is_alive = self.is_up = False
        if self.session is not None:
            self.session.end(is_noticed=False)
        for wire in list(self.wires):
            wire.cut(tell_client=True, tell_relay=False)

    def flush(self) -> None:
        """One slice, as departures.py does it, and small: what is left goes on behind whatever comes in meanwhile."""
        for subscriber in self.hub.take_apart(SLICE_WRITES):
            if isinstance(subscriber.shell, Visit):
                subscriber.shell.write_own()
        share = self.hub.take_share(writes=SLICE_WRITES, size_bytes=SLICE_BYTES)
        if share is not None:
            for subscriber in share.members:
                subscriber.write(share.data)
        if self.hub.has_work:
            self._later(self._chance.uniform(*SLICE_S), self.flush)

    # --- channels

    def listen_to(self, channels: Iterable[str]) -> None:
        """Before anybody is told that it is live."""
        session = self.session
        for channel in channels:
            if session is not None and not session.listens_to(channel):
                session.listen(channel)
                self.reach.listened(channel, since=self.hub.position.seq)

    def _use(self, channel: str) -> None:
        self._used[channel] = None

    def _leave(self, channel: str) -> None:
        del self._used[channel]
        if channel != CHANNEL:
            self._later(self._chance.uniform(*UNUSED_S), lambda: self._give_up(channel))

    def _give_up(self, channel: str) -> None:
        if channel not in self._used and self.session is not None:
            self.reach.given_up(channel)
            self.session.unlisten(channel)

    # --- the source

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self._loop.call_later(delay_s, lambda: act() if self.is_alive else None)

    def _retry(self) -> None:
        self._later(self._chance.uniform(*RETRY_S), self._connect)

    def _connect(self) -> None:
        try:
            self.session = session = self._database.listen(self._notified, lambda: self._lost(session, "closed"))
        except OSError:
            self._retry()
            return
        for channel in self._used:
            session.listen(channel)
        self.loopback.reset()
        self._beat(session)

    def _beat(self, session: ListenSession) -> None:
        if session is not self.session:
            return
        if self.loopback.overdue(self.now_ms(), limit_ms=OVERDUE_S * 1_000):
            session.end(is_noticed=False)
            self._lost(session, "overdue")
            return
        self.hasten()
        self._later(HEARTBEAT_S, lambda: self._beat(session))

    def hasten(self) -> None:
        """A loopback now, unless one is in flight."""
        if self.session is not None and not self.loopback.is_in_flight:
            self.session.notify(self.loopback.start(now_ms=self.now_ms()))

    def barrier(self, subscriber: Subscriber, identity: int) -> None:
        self.loopback.request(subscriber, identity, now_ms=self.now_ms())
        if self.is_up:
            self.hasten()

    def _notified(self, channel: str, payload: str) -> None:
        if not self.is_alive:
            return
        if channel == LOOPBACK_CHANNEL:
            self._looped_back(payload)
        elif self.is_up:
            change = self.intake.read(channel, payload, received_at=RECEIVED_AT)
            self.hub.publish(change, channel=channel, payload=payload, now_s=self.now_ms() / 1_000)
            if isinstance(change, Event) and change.xid is not None:
                position = self.hub.position
                row, version = self._database.commits[change.xid]
                self._log.setdefault(position.epoch, []).append((position.seq, row, version))
        self.flush()

    def _looped_back(self, nonce: str) -> None:
        result = self.loopback.returned(nonce)
        if isinstance(result, Ignored):
            return
        if not self.is_up:
            self.is_up = True
            self.reach.forget_all()
            self.hub.source_restored("simulated")
        self.hub.mark(result.as_of_ms)
        for wait in result.barriers:
            assert isinstance(wait.subscriber, Subscriber)
            self.hub.barrier_passed(wait.subscriber, wait.id)
        if self.loopback.has_waiting:
            self.hasten()

    def _lost(self, session: ListenSession, reason: str) -> None:
        if not self.is_alive or session is not self.session:
            return
        self.session = None
        if self.is_up:
            self.is_up = False
            self.hub.source_lost(reason, now_ms=self.now_ms())
            self.flush()
        self._retry()
