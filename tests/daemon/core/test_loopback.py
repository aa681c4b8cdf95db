"""One loopback in flight; it serves the barriers that were asked for before it started, and no others."""

from __future__ import annotations

import itertools

import pytest

from pgcachewatch_daemon.core.loopback import Full, Ignored, Loopback, LoopbackLimits, LoopbackResult


def loopback(limits: LoopbackLimits | None = None) -> Loopback:
    numbers = itertools.count()
    return Loopback(lambda: f"nonce{next(numbers)}", limits or LoopbackLimits())


def returned(one: Loopback, nonce: str) -> LoopbackResult:
    result = one.returned(nonce)
    assert isinstance(result, LoopbackResult)
    return result


@pytest.mark.rule("W-BARRIER-1")
def test_a_barrier_is_served_by_the_first_loopback_that_starts_after_it() -> None:
    one = loopback()
    one.request("a", 1, now_ms=1.0)
    first = one.start(now_ms=2.0)
    one.request("a", 2, now_ms=3.0)
    one.request("b", 1, now_ms=3.5)
    assert [(wait.subscriber, wait.id) for wait in returned(one, first).barriers] == [("a", 1)]
    assert one.has_waiting
    second = returned(one, one.start(now_ms=4.0))
    assert second.as_of_ms == 4.0
    assert [(wait.subscriber, wait.id) for wait in second.barriers] == [("a", 2), ("b", 1)]
    assert (one.stats.sent, one.stats.returned, one.stats.barriers) == (2, 2, 3)


@pytest.mark.rule("W-MARK-1")
def test_only_the_nonce_in_flight_proves_anything_and_only_once() -> None:
    one = loopback()
    old = one.start(now_ms=1.0)
    one.reset()
    new = one.start(now_ms=2.0)
    assert one.returned(old) == Ignored()
    assert one.returned("forged") == Ignored()
    assert returned(one, new).as_of_ms == 2.0
    assert one.returned(new) == Ignored()
    assert one.stats.ignored == 3


def test_a_lost_connection_keeps_the_barriers_and_forgets_the_proof() -> None:
    one = loopback()
    one.request("a", 1, now_ms=0.0)
    returned(one, one.start(now_ms=1.0))
    one.request("a", 2, now_ms=2.0)
    one.start(now_ms=3.0)
    one.request("a", 3, now_ms=4.0)
    one.reset()
    assert one.last_as_of_ms is None
    assert [wait.id for wait in returned(one, one.start(now_ms=9.0)).barriers] == [2, 3]


def test_overdue_speaks_of_the_one_in_flight() -> None:
    one = loopback()
    assert not one.overdue(1e9, limit_ms=1.0)
    one.start(now_ms=100.0)
    assert not one.overdue(200.0, limit_ms=100.0)
    assert one.overdue(200.1, limit_ms=100.0)


@pytest.mark.parametrize(("barriers", "each"), [(2, 10), (10, 2)])
def test_barriers_may_reach_the_limit_and_one_more_is_refused(barriers: int, each: int) -> None:
    one = loopback(LoopbackLimits(barriers=barriers, barriers_per_subscriber=each))
    assert [one.request("a", number, now_ms=0.0) for number in range(3)] == [None, None, Full(each)]
    returned(one, one.start(now_ms=0.0))
    assert one.request("a", 9, now_ms=0.0) is None


def test_who_leaves_waits_for_nothing() -> None:
    one = loopback()
    one.request("a", 1, now_ms=0.0)
    nonce = one.start(now_ms=0.0)
    one.request("a", 2, now_ms=0.0)
    one.drop("a")
    assert not one.has_waiting
    assert returned(one, nonce).barriers == ()


@pytest.mark.parametrize(
    ("behind", "snapshot"),
    [
        ("", None),
        (" 10:20:10,14", "10:20:10,14"),
        (" 10:20:" + ",".join(["10"] * 900), "20:20:"),  # cut or too long: all that ran is taken for over
    ],
)
def test_the_snapshot_that_came_back_is_told_within_its_bound(behind: str, snapshot: str | None) -> None:
    one = loopback()

    assert returned(one, one.start(now_ms=1.0) + behind).snapshot == snapshot


@pytest.mark.rule("W-BARRIER-1")
def test_the_proof_of_another_process_serves_what_was_asked_for_by_then() -> None:
    one = loopback()
    for number, asked_ms in enumerate((1.0, 2.0, 2.5), 1):
        one.request("a", number, now_ms=asked_ms)
    result = one.proven(2.0, "10:20:")
    assert [wait.id for wait in result.barriers] == [1, 2]
    assert (result.as_of_ms, result.snapshot, one.last_as_of_ms) == (2.0, "10:20:", 2.0)
    assert one.has_waiting
    assert [wait.id for wait in one.proven(3.0).barriers] == [3]
    assert one.stats.barriers == 3
    assert one.proven(4.0).barriers == ()


def test_what_another_process_proved_gives_its_subscriber_room_again() -> None:
    one = loopback(LoopbackLimits(barriers_per_subscriber=1))
    one.request("a", 1, now_ms=1.0)
    assert one.request("a", 2, now_ms=1.0) == Full(1)
    one.proven(1.0)
    assert one.request("a", 3, now_ms=2.0) is None
