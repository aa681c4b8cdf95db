"""Who may connect: limits by rate, in all and by address, decided before the upgrade.

Bounds: one counter per address that is connected now. At a limit the answer is an HTTP status with Retry-After, and
nobody who is connected notices. Who is refused by rate is told times that differ, so that they do not return as one.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgcachewatch_daemon.core.allowance import Allowance
from pgcachewatch_daemon.core.stats import AdmissionStats

RETRY_AFTER_S = 5
RETRY_SPREAD_S = 4


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
        self._by_address: dict[str, int] = {}

    def knock(self, *, now_s: float, chance: float) -> Admit | Refuse:
        """Somebody asks to be let in: asked first, since it costs least. `chance` is in [0, 1)."""
        per_s = self.limits.handshakes_per_s
        if self._handshakes.take(per_s=per_s, now_s=now_s):
            text = f"more than {per_s:g} clients in one second; try again"
            return self._refuse(503, text, 1 + int(chance * RETRY_SPREAD_S))
        return Admit()

    def enter(self, address: str) -> Admit | Refuse:
        """A connection from `address` asks to be upgraded."""
        if self.stats.connections >= self.limits.connections:
            return self._refuse(503, f"full: {self.limits.connections} connections")
        count = self._by_address.get(address, 0)
        if count >= self.limits.connections_per_address:
            return self._refuse(429, f"too many connections from one address: {count}")
        self._by_address[address] = count + 1
        self.stats.connections += 1
        return Admit()

    def leave(self, address: str) -> None:
        """A connection that was admitted has ended."""
        self.stats.connections -= 1
        left = self._by_address[address] - 1
        if left:
            self._by_address[address] = left
        else:
            del self._by_address[address]

    def _refuse(self, status: int, reason: str, retry_after_s: int = RETRY_AFTER_S) -> Refuse:
        self.stats.refused[status] = self.stats.refused.get(status, 0) + 1
        return Refuse(status, retry_after_s, reason)
