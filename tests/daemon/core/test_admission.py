"""Who may connect: at the limit, one over it, and after somebody left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

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
    assert [admission.knock("a", now_s=0.0, chance=0.5) for _ in range(2)] == [Admit(), Admit()]
    refused = admission.knock("a", now_s=0.0, chance=0.5)
    assert isinstance(refused, Refuse)
    assert refused.status == 503
    assert admission.knock("a", now_s=1.0, chance=0.5) == Admit()
    assert admission.stats.refused == {503: 1}


@pytest.mark.parametrize(("chance", "seconds"), [(0.0, 1), (0.3, 2), (0.999, 4)])
def test_those_who_come_too_fast_are_told_to_return_at_different_times(chance: float, seconds: int) -> None:
    admission = Admission(AdmissionLimits(handshakes_per_s=1))
    admission.knock("a", now_s=0.0, chance=0.0)
    refused = admission.knock("a", now_s=0.0, chance=chance)
    assert isinstance(refused, Refuse)
    assert refused.retry_after_s == seconds


def knocks(admission: Admission, addresses: Iterable[str], *, now_s: float = 0.0) -> Counter[tuple[str, int]]:
    """How often each was answered how; 101 is let in."""
    answers: Counter[tuple[str, int]] = Counter()
    for address in addresses:
        answer = admission.knock(address, now_s=now_s, chance=0.0)
        answers[address, answer.status if isinstance(answer, Refuse) else 101] += 1
    return answers


def test_an_address_that_takes_all_it_can_get_leaves_others_their_part() -> None:
    admission = Admission(AdmissionLimits(handshakes_per_s=100))

    assert knocks(admission, ["flood"] * 1_000) == {("flood", 101): 75 + 5, ("flood", 429): 920}
    assert knocks(admission, [f"10.0.0.{number}" for number in range(20)]).total() == 20
    assert knocks(admission, ["late"]) == {("late", 503): 1}


def test_a_flood_that_lasts_takes_the_rate_and_nobody_else_is_refused() -> None:
    admission = Admission(AdmissionLimits(handshakes_per_s=100))
    answers: Counter[tuple[str, int]] = Counter()
    for tick in range(1_000):  # of 10 ms: one may begin in each
        answers += knocks(admission, ["flood"] * 10, now_s=tick / 100)
        if tick % 50 == 49:
            answers += knocks(admission, [f"other-{number}" for number in range(10)], now_s=tick / 100)

    others = {status for address, status in answers if address != "flood"}
    assert others == {101}
    assert 700 <= answers["flood", 101] <= 900, "what others left of a thousand"


def test_one_address_alone_has_the_whole_rate() -> None:
    admission = Admission(AdmissionLimits(handshakes_per_s=100))
    knocks(admission, ["gateway"] * 100)
    let_in = sum(knocks(admission, ["gateway"] * 10, now_s=1 + tick / 100)["gateway", 101] for tick in range(100))

    assert let_in >= 100


def test_who_has_many_addresses_in_one_network_counts_as_one() -> None:
    admission = Admission(AdmissionLimits(connections_per_address=1, handshakes_per_s=100))
    answers = knocks(admission, [f"2001:db8::{number:x}" for number in range(200)])

    assert sum(count for (_, status), count in answers.items() if status == 101) == 80
    assert admission.enter("2001:db8::1") == Admit()
    assert isinstance(admission.enter("2001:db8::2"), Refuse)
    admission.leave("2001:db8::1")
    assert admission.enter("2001:db8::2") == Admit()
