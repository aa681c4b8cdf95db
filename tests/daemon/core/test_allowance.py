"""So many a second, after a pause so many at once, and each key by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.core.allowance import Allowance, Allowances


def taken(allowance: Allowance, now_s: float, tries: int) -> int:
    return sum(allowance.take(per_s=2.0, at_once=5, now_s=now_s) == 0 for _ in range(tries))


def test_so_many_may_happen_at_once_and_the_rate_after_them() -> None:
    allowance = Allowance()

    assert taken(allowance, 100.0, 9) == 5
    assert taken(allowance, 101.0, 9) == 2
    assert taken(allowance, 101.4, 9) == 0
    assert taken(allowance, 101.5, 9) == 1


def test_silence_gives_back_what_may_happen_at_once_and_no_more() -> None:
    allowance = Allowance()
    taken(allowance, 0.0, 5)

    assert taken(allowance, 1_000.0, 99) == 5


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance()
    taken(allowance, 10.0, 5)

    assert taken(allowance, 5.0, 9) == 0
    assert taken(allowance, 10.5, 9) == 1


def test_a_second_of_it_may_happen_at_once_unless_told() -> None:
    allowance = Allowance()
    assert [allowance.take(per_s=10, now_s=100.0) for _ in range(10)] == [0.0] * 10
    assert allowance.take(per_s=10, now_s=100.0) == pytest.approx(0.1)


def test_the_time_it_names_is_the_time_from_which_it_may() -> None:
    allowance = Allowance()
    for _ in range(10):
        allowance.take(per_s=10, now_s=5.0)
    wait_s = allowance.take(per_s=10, now_s=5.0)
    assert allowance.take(per_s=10, now_s=5.0 + wait_s / 2) > 0
    assert allowance.take(per_s=10, now_s=5.0 + wait_s + 1e-6) == 0


def test_to_ask_for_the_time_takes_nothing() -> None:
    allowance = Allowance()
    assert [allowance.wait_s(per_s=1, now_s=0.0) for _ in range(3)] == [0.0] * 3
    assert allowance.take(per_s=1, now_s=0.0) == 0
    assert allowance.wait_s(per_s=1, now_s=0.0) == pytest.approx(1.0)


def test_less_than_one_a_second_still_lets_one_in() -> None:
    allowance = Allowance()
    assert allowance.take(per_s=0.1, now_s=0.0) == 0
    assert allowance.take(per_s=0.1, now_s=9.0) == pytest.approx(1.0)
    assert allowance.take(per_s=0.1, now_s=10.1) == 0


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), max_size=200))
def test_over_any_time_no_more_than_the_rate_and_one_second_of_it(per_s: int, pauses: list[float]) -> None:
    allowance, now_s, count = Allowance(), 0.0, 0
    for pause in pauses:
        now_s += pause
        count += allowance.take(per_s=per_s, now_s=now_s) == 0
    assert count <= per_s * (1 + now_s) + 1e-6


def test_a_rate_that_changes_counts_from_then_on() -> None:
    allowance = Allowance()
    assert allowance.take(per_s=1, now_s=0.0) == 0
    assert allowance.take(per_s=1, now_s=0.0) > 0
    assert allowance.take(per_s=100, now_s=0.5) == 0


def test_one_key_does_not_use_what_is_for_another() -> None:
    allowances = Allowances()
    allowances.take("a", per_s=1.0, now_s=0.0)

    assert allowances.wait_s("a", per_s=1.0, now_s=0.0) == pytest.approx(1.0)
    assert allowances.take("a", per_s=1.0, now_s=0.0) == pytest.approx(1.0)
    assert allowances.wait_s("b", per_s=1.0, now_s=0.0) == 0
    assert allowances.take("b", per_s=1.0, now_s=0.0) == 0


def test_keys_are_bounded_and_the_one_used_longest_ago_is_forgotten() -> None:
    allowances = Allowances(keys_limit=2)
    for key in ("a", "b", "a", "c"):
        allowances.take(key, per_s=0.001, now_s=0.0)

    assert len(allowances) == 2
    assert allowances.wait_s("a", per_s=0.001, now_s=0.0) > 0
    assert allowances.wait_s("b", per_s=0.001, now_s=0.0) == 0
