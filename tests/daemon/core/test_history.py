"""Everything after a position, or an honest "too old"; within every limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.models import Gap, Scope
from pgcachewatch_daemon.core.history import OVERHEAD_BYTES, History, HistoryLimits, Replay, TooOld

GAP = Gap(Scope(), "forced")


def filled(limits: HistoryLimits, count: int, *, payload_bytes: int = 0) -> History:
    history = History(limits)
    for seq in range(1, count + 1):
        history.append(seq, GAP, payload_bytes=payload_bytes, now_s=float(seq))
    return history


@pytest.mark.parametrize(
    "limits",
    [HistoryLimits(events=3), HistoryLimits(bytes=3 * (OVERHEAD_BYTES + 10)), HistoryLimits(age_s=2.0)],
    ids=["events", "bytes", "age"],
)
def test_each_limit_keeps_the_newest_and_raises_the_floor(limits: HistoryLimits) -> None:
    history = filled(limits, 10, payload_bytes=10)
    answer = history.since(7)
    assert isinstance(answer, Replay)
    assert [entry.seq for entry in answer.entries] == [8, 9, 10]
    assert history.since(6) == TooOld(7)
    assert (history.events, history.size_bytes) == (3, 3 * (OVERHEAD_BYTES + 10))


def test_the_head_misses_nothing_and_a_new_history_knows_its_beginning() -> None:
    assert filled(HistoryLimits(), 5).since(5) == Replay(())
    assert History(HistoryLimits()).since(0) == Replay(())


def test_a_new_epoch_forgets_everything() -> None:
    history = filled(HistoryLimits(events=2), 5)
    history.forget_all()
    assert history.since(0) == Replay(())
    assert (history.events, history.size_bytes, history.oldest_age_s(9.0)) == (0, 0, 0.0)


def test_the_age_of_the_oldest_is_told() -> None:
    assert filled(HistoryLimits(events=2), 5).oldest_age_s(10.0) == 6.0


@given(count=st.integers(0, 30), limit=st.integers(1, 40), seq=st.integers(0, 30))
def test_a_replay_is_never_partial(count: int, limit: int, seq: int) -> None:
    answer = filled(HistoryLimits(events=limit), count).since(min(seq, count))
    if isinstance(answer, Replay):
        assert [entry.seq for entry in answer.entries] == list(range(min(seq, count) + 1, count + 1))
    else:
        assert min(seq, count) < count - limit


def test_a_history_that_begins_later_knows_nothing_from_before() -> None:
    history = filled(HistoryLimits(), 3)
    history.begin_after(7)
    assert history.since(6) == TooOld(7)
    assert history.since(7) == Replay(())
    history.append(8, GAP, payload_bytes=0, now_s=8.0)
    answer = history.since(7)
    assert isinstance(answer, Replay)
    assert [entry.seq for entry in answer.entries] == [8]
    assert history.events == 1
