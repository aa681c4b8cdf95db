"""Who may connect: at the limit, one over it, and after somebody left."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.core.admission import Admission, AdmissionLimits, Admit, Refuse


def test_the_limit_in_all_is_a_503_until_somebody_leaves() -> None:
    admission = Admission(AdmissionLimits(connections=2))
    assert admission.enter("a") == admission.enter("b") == Admit()
    refused = admission.enter("c")
    assert isinstance(refused, Refuse)
    assert refused.status == 503
    admission.leave("a")
    assert admission.enter("c") == Admit()
    assert admission.stats.refused == {503: 1}


def test_the_limit_of_one_address_is_a_429_and_others_do_not_notice() -> None:
    admission = Admission(AdmissionLimits(connections_per_address=1))
    admission.enter("a")
    refused = admission.enter("a")
    assert isinstance(refused, Refuse)
    assert refused.status == 429
    assert admission.enter("b") == Admit()
    admission.leave("a")
    assert admission.enter("a") == Admit()
    assert admission.stats.connections == 2


def test_who_comes_too_fast_is_a_503_and_a_second_later_welcome() -> None:
    admission = Admission(AdmissionLimits(handshakes_per_s=2))
    assert [admission.knock(now_s=0.0, chance=0.5) for _ in range(2)] == [Admit(), Admit()]
    refused = admission.knock(now_s=0.0, chance=0.5)
    assert isinstance(refused, Refuse)
    assert refused.status == 503
    assert admission.knock(now_s=1.0, chance=0.5) == Admit()
    assert admission.stats.refused == {503: 1}


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 1), (0.3, 2), (0.999, 4)])
def test_those_who_come_too_fast_are_told_to_return_at_different_times(chance: float, seconds: int) -> None:
    admission = Admission(AdmissionLimits(handshakes_per_s=1))
    admission.knock(now_s=0.0, chance=0.0)
    refused = admission.knock(now_s=0.0, chance=chance)
    assert isinstance(refused, Refuse)
    assert refused.retry_after_s == seconds
