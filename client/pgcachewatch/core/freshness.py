"""The lease: until when may the cache be served, by this process's monotonic clock alone.

The relay proves freshness in its own time: "every commit that returned before my instant `a` has been applied". To use
that, `a` must be placed on our clock, and erring early is the only safe way to err. A clock sample (c, n) says: the
relay's clock showed n at or after our instant c. Hence the relay's instant a happened at or after

    c + (a - n), less what the two clocks may drift apart over |a - n|

and that lower bound is what the cache is fresh as of. The lease ends one staleness bound later. No wall clock takes
part (W-LEASE-2), so a skewed or stepped one changes nothing.

Invariants: a proof never moves the deadline back; a proof never reaches past the instant it arrived, whatever the relay
claims; samples belong to one connection; a doubt (link lost, source lost) leaves the deadline where it was, since what
was proven stays proven (W-LEASE-3). Bound: one sample is kept, the one that gives the best bound.
On the path of an event: step 12, serve.
"""

from __future__ import annotations

from pgcachewatch.core.trust import NEVER
from pgcachewatch.protocol.transitions import TRUST, Trust, TrustInput

# Crystals in servers are good for about 50 parts per million, and NTP may slew a clock by 500 more.
DRIFT_ALLOWANCE = 550e-6


class Freshness:
    """Deadline and trust state of one client. All times are seconds of the local monotonic clock, unless named `_ms`.

    >>> freshness = Freshness(staleness_s=2.0)
    >>> freshness.sample(local_s=100.0, relay_ms=5_000.0)
    >>> freshness.prove(as_of_ms=5_000.0, now_s=100.3)
    >>> freshness.deadline_s, freshness.trust.value
    (102.0, 'live')
    """

    __slots__ = ("_sample", "_staleness_s", "deadline_s", "trust")

    def __init__(self, *, staleness_s: float) -> None:
        self.trust = Trust.COLD
        self.deadline_s = NEVER
        self._staleness_s = staleness_s
        self._sample: tuple[float, float] | None = None

    @property
    def staleness_s(self) -> float:
        """The bound B of G2."""
        return self._staleness_s

    def begin_connection(self) -> None:
        """Forget the sample: another connection may lead to another relay, whose clock starts elsewhere."""
        self._sample = None

    def sample(self, *, local_s: float, relay_ms: float) -> None:
        """The relay's clock showed `relay_ms` at or after our `local_s`. The better of the old and the new is kept."""
        if self._sample is None or local_s >= _earliest(self._sample, relay_ms):
            self._sample = (local_s, relay_ms)

    def prove(self, *, as_of_ms: float, now_s: float) -> None:
        """Each commit that returned before the relay's `as_of_ms` has been applied; this was heard at `now_s`.

        Without a sample the instant can not be placed, and nothing is proven.
        """
        if self._sample is None:
            return
        fresh_as_of_s = min(_earliest(self._sample, as_of_ms), now_s)
        self.deadline_s = max(self.deadline_s, fresh_as_of_s + self._staleness_s)
        self.trust = TRUST[self.trust, TrustInput.PROVEN]

    def doubt(self) -> None:
        """Link or source is lost. The lease goes on."""
        self.trust = TRUST[self.trust, TrustInput.DOUBTED]

    def lease_left_s(self, *, now_s: float) -> float:
        """Seconds for which hits are allowed; 0 or less when they are not, -inf before the first proof."""
        return self.deadline_s - now_s

    def trust_at(self, *, now_s: float) -> Trust:
        """State at `now_s`: silence past the lease is a doubt too, which no message announces."""
        if self.trust is Trust.LIVE and now_s > self.deadline_s:
            return TRUST[Trust.LIVE, TrustInput.DOUBTED]
        return self.trust


def _earliest(sample: tuple[float, float], relay_ms: float) -> float:
    """The earliest local instant, in seconds, at which the relay's clock can have shown `relay_ms`."""
    local_s, sampled_ms = sample
    elapsed_s = (relay_ms - sampled_ms) / 1000
    return local_s + elapsed_s - DRIFT_ALLOWANCE * abs(elapsed_s)
