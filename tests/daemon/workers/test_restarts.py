"""A worker is replaced at once, one that never works is not tried for ever."""

from __future__ import annotations

from pgcachewatch_daemon.workers.restarts import LASTED_S, PAUSE_MAX_S, TRIES, Again, GiveUp, Restarts


def test_pauses_grow_to_a_limit_and_then_it_is_given_up() -> None:
    restarts = Restarts()
    verdicts = [restarts.ended(served_s=1.0) for _ in range(TRIES)]
    pauses = [each.pause_s for each in verdicts if isinstance(each, Again)]
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert max(pauses) <= PAUSE_MAX_S
    assert verdicts[-1] == GiveUp(TRIES)
    assert len(pauses) == TRIES - 1


def test_one_that_lasted_is_replaced_at_once_however_often() -> None:
    restarts = Restarts()
    assert [restarts.ended(served_s=LASTED_S) for _ in range(3 * TRIES)] == [Again(0.0)] * 3 * TRIES


def test_one_that_lasted_makes_up_for_those_that_did_not() -> None:
    restarts = Restarts()
    for _ in range(TRIES - 1):
        restarts.ended(served_s=0.0)
    assert restarts.ended(served_s=LASTED_S) == Again(0.0)
    assert isinstance(restarts.ended(served_s=0.0), Again)
