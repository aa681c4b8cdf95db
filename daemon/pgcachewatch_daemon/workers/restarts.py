"""When a worker that ended is replaced, and when the relay gives up instead.

The first replacement comes at once: a worker that was killed is to be missed for as short as possible. One that ends
again and again soon after its start is not going to work the next time either; the pauses double, and after TRIES of
them the relay ends with an error, so that whoever supervises it sees one. Pure: instants are parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

TRIES = 6
LASTED_S = 10.0  # who served for so long has begun anew
PAUSE_S = 0.2
PAUSE_MAX_S = 3.0


@dataclass(frozen=True, slots=True)
class Again:
    """Start another after `pause_s`."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It ended `tries` times in a row before it had lasted."""

    tries: int


class Restarts:
    """Of one worker's place.

    >>> restarts = Restarts()
    >>> [restarts.ended(served_s=0.0) for _ in range(3)]
    [Again(pause_s=0.0), Again(pause_s=0.2), Again(pause_s=0.4)]
    """

    def __init__(self) -> None:
        self._failures = 0

    def ended(self, *, served_s: float) -> Again | GiveUp:
        """What to do about a worker that has ended unasked after it had served for so long; 0: it never did."""
        if served_s >= LASTED_S:
            self._failures = 0
        self._failures += 1
        if self._failures >= TRIES:
            return GiveUp(self._failures)
        return Again(min(PAUSE_MAX_S, PAUSE_S * 2 ** (self._failures - 2)) if self._failures > 1 else 0.0)
