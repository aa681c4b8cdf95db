"""Transactions that name themselves: the newest tokens that were notified, and the barriers that wait for one.

A token is notified inside a transaction, before or after that transaction's writes. PostgreSQL delivers what one
transaction notified without anything in between, so a token has passed once a notification of another backend came
behind it: until then events of its own transaction may follow. The shell says when.

A client asks only for tokens that were taken in the relay's own epoch, so none was notified before the source was up.
One that is not known was not committed yet, or it came so long ago that it was forgotten. The two look alike. While the
memory reaches back less than DOUBT_MS because of what it forgot, such a barrier therefore waits for no longer than the
next proof of freshness, and is then lost: its client asks without a token, which holds once COMMIT has returned
(W-BARRIER-2). Otherwise it waits for as long as the commit takes.

Bounds: TOKENS remembered, the oldest go first; barriers that wait, in all and for one connection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass

from pgcachewatch_daemon.core.loopback import BarrierWait, Full, LoopbackLimits
from pgcachewatch_daemon.core.stats import TokenStats

TOKENS = 10_000
DOUBT_MS = 60_000.0  # whoever asks for a token asks sooner after its transaction than this
TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Passed:
    """Each event of the token's transaction was published."""


@dataclass(frozen=True, slots=True)
class Awaited:
    """It will be answered. `needs_proof`: a loopback now answers it sooner."""

    needs_proof: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """PostgreSQL is lost, and what its transaction notified with it."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known of tokens, for another process that is to go on from here; nobody's barriers."""

    since_ms: float | None
    seen: dict[str, float]
    arriving: dict[str, float]


class Tokens:
    """See the module. Instants are the relay's monotonic clock in milliseconds.

    >>> tokens = Tokens(LoopbackLimits())
    >>> tokens.source_up()
    >>> tokens.request("client", 7, "0" * 32, now_ms=1.0)
    Awaited(needs_proof=False)
    >>> tokens.arrived("0" * 32, now_ms=2.0)
    True
    >>> [wait.id for wait in tokens.settled()], tokens.request("client", 8, "0" * 32, now_ms=3.0)
    ([7], Passed())
    """

    def __init__(self, limits: LoopbackLimits, *, kept: int = TOKENS) -> None:
        self.stats = TokenStats()
        self.limits = limits  # replaced while running; what waits goes on waiting
        self._kept = kept
        self._since_ms: float | None = None  # each token notified since then is here; None: the source is lost
        self._seen: dict[str, float] = {}  # token -> when it came, oldest first
        self._arriving: dict[str, float] = {}  # more events of their transaction may follow
        self._waiting: dict[str, list[BarrierWait]] = {}
        self._doubted: list[tuple[str, BarrierWait]] = []
        self._per_subscriber: dict[Hashable, int] = {}
        self._count = 0

    def source_up(self) -> None:
        """From here on each token is heard, and there is none of this epoch from before."""
        self._since_ms = -math.inf

    def source_lost(self) -> list[BarrierWait]:
        """Forget everything; the barriers that waited are lost."""
        self._since_ms = None
        self._seen.clear()
        self._arriving.clear()
        self._doubted.clear()
        lost = [wait for token in tuple(self._waiting) for wait in self._release(token)]
        self.stats.lost += len(lost)
        return lost

    def memory(self) -> Memory:
        """A copy of what is known."""
        return Memory(self._since_ms, dict(self._seen), dict(self._arriving))

    def remember(self, memory: Memory) -> None:
        """Go on from what another process knew; nobody waits yet."""
        self._since_ms = memory.since_ms
        self._seen = dict(memory.seen)
        self._arriving = dict(memory.arriving)

    def arrived(self, token: str, *, now_ms: float) -> bool:
        """A notification on the token's channel. True when somebody waits for it to settle."""
        if TOKEN.fullmatch(token) is None:
            self.stats.ignored += 1  # anybody may notify anything
            return False
        self.stats.arrived += 1
        is_awaited = token in self._waiting
        if is_awaited or len(self._arriving) < self._kept:
            self._arriving[token] = now_ms
        else:
            self._since_ms = now_ms
        return is_awaited

    def settled(self) -> list[BarrierWait]:
        """The transactions of all tokens that arrived are over: these barriers have passed."""
        arrived, self._arriving = self._arriving, {}
        for token, at_ms in arrived.items():
            self._seen.pop(token, None)
            self._seen[token] = at_ms
        while len(self._seen) > self._kept:
            oldest = next(iter(self._seen))
            self._since_ms = self._seen.pop(oldest)
        passed = [wait for token in arrived for wait in self._release(token)]
        self.stats.passed += len(passed)
        return passed

    def request(
        self, subscriber: Hashable, identity: int, token: str, *, now_ms: float
    ) -> Passed | Awaited | Lost | Full:
        """A barrier for `token` was asked for."""
        if self._since_ms is None:
            self.stats.lost += 1
            return Lost()
        if token in self._seen:
            self.stats.passed += 1
            return Passed()
        count = self._per_subscriber.get(subscriber, 0)
        limits = self.limits
        if count >= limits.barriers_per_subscriber or self._count >= limits.barriers:
            self.stats.refused += 1
            return Full(limits.barriers_per_subscriber)
        self._per_subscriber[subscriber] = count + 1
        self._count += 1
        wait = BarrierWait(subscriber, identity, now_ms)
        self._waiting.setdefault(token, []).append(wait)
        is_doubtful = token not in self._arriving and now_ms - self._since_ms < DOUBT_MS
        if is_doubtful:
            self._doubted.append((token, wait))
        return Awaited(needs_proof=is_doubtful or token in self._arriving)

    def proven(self, as_of_ms: float) -> list[BarrierWait]:
        """Each commit that returned before `as_of_ms` was read: a doubted token that did not come is lost."""
        due = [(token, wait) for token, wait in self._doubted if wait.asked_ms <= as_of_ms]
        self._doubted = [(token, wait) for token, wait in self._doubted if wait.asked_ms > as_of_ms]
        lost = []
        for token, wait in due:
            waiting = self._waiting.get(token, [])
            if token not in self._arriving and wait in waiting:
                waiting.remove(wait)
                if not waiting:
                    del self._waiting[token]
                self._forget(wait)
                lost.append(wait)
        self.stats.lost += len(lost)
        return lost

    def drop(self, subscriber: Hashable) -> None:
        """The connection that asked is gone."""
        count = self._per_subscriber.pop(subscriber, 0)
        self._count -= count
        if count:
            for token, waiting in tuple(self._waiting.items()):
                left = [wait for wait in waiting if wait.subscriber != subscriber]
                if left:
                    self._waiting[token] = left
                else:
                    del self._waiting[token]
            self._doubted = [(token, wait) for token, wait in self._doubted if wait.subscriber != subscriber]

    def _release(self, token: str) -> list[BarrierWait]:
        waits = self._waiting.pop(token, [])
        for wait in waits:
            self._forget(wait)
        return waits

    def _forget(self, wait: BarrierWait) -> None:
        self._count -= 1
        left = self._per_subscriber.get(wait.subscriber, 0) - 1
        if left > 0:
            self._per_subscriber[wait.subscriber] = left
        else:
            self._per_subscriber.pop(wait.subscriber, None)
