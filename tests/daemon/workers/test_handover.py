"""A worker that starts later is handed at least what a history with the same limits would still have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.core.history import OVERHEAD_BYTES, HistoryLimits
from pgcachewatch_daemon.workers.handover import Handover


def filled(limits: HistoryLimits, runs: list[int], *, size_bytes: int = 10) -> Handover:
    handover, seq = Handover(limits), 0
    for number, events in enumerate(runs):
        seq += events
        handover.append(b"x" * size_bytes, seq=seq, events=events, at_s=float(number))
    return handover


@pytest.mark.parametrize(
    "limits",
    [HistoryLimits(events=3), HistoryLimits(bytes=3 * (OVERHEAD_BYTES + 10)), HistoryLimits(age_s=2.0)],
    ids=["events", "bytes", "age"],
)
def test_each_limit_gives_up_the_oldest_and_raises_the_floor(limits: HistoryLimits) -> None:
    handover = filled(limits, [1] * 10)
    assert (handover.floor, handover.events, len(handover.frames)) == (7, 3, 3)
    assert handover.size_bytes == 3 * (OVERHEAD_BYTES + 10)
    assert handover.oldest_age_s(11.0) == 4.0


@given(runs=st.lists(st.integers(1, 50), max_size=30), limit=st.integers(1, 100))
def test_it_keeps_the_limit_or_more_and_never_a_whole_frame_more(runs: list[int], limit: int) -> None:
    handover = filled(HistoryLimits(events=limit), runs)
    assert handover.floor + handover.events == sum(runs)
    assert handover.events >= min(limit, sum(runs))
    oldest = runs[len(runs) - len(handover.frames)] if handover.frames else 0
    assert handover.events - oldest < limit


def test_a_new_epoch_begins_with_nothing() -> None:
    handover = filled(HistoryLimits(events=1), [1, 1])
    handover.begin_after(7)
    assert (handover.floor, handover.events, handover.size_bytes, list(handover.frames)) == (7, 0, 0, [])
    assert handover.oldest_age_s(5.0) == 0.0
