"""Who may connect: limits by rate, in all and by address, decided before the upgrade.

Of the handshakes that may begin at once a part is kept for addresses that have had few of them: one that takes all it
can get leaves that part to others, and loses nothing while there are none. IPv6 counts by the /64 (core/forwarding),
and behind trusted proxies it is their clients who are counted.

Bounds: one counter per address that is connected now, and those of core/allowance. At a limit the answer is an HTTP
status with Retry-After, and nobody who is connected notices. Who is refused by rate is told times that differ, so that
they do not return as one.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgcachewatch_daemon.core.allowance import Allowance, Allowances
from pgcachewatch_daemon.core.forwarding import household
from pgcachewatch_daemon.core.stats import AdmissionStats

RETRY_AFTER_S = 5
RETRY_SPREAD_S = 4
KEPT_PART = 0.25  # of what may begin at once, for addresses within their share
SHARE_PART = 0.05  # of the rate, for each of them; one a second in any case


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """Connections at a time, and how many may begin in a second."""

    connections: int = 10_000
    connections_per_address: int = 10_000
    handshakes_per_s: float = 2_000.0


@dataclass(frozen=True, slots=True)
class Admit:
    """Come in; call `leave` at the end."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """An HTTP status, and when to come back."""

    status: int
    retry_after_s: int
    reason: str


class Admission:
    """Counts who is in.

    >>> admission = Admission(AdmissionLimits(connections=1))
    >>> admission.enter("10.0.0.1"), admission.enter("10.0.0.2").status
    (Admit(), 503)
    """

    def __init__(self, limits: AdmissionLimits) -> None:
        self.stats = AdmissionStats()
        self.limits = limits  # replaced while running; whoever is in stays
        self._handshakes = Allowance()
        self._shares = Allowances()
        self._by_address: dict[str, int] = {}

    def knock(self, address: str, *, now_s: float, chance: float) -> Admit | Refuse:
        """Somebody asks to be let in: asked first, since it costs least. `chance` is in [0, 1)."""
        per_s = self.limits.handshakes_per_s
        after_s = 1 + int(chance * RETRY_SPREAD_S)
        if self._handshakes.wait_s(per_s=per_s, now_s=now_s):
            return self._refuse(503, f"more than {per_s:g} clients in one second; try again", after_s)
        if self._handshakes.wait_s(per_s=per_s, now_s=now_s, at_once=per_s * (1 - KEPT_PART)):
            share = max(per_s * SHARE_PART, min(per_s, 1.0))
            if self._shares.take(household(address), per_s=share, now_s=now_s):
                return self._refuse(429, "too many clients of one address in one second; try again", after_s)
        self._handshakes.take(per_s=per_s, now_s=now_s)
        return Admit()

    def enter(self, address: str) -> Admit | Refuse:
        """A connection from `address` asks to be upgraded."""
        if self.stats.connections >= self.limits.connections:
            return self._refuse(503, f"full: {self.limits.connections} connections")
        place = household(address)
        count = self._by_address.get(place, 0)
        if count >= self.limits.connections_per_address:
            return self._refuse(429, f"too many connections from one address: {count}")
        self._by_address[place] = count + 1
        self.stats.connections += 1
        return Admit()

    def leave(self, address: str) -> None:
        """A connection that was admitted has ended."""
        self.stats.connections -= 1
        place = household(address)
        left = self._by_address[place] - 1
        if left:
            self._by_address[place] = left
        else:
            del self._by_address[place]

    def _refuse(self, status: int, reason: str, retry_after_s: int = RETRY_AFTER_S) -> Refuse:
        self.stats.refused[status] = self.stats.refused.get(status, 0) + 1
        return Refuse(status, retry_after_s, reason)
