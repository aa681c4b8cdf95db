"""A worker that starts later is handed at least what a history with the same limits would still have."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.core.history import OVERHEAD_BYTES, HistoryLimits
from pgcachewatch_daemon.workers.journal import Journal


def filled(limits: HistoryLimits, runs: list[int], *, size_bytes: int = 10) -> Journal:
    journal, seq = Journal(limits), 0
    for number, events in enumerate(runs):
        seq += events
        journal.append(b"x" * size_bytes, seq=seq, events=events, at_s=float(number))
    return journal


@pytest.mark.parametrize(
    "limits",
    [HistoryLimits(events=3), HistoryLimits(bytes=3 * (OVERHEAD_BYTES + 10)), HistoryLimits(age_s=2.0)],
    ids=["events", "bytes", "age"],
)
def test_each_limit_gives_up_the_oldest_and_raises_the_floor(limits: HistoryLimits) -> None:
    journal = filled(limits, [1] * 10)
    assert (journal.floor, journal.events, len(journal.frames)) == (7, 3, 3)
    assert journal.size_bytes == 3 * (OVERHEAD_BYTES + 10)
    assert journal.oldest_age_s(11.0) == 4.0


@given(runs=st.lists(st.integers(1, 50), max_size=30), limit=st.integers(1, 100))
def test_it_keeps_the_limit_or_more_and_never_a_whole_frame_more(runs: list[int], limit: int) -> None:
    journal = filled(HistoryLimits(events=limit), runs)
    assert journal.floor + journal.events == sum(runs)
    assert journal.events >= min(limit, sum(runs))
    oldest = runs[len(runs) - len(journal.frames)] if journal.frames else 0
    assert journal.events - oldest < limit


def test_a_new_epoch_begins_with_nothing() -> None:
    journal = filled(HistoryLimits(events=1), [1, 1])
    journal.begin_after(7)
    assert (journal.floor, journal.events, journal.size_bytes, list(journal.frames)) == (7, 0, 0, [])
    assert journal.oldest_age_s(5.0) == 0.0
