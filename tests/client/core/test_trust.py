"""What a hit goes by: the lease, and the count of gaps."""

from __future__ import annotations

import pytest

from pgcachewatch.core.trust import FOREVER, NEVER, PolledTrust, Trust


def test_nothing_may_be_served_before_a_lease_was_given() -> None:
    assert Trust().deadline == NEVER


def test_every_gap_is_another_generation() -> None:
    trust = Trust()
    seen = {trust.generation}
    for _ in range(100):
        trust.gap()
        assert trust.generation not in seen
        seen.add(trust.generation)


def test_held_hits_see_no_deadline_while_the_lease_goes_on_and_is_renewed() -> None:
    trust = Trust(5.0)
    trust.hold()
    trust.hold()
    assert (trust.deadline, trust.lease) == (NEVER, 5.0)

    trust.renew(8.0)
    assert (trust.deadline, trust.lease) == (NEVER, 8.0)

    trust.release()
    assert (trust.deadline, trust.lease) == (NEVER, 8.0)

    trust.release()
    assert (trust.deadline, trust.lease) == (8.0, 8.0)


def test_a_lease_that_ends_while_hits_are_held_is_over_afterwards() -> None:
    trust = Trust(5.0)
    trust.hold()
    trust.renew(NEVER)
    trust.release()

    assert (trust.deadline, trust.lease) == (NEVER, NEVER)


def test_a_polled_link_that_was_unhealthy_once_leaves_a_gap_behind() -> None:
    answers = iter([True, False, False, True, False])
    trust = PolledTrust(lambda: next(answers))

    seen = [(trust.deadline, trust.generation) for _ in range(5)]

    assert seen == [(FOREVER, 0), (NEVER, 1), (NEVER, 1), (FOREVER, 1), (NEVER, 2)]


def test_a_polled_link_that_was_cleared_is_another_generation() -> None:
    answers = iter([False, True, False])
    trust = PolledTrust(lambda: True, lambda: next(answers))

    seen = [(trust.deadline, trust.generation) for _ in range(3)]

    assert seen == [(FOREVER, 0), (FOREVER, 1), (FOREVER, 1)]


def test_a_link_is_not_asked_whether_it_was_cleared_while_it_is_unhealthy() -> None:
    trust = PolledTrust(lambda: False, lambda: pytest.fail("asked"))

    assert trust.deadline == NEVER


@pytest.mark.parametrize("question", ["healthy", "cleared"])
def test_a_question_that_raises_serves_nothing_old(question: str) -> None:
    reported: list[Exception] = []

    def fail() -> bool:
        raise ZeroDivisionError

    trust = (
        PolledTrust(fail, report=reported.append)
        if question == "healthy"
        else PolledTrust(lambda: True, fail, reported.append)
    )

    before = trust.generation
    assert trust.lease in (NEVER, FOREVER)
    assert trust.generation != before
    assert len(reported) == 1
