"""How long until the caches were live again after a fault, from what the readers wrote about their state.

Measured from the instant at which the fault was over to the last of the readers that it had thrown out of "live". A
fault that threw nobody out went unnoticed, and says nothing about coming back. Faults come faster than some can be got
over; when another one that concerns the same readers began in between, or they were not live to begin with, the time
belongs to both and to neither, and the fault is counted as interrupted. Pure.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.checker.faults import Happened

LIVE = "live"
LOAD = ("burst", "deaf_client")  # they throw nobody out, and so interrupt nothing
NOTICED_WITHIN_S = 3.0  # of its end: a connection that was black-holed looks healthy for a while


@dataclass(frozen=True, slots=True)
class StateChange:
    """From `at_s` on the reader was in `state`."""

    at_s: float
    state: str


@dataclass(slots=True)
class Recovery:
    """Seconds from the end of each fault until all readers were live, by kind of fault."""

    by_kind: dict[str, list[float]] = field(default_factory=dict)
    unnoticed: int = 0
    interrupted: int = 0

    @property
    def all_s(self) -> list[float]:
        return [seconds for times in self.by_kind.values() for seconds in times]


def median_and_longest(seconds: Sequence[float]) -> tuple[float, float]:
    """Zeros when there is nothing to tell."""
    return (statistics.median(seconds), max(seconds)) if seconds else (0.0, 0.0)


def states_of(path: Path) -> list[StateChange]:
    """What one reader wrote, in order. A line cut short by a killed process is ignored."""
    lines = path.read_text().split("\n")[:-1]
    return [StateChange(float(at_s), state) for at_s, state in (line.split(" ", 1) for line in lines)]


def recovery(faults: Sequence[Happened], states: Mapping[int, Sequence[StateChange]]) -> Recovery:
    """Over all faults; `states` by the reader's number."""
    result = Recovery()
    for fault in faults:
        concerned = [number for number in states if fault.reader in (None, number)]
        times = [_time_to_live(fault, faults, number, states[number]) for number in concerned]
        told = [seconds for seconds in times if seconds is not None and math.isfinite(seconds)]
        if told:
            result.by_kind.setdefault(fault.kind, []).append(max(told))
        elif any(seconds is not None for seconds in times):
            result.interrupted += 1
        else:
            result.unnoticed += 1
    return result


def _time_to_live(
    fault: Happened, faults: Sequence[Happened], reader: int, changes: Sequence[StateChange]
) -> float | None:
    """Seconds; None when the reader never left live, infinity when another fault makes it impossible to tell."""
    later_s = (
        other.started_s
        for other in faults
        if other.started_s > fault.started_s and other.reader in (None, reader) and other.kind not in LOAD
    )
    next_s = min(later_s, default=math.inf)
    back_s = _back_at(fault, changes, before_s=next_s)
    if back_s is None or back_s > next_s:
        return None if back_s is None else math.inf
    return max(0.0, back_s - fault.healed_s)


def _back_at(fault: Happened, changes: Sequence[StateChange], *, before_s: float) -> float | None:
    """When the reader was live again: None when it never left, infinity when that can not be told."""
    first = bisect_right(changes, fault.started_s, key=lambda change: change.at_s)
    if first == 0 or changes[first - 1].state != LIVE:
        return math.inf
    noticed_by_s = min(fault.healed_s + NOTICED_WITHIN_S, before_s)
    if first == len(changes) or changes[first].at_s > noticed_by_s:
        return None
    # A reader may come back, and leave again, while the fault lasts.
    at_end = max(first, bisect_right(changes, fault.healed_s, key=lambda change: change.at_s) - 1)
    return next((change.at_s for change in changes[at_end:] if change.state == LIVE), math.inf)
