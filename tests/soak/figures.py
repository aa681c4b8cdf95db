"""Whether a row of numbers grows: the slope of Theil and Sen, which a few wild values do not move.

A process breathes: bursts fill queues, and the allocator keeps what it got for a while. So what is compared are medians
of whole minutes, and the slope is the median of the slopes between all pairs of them. It comes with an interval: where
that holds zero, or a growth below the bound, nothing was shown to grow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median, quantiles

MINUTE_S = 60.0
HOUR_S = 3600.0
CONFIDENCE_Z = 1.96  # 95 %, of a normal distribution

Point = tuple[float, float]  # seconds, value


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth in an hour, and the 95 % interval of it. Of points that follow one another closely it is too narrow."""

    per_hour: float
    low_per_hour: float
    high_per_hour: float


def minute_medians(points: Sequence[Point], *, step_s: float = MINUTE_S) -> list[Point]:
    """The middle and the median of each step that has points.

    >>> minute_medians([(0.0, 1.0), (10.0, 9.0), (20.0, 2.0), (70.0, 5.0)])
    [(30.0, 2.0), (90.0, 5.0)]
    """
    steps: dict[int, list[float]] = {}
    for at_s, value in points:
        steps.setdefault(int(at_s // step_s), []).append(value)
    return [((step + 0.5) * step_s, median(values)) for step, values in sorted(steps.items())]


def slope(points: Sequence[Point]) -> Slope:
    """Theil's and Sen's. The interval is Sen's, from the variance of Kendall's S.

    >>> slope([(0.0, 1.0), (3600.0, 2.0), (7200.0, 3.0)]).per_hour
    1.0
    """
    if len(points) < 2:
        raise ValueError(f"a slope wants two points or more, here are {len(points)}: let the soak run longer")
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0]) * HOUR_S for earlier, later in combinations(points, 2)
    )
    count = len(points)
    spread = CONFIDENCE_Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, math.floor((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, math.ceil((len(slopes) + spread) / 2))
    return Slope(median(slopes), slopes[low], slopes[high])


@dataclass(frozen=True, slots=True)
class Quarters:
    """Medians of the first and of the last quarter."""

    first: float
    last: float

    @property
    def growth(self) -> float:
        return self.last - self.first


def quarters(points: Sequence[Point]) -> Quarters:
    """By time; `points` are in order of it.

    >>> quarters([(float(second), float(second)) for second in range(8)])
    Quarters(first=0.5, last=6.5)
    """
    first_s, last_s = points[0][0], points[-1][0]
    quarter_s = (last_s - first_s) / 4
    return Quarters(
        median(value for at_s, value in points if at_s <= first_s + quarter_s),
        median(value for at_s, value in points if at_s >= last_s - quarter_s),
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """One of 1 to 99; of a single value, that."""
    return values[0] if len(values) == 1 else quantiles(values, n=100, method="inclusive")[percent - 1]
