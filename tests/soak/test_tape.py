"""What a reader of a tape may miss, and what it may not."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tests.soak.tape import MISSING_KEPT, Numbers, TapeReader, outside


def test_numbers_in_order_are_no_finding() -> None:
    reader = TapeReader()
    for number in range(5, 50):
        reader.hear(number)

    assert (reader.heard, reader.last, reader.missing, reader.repeats, reader.gaps) == (45, 49, [], 0, 0)


def test_a_skipped_number_is_missing_unless_a_gap_was_told() -> None:
    reader = TapeReader()
    reader.hear(1)
    reader.hear(4)
    reader.be_told_of_a_gap()
    reader.be_told_of_a_gap()
    reader.hear(9)
    reader.hear(11)

    assert reader.missing == [(2, 3), (10, 10)]
    assert reader.gaps == 1


def test_a_gap_excuses_one_skip_and_no_other() -> None:
    reader = TapeReader()
    reader.hear(1)
    reader.be_told_of_a_gap()
    reader.hear(2)
    reader.hear(4)

    assert reader.missing == [(3, 3)]


def test_a_number_heard_again_is_a_repeat_also_after_a_gap() -> None:
    reader = TapeReader()
    reader.hear(1)
    reader.hear(2)
    reader.be_told_of_a_gap()
    reader.hear(2)
    reader.hear(1)

    assert reader.repeats == 2
    assert reader.last == 2


def test_what_is_missing_is_kept_up_to_its_bound_and_then_counted() -> None:
    reader = TapeReader()
    for number in range(0, 2 * (MISSING_KEPT + 8), 2):
        reader.hear(number)

    assert len(reader.missing) == MISSING_KEPT
    assert reader.missing_more > 0


@given(st.sets(st.integers(1, 60)), st.integers(0, 1_000))
def test_spans_hold_exactly_the_numbers_that_were_added(numbers: set[int], seed: int) -> None:
    order = sorted(numbers)
    random.Random(seed).shuffle(order)
    kept = Numbers()
    for number in order * 2:
        kept.add(number)

    assert [number for first, last in kept.spans for number in range(first, last + 1)] == sorted(numbers)
    assert all(later[0] > earlier[1] + 1 for earlier, later in zip(kept.spans, kept.spans[1:], strict=False))


def test_doubt_excuses_the_numbers_it_covers_and_no_other() -> None:
    assert outside([(1, 3), (8, 9)], [(3, 8)]) == [1, 2, 9]
    assert outside([], [(1, 2)]) == []
