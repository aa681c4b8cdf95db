"""Who may connect: at the limit, one over it, and after somebody left."""

from __future__ import annotations

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
