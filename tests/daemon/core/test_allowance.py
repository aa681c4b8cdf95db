"""So many at once, so many a second after that, and each key by itself."""

from __future__ import annotations

from pgcachewatch_daemon.core.allowance import Allowance, Allowances


def taken(allowance: Allowance, now_s: float, tries: int) -> int:
    return sum(allowance.take(now_s) for _ in range(tries))


def test_a_burst_is_allowed_at_once_and_the_rate_after_it() -> None:
    allowance = Allowance(rate=2.0, burst=5)

    assert taken(allowance, 100.0, 9) == 5
    assert taken(allowance, 101.0, 9) == 2
    assert taken(allowance, 101.4, 9) == 0
    assert taken(allowance, 101.5, 9) == 1


def test_silence_gives_back_the_burst_and_no_more() -> None:
    allowance = Allowance(rate=2.0, burst=5)
    taken(allowance, 0.0, 5)

    assert taken(allowance, 1_000.0, 99) == 5


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(rate=1.0, burst=1)
    taken(allowance, 10.0, 1)

    assert not allowance.take(5.0)
    assert allowance.take(11.0)


def test_one_key_does_not_use_what_is_for_another() -> None:
    allowances = Allowances(rate=1.0, burst=1)
    allowances.take("a", 0.0)

    assert not allowances.has_any("a", 0.0)
    assert not allowances.take("a", 0.0)
    assert allowances.has_any("b", 0.0)
    assert allowances.take("b", 0.0)


def test_keys_are_bounded_and_the_one_used_longest_ago_is_forgotten() -> None:
    allowances = Allowances(rate=0.001, burst=1, keys_limit=2)
    for key in ("a", "b", "a", "c"):
        allowances.take(key, 0.0)

    assert len(allowances) == 2
    assert not allowances.has_any("a", 0.0)
    assert allowances.has_any("b", 0.0)
