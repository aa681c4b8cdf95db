"""How often something may happen: so many a second, after a pause that many at once.

Pure: `now_s` is a parameter, of any clock that only goes forward. Bound: one number.
"""

from __future__ import annotations


class Rate:
    """A bucket that holds one second's worth, but one at least, and fills at the rate that is asked for.

    >>> rate = Rate(now_s=0.0)
    >>> [rate.take(per_s=2, now_s=0.0) for _ in range(3)], rate.take(per_s=2, now_s=0.5)
    ([0.0, 0.0, 0.5], 0.0)
    """

    __slots__ = ("_full_at_s",)

    def __init__(self, *, now_s: float) -> None:
        self._full_at_s = now_s  # when it is full again if nothing more is taken

    def take(self, *, per_s: float, now_s: float) -> float:
        """0 when it may happen now; else the seconds until one more may, and nothing was taken."""
        cost_s = 1 / per_s
        holds_s = max(1.0, cost_s)
        taken_s = max(0.0, self._full_at_s - now_s) + cost_s
        if taken_s > holds_s + 1e-9:  # sums of fractions
            return taken_s - holds_s
        self._full_at_s = now_s + taken_s
        return 0.0
