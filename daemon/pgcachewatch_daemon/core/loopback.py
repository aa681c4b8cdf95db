"""The relay's own notification: the proof of freshness, the health check, and the barrier, all in one.

A loopback started at instant `a` returns behind every transaction whose COMMIT returned before `a` (NOTIFY is
delivered in commit order). So its return proves what a mark says, answers every barrier that was asked for before
`a`, and shows that the LISTEN session receives. It is accepted only with the nonce of the one in flight; the shell
checks the backend pid.

With subscriptions that want stamps it also carries a snapshot of the server, taken when it was sent: what was committed
by then at least. It comes back in the notification and not as the statement's answer, because that is only there once
the notification is (W-STAMP-2).

One is in flight at a time; barriers that arrive meanwhile wait for the next, which serves them all. Bounds: barriers
waiting in all and for one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pgcachewatch.protocol.messages import SNAPSHOT_LENGTH
from pgcachewatch_daemon.core.stats import LoopbackStats


@dataclass(frozen=True, slots=True)
class LoopbackLimits:
    """Barriers that wait; one more is refused."""

    barriers: int = 100_000
    barriers_per_subscriber: int = 1_000
    barriers_per_s: float = 1_000.0  # of one subscriber


@dataclass(frozen=True, slots=True)
class BarrierWait:
    """A barrier that was asked for: by whom, with which id, and when."""

    subscriber: Hashable
    id: int
    asked_ms: float


@dataclass(frozen=True, slots=True)
class LoopbackResult:
    """Every commit that returned before `as_of_ms` has been received; these barriers have passed.

    `snapshot` is what the server had committed then, when it was asked for.
    """

    as_of_ms: float
    barriers: tuple[BarrierWait, ...]
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class Ignored:
    """Not the one in flight: an old one, or forged."""


@dataclass(frozen=True, slots=True)
class Full:
    """Too many barriers wait."""

    limit: int


class Loopback:
    """At most one in flight. Instants are the relay's monotonic clock in milliseconds.

    >>> loopback = Loopback(lambda: "n1", LoopbackLimits())
    >>> loopback.request("client", 7, now_ms=1.0)
    >>> nonce = loopback.start(now_ms=2.0)
    >>> loopback.returned(nonce).as_of_ms
    2.0
    """

    def __init__(
        self,
        new_nonce: Callable[[], str],
        limits: LoopbackLimits,
        *,
        wants_snapshot: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stats = LoopbackStats()
        self.last_as_of_ms: float | None = None
        self._new_nonce = new_nonce
        self._wants_snapshot = wants_snapshot
        self.limits = limits  # replaced while running; what waits goes on waiting
        self._nonce: str | None = None
        self._started_ms = 0.0
        self._served: list[BarrierWait] = []
        self._waiting: list[BarrierWait] = []
        self._per_subscriber: dict[Hashable, int] = {}

    @property
    def is_in_flight(self) -> bool:
        return self._nonce is not None

    @property
    def wants_snapshot(self) -> bool:
        """Somebody asks for stamps."""
        return self._wants_snapshot()

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    def request(self, subscriber: Hashable, identity: int, *, now_ms: float) -> Full | None:
        """A barrier was asked for; it is served by the next loopback that starts. None when it was taken."""
        count = self._per_subscriber.get(subscriber, 0)
        if count >= self.limits.barriers_per_subscriber or (
            len(self._waiting) + len(self._served) >= self.limits.barriers
        ):
            self.stats.barriers_refused += 1
            return Full(self.limits.barriers_per_subscriber)
        self._per_subscriber[subscriber] = count + 1
        self._waiting.append(BarrierWait(subscriber, identity, now_ms))
        return None

    def start(self, *, now_ms: float) -> str:
        """The nonce to notify, now. Everything waiting is served by this one."""
        assert self._nonce is None, "one loopback at a time"
        self._nonce = self._new_nonce()
        self._started_ms = now_ms
        self._served, self._waiting = self._waiting, []
        self.stats.sent += 1
        return self._nonce

    def returned(self, payload: str) -> LoopbackResult | Ignored:
        """Our own backend notified the loopback channel: the nonce, and behind it the snapshot that was wanted."""
        nonce, _, snapshot = payload.partition(" ")
        if nonce != self._nonce:
            self.stats.ignored += 1
            return Ignored()
        self._nonce = None
        self.last_as_of_ms = self._started_ms
        served, self._served = tuple(self._served), []
        for wait in served:
            self._forget(wait)
        self.stats.returned += 1
        self.stats.barriers += len(served)
        return LoopbackResult(self._started_ms, served, _bounded(snapshot) if snapshot else None)

    def proven(self, as_of_ms: float, snapshot: str | None = None) -> LoopbackResult:
        """Another process's loopback, sent at `as_of_ms`, came back; both go by one monotonic clock.

        It serves each barrier that was asked for by then, as one that was started here at that instant would have.
        """
        self.last_as_of_ms = as_of_ms
        served = tuple(wait for wait in self._waiting if wait.asked_ms <= as_of_ms)
        self._waiting = [wait for wait in self._waiting if wait.asked_ms > as_of_ms]
        for wait in served:
            self._forget(wait)
        self.stats.barriers += len(served)
        return LoopbackResult(as_of_ms, served, snapshot)

    def overdue(self, now_ms: float, *, limit_ms: float) -> bool:
        """The one in flight has not come back within `limit_ms`: the session receives nothing."""
        return self._nonce is not None and now_ms - self._started_ms > limit_ms

    def reset(self) -> None:
        """The connection was lost: the one in flight will not return. Barriers wait for the next connection's first."""
        self._nonce = None
        self.last_as_of_ms = None
        self._waiting = self._served + self._waiting
        self._served = []

    def drop(self, subscriber: Hashable) -> None:
        """The connection that asked is gone."""
        if self._per_subscriber.pop(subscriber, None) is not None:
            self._waiting = [wait for wait in self._waiting if wait.subscriber != subscriber]
            self._served = [wait for wait in self._served if wait.subscriber != subscriber]

    def _forget(self, wait: BarrierWait) -> None:
        left = self._per_subscriber.get(wait.subscriber, 0) - 1
        if left > 0:
            self._per_subscriber[wait.subscriber] = left
        else:
            self._per_subscriber.pop(wait.subscriber, None)


def _bounded(snapshot: str) -> str:
    """One that fits a mark. Cut off, it says that what still ran was over: more than was committed, never less.

    >>> _bounded("10:20:" + ",".join(["10"] * 1_000))
    '20:20:'
    """
    if len(snapshot) <= SNAPSHOT_LENGTH:
        return snapshot
    _, xmax, _ = snapshot.split(":", 2)
    return f"{xmax}:{xmax}:"
