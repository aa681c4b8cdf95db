"""How often something may happen: so many a second, after a pause that many at once.

Pure: `now_s` is a parameter, of any clock that only goes forward. Bound: two numbers.
"""

from __future__ import annotations


class Rate:
    """A bucket that holds one second's worth, but one at least, and fills at `per_s`.

    >>> rate = Rate(2, now_s=0.0)
    >>> [rate.take(now_s=0.0) for _ in range(3)], rate.take(now_s=0.5)
    ([0.0, 0.0, 0.5], 0.0)
    """

    __slots__ = ("_cost_s", "_full_at_s", "_holds_s")

    def __init__(self, per_s: float, *, now_s: float) -> None:
        self._cost_s = 1 / per_s
        self._holds_s = max(1.0, self._cost_s) + 1e-9  # sums of fractions
        self._full_at_s = now_s  # when it is full again if nothing more is taken

    def take(self, *, now_s: float) -> float:
        """0 when it may happen now; else the seconds until one more may, and nothing was taken."""
        taken_s = max(0.0, self._full_at_s - now_s) + self._cost_s
        if taken_s > self._holds_s:
            return taken_s - self._holds_s
        self._full_at_s = now_s + taken_s
        return 0.0
