"""So many a second, and after a pause that many at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.core.rate import Rate


def test_what_was_not_used_is_there_at_once_and_no_more_than_one_second_of_it() -> None:
    rate = Rate(now_s=0.0)
    assert [rate.take(per_s=10, now_s=100.0) for _ in range(10)] == [0.0] * 10
    assert rate.take(per_s=10, now_s=100.0) == pytest.approx(0.1)


def test_the_time_it_names_is_the_time_from_which_it_may() -> None:
    rate = Rate(now_s=0.0)
    for _ in range(10):
        rate.take(per_s=10, now_s=5.0)
    wait_s = rate.take(per_s=10, now_s=5.0)
    assert rate.take(per_s=10, now_s=5.0 + wait_s / 2) > 0
    assert rate.take(per_s=10, now_s=5.0 + wait_s + 1e-6) == 0


def test_less_than_one_a_second_still_lets_one_in() -> None:
    rate = Rate(now_s=0.0)
    assert rate.take(per_s=0.1, now_s=0.0) == 0
    assert rate.take(per_s=0.1, now_s=9.0) == pytest.approx(1.0)
    assert rate.take(per_s=0.1, now_s=10.1) == 0


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), max_size=200))
def test_over_any_time_no_more_than_the_rate_and_one_second_of_it(per_s: int, pauses: list[float]) -> None:
    rate, now_s, taken = Rate(now_s=0.0), 0.0, 0
    for pause in pauses:
        now_s += pause
        taken += rate.take(per_s=per_s, now_s=now_s) == 0
    assert taken <= per_s * (1 + now_s) + 1e-6


def test_a_rate_that_changes_counts_from_then_on() -> None:
    rate = Rate(now_s=0.0)
    assert rate.take(per_s=1, now_s=0.0) == 0
    assert rate.take(per_s=1, now_s=0.0) > 0
    assert rate.take(per_s=100, now_s=0.5) == 0
