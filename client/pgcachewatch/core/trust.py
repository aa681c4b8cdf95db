"""How long, and since when without a break, entries may be served.

A Trust is shared by every cache of one link. It holds the two things a hit has to look at besides its entry:

- `deadline`: the local monotonic instant, in seconds, up to which freshness is proven (the lease). Infinite when the
  link needs no lease, minus infinity when nothing may be served, or when each hit must first ask its context (`hold`).
- `generation`: another number after each gap. What was filled under an earlier number is never served again (G6).

Both are read lock-free on each hit and written by one thread, the one that hears the link. A generation that was left
never comes back, so a late writer can make entries unservable but can not bring dead ones to life.

Bound: constant size.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

FOREVER = float("inf")
NEVER = float("-inf")


class Lease(Protocol):
    """What a cache reads. Reading `deadline` may look at the link, and so change `generation`: read it first."""

    @property
    def deadline(self) -> float: ...

    @property
    def lease(self) -> float: ...

    @property
    def generation(self) -> int: ...


class Trust:
    """The lease of a link that proves its freshness, and the count of its gaps.

    >>> trust = Trust()
    >>> trust.renew(12.5)
    >>> trust.deadline, trust.generation
    (12.5, 0)
    >>> trust.gap()
    >>> trust.generation
    1
    """

    __slots__ = ("__weakref__", "_generations", "_held", "_holds", "deadline", "generation")

    def __init__(self, deadline: float = NEVER) -> None:
        self._generations = itertools.count(1)
        self._holds = 0
        self._held = NEVER  # the deadline, while hits are held back
        self.generation = 0
        self.deadline = deadline

    @property
    def lease(self) -> float:
        """The deadline, whether or not somebody holds hits back: what the slow path goes by."""
        return max(self._held, self.deadline)

    def renew(self, deadline: float) -> None:
        """Freshness is proven until `deadline`; NEVER takes the lease away."""
        if self._holds:
            self._held = deadline
        else:
            self.deadline = deadline

    def gap(self) -> None:
        """Continuity broke: nothing filled up to now may be served again. O(1)."""
        self.generation = next(self._generations)

    def hold(self) -> None:
        """Send each hit through the slow path, which asks whether its own context wants the cache at all.

        >>> trust = Trust(12.5)
        >>> trust.hold()
        >>> trust.deadline, trust.lease
        (-inf, 12.5)
        """
        self._held, self.deadline = self.lease, NEVER
        self._holds += 1

    def release(self) -> None:
        """Undo one `hold`."""
        self._holds -= 1
        if not self._holds:
            self.deadline, self._held = self.lease, NEVER


class PolledTrust:
    """For links that prove nothing and can only be asked: healthy or not.

    Each read of `deadline` asks. From the answer "unhealthy" on, entries from before are dead, also when health comes
    back: what happened meanwhile is unknown. `is_cleared`, asked only while healthy, says whether something was
    invalidated since it was last asked. A question that raises counts as the answer that serves nothing.

    >>> healthy = True
    >>> trust = PolledTrust(lambda: healthy)
    >>> trust.deadline, trust.generation
    (inf, 0)
    >>> healthy = False
    >>> trust.deadline, trust.generation
    (-inf, 1)
    """

    __slots__ = ("__weakref__", "_generations", "_is_cleared", "_is_healthy", "_was_healthy", "generation", "report")

    def __init__(
        self,
        is_healthy: Callable[[], bool],
        is_cleared: Callable[[], bool] | None = None,
        report: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._generations = itertools.count(1)
        self._is_healthy = is_healthy
        self._is_cleared = is_cleared
        self._was_healthy = True
        self.generation = 0
        self.report = report

    @property
    def deadline(self) -> float:  # hot path
        """FOREVER while healthy, NEVER otherwise."""
        try:
            if self._is_healthy():
                if self._is_cleared is not None and self._ask_cleared(self._is_cleared):
                    self.generation = next(self._generations)
                self._was_healthy = True
                return FOREVER
        except Exception as error:
            self.report(error)
        if self._was_healthy:
            self.generation = next(self._generations)
            self._was_healthy = False
        return NEVER

    @property
    def lease(self) -> float:
        """As `deadline`: nobody holds back the hits of a polled link."""
        return self.deadline

    def _ask_cleared(self, is_cleared: Callable[[], bool]) -> bool:
        try:
            return is_cleared()
        except Exception as error:
            self.report(error)
            return True
