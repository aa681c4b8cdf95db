"""The ring: every cursor reads everything once, or is told exactly once that something is missing."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.core.ring import Ring
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Gap


def test_each_cursor_reads_everything_once_and_in_order() -> None:
    ring = Ring[int](capacity=10)
    first, second = ring.cursor(), ring.cursor()
    for number in range(5):
        ring.append(number)

    assert first.since() == second.since() == [0, 1, 2, 3, 4]
    assert first.since() == []


def test_a_cursor_reads_what_came_after_it_was_made() -> None:
    ring = Ring[int](capacity=10)
    other = ring.cursor()
    ring.append(0)
    cursor = ring.cursor()
    ring.append(1)

    assert cursor.since() == [1]
    assert other.since() == [0, 1]


def test_an_overflow_is_one_gap_with_the_number_of_lost_items_and_then_the_oldest_left() -> None:
    ring = Ring[int](capacity=3)
    cursor = ring.cursor()
    for number in range(10):
        ring.append(number)

    gap, *rest = cursor.since()
    assert isinstance(gap, Gap)
    assert (gap.reason, gap.detail) == ("overflow", "7 lost")
    assert rest == [7, 8, 9]
    assert cursor.since() == []


def test_a_slow_cursor_costs_a_fast_one_nothing() -> None:
    ring = Ring[int](capacity=3)
    slow, fast = ring.cursor(), ring.cursor()
    read = []
    for number in range(100):
        ring.append(number)
        read += fast.since()

    assert read == list(range(100))
    assert len(slow) == 4


def test_reading_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        Ring[int](capacity=1).cursor().next()


def test_what_every_cursor_has_read_is_let_go() -> None:
    ring = Ring[int](capacity=1_000)
    first, second = ring.cursor(), ring.cursor()
    for number in range(100):
        ring.append(number)

    first.since()
    assert len(ring._items) == 100
    second.since()
    assert len(ring._items) == 0


def test_a_cursor_that_was_dropped_holds_nothing_back() -> None:
    ring = Ring[int](capacity=1_000)
    kept, dropped = ring.cursor(), ring.cursor()
    ring.append(1)

    del dropped
    gc.collect()
    kept.since()

    assert len(ring._items) == 0


def test_a_ring_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 or more"):
        Ring[int](capacity=0)


@given(st.integers(1, 5), st.lists(st.sampled_from(["append", "read", "read all"]), max_size=60))
def test_items_read_and_items_reported_lost_are_all_there_were(capacity: int, steps: list[str]) -> None:
    ring = Ring[int](capacity=capacity)
    cursor = ring.cursor()
    expected = appended = 0
    for step in [*steps, "read all"]:
        if step == "append":
            ring.append(appended)
            appended += 1
            continue
        for _ in range(len(cursor) if step == "read all" else min(1, len(cursor))):
            item = cursor.next()
            if isinstance(item, Gap):
                expected += int(item.detail.split()[0])
            else:
                assert item == expected
                expected += 1
    assert expected == appended
