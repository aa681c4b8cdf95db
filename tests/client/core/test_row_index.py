"""From a row to what depends on it: found once, gone when taken, swept when in nobody's use."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.core.dependencies import ANY_ROW, RowKey
from pgcachewatch.core.row_index import LEAST, RECENT, RowIndex


def always(key: Hashable) -> bool:
    return True


def taken(index: RowIndex, text: str, dimension: int = 0) -> set[Hashable]:
    return set(index.take(RowKey(dimension, text)))


def test_a_row_leads_to_all_its_keys_once() -> None:
    index = RowIndex()
    for key in ("a", "b", "a"):
        index.add(key, [RowKey(0, "5")], is_kept=always)
    assert len(index) == 2

    assert taken(index, "5") == {"a", "b"}
    assert taken(index, "5") == set()
    assert len(index) == 0


def test_dimensions_are_apart() -> None:
    index = RowIndex()
    index.add("a", [RowKey(0, "5")], is_kept=always)
    index.add("b", [RowKey(1, "5")], is_kept=always)

    assert taken(index, "5", 1) == {"b"}
    assert taken(index, "5", 2) == set()
    assert taken(index, "5", 0) == {"a"}


def test_a_key_that_is_itself_a_set_is_one_key() -> None:
    index, key = RowIndex(), frozenset({"x", "y"})
    index.add(key, [RowKey(0, "5")], is_kept=always)

    assert taken(index, "5") == {key}


def test_any_row_is_met_by_each() -> None:
    index = RowIndex()
    index.add("list", [RowKey(0, ANY_ROW)], is_kept=always)
    index.add("five", [RowKey(0, "5")], is_kept=always)

    assert taken(index, "6") == {"list"}
    assert taken(index, "5") == {"five"}


def test_what_is_in_nobodys_use_is_swept_out() -> None:
    index = RowIndex()
    kept = {LEAST}
    for number in range(LEAST + 1):
        index.add(number, [RowKey(0, str(number)), RowKey(0, "shared")], is_kept=kept.__contains__)

    assert len(index) <= LEAST
    assert taken(index, str(LEAST)) == kept
    assert taken(index, "0") == set()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=60), st.sets(st.integers(0, 9)))
def test_a_sweep_loses_nobody_who_is_kept(pairs: list[tuple[int, int]], kept: set[int]) -> None:
    index = RowIndex()
    for key, row in pairs:
        index.add(key, [RowKey(0, str(row))], is_kept=always)

    index._sweep(kept.__contains__)

    assert len(index) == len({pair for pair in pairs if pair[0] in kept})
    for row in range(10):
        assert taken(index, str(row)) == {key for key, its in pairs if its == row and key in kept}


def test_a_late_row_is_untouched_until_it_changes() -> None:
    index = RowIndex({0})
    taken(index, "5")
    since = index.changes
    taken(index, "6")

    assert index.is_untouched([RowKey(0, "5")], since=since)
    assert not index.is_untouched([RowKey(0, "5"), RowKey(0, "6")], since=since)
    assert not index.is_untouched([RowKey(0, ANY_ROW)], since=since)
    assert index.is_untouched([RowKey(0, ANY_ROW)], since=index.changes)


def test_what_is_not_remembered_is_not_proven() -> None:
    index = RowIndex({0})
    since = index.changes
    for number in range(RECENT):
        taken(index, str(number))
    assert index.is_untouched([RowKey(0, "other")], since=since)

    taken(index, "one more")

    assert not index.is_untouched([RowKey(0, "other")], since=since)
    assert index.is_untouched([RowKey(0, "other")], since=since + 1)


def test_rows_known_before_the_run_are_not_remembered() -> None:
    index = RowIndex({1})
    taken(index, "5", 0)

    assert index.changes == 0


@given(st.sets(st.from_regex(r"-?[0-9]{0,20}[.a²]?", fullmatch=True) | st.text(max_size=3), max_size=20))
def test_each_text_is_a_row_of_its_own_however_it_is_kept(texts: set[str]) -> None:
    index, rows = RowIndex(), sorted(texts - {ANY_ROW})
    for text in rows:
        index.add(("of", text), [RowKey(0, text)], is_kept=always)

    assert [taken(index, text) for text in rows] == [{("of", text)} for text in rows]


def test_texts_that_write_one_number_in_several_ways_are_rows_of_their_own() -> None:
    index = RowIndex()
    arabic_five = "\N{ARABIC-INDIC DIGIT FIVE}"
    texts = ["5", "05", "005", "-5", "+5", " 5", "5.0", "0", "00", "-0", "", arabic_five, f"1{arabic_five}", "15"]
    texts += ["9" * length for length in (17, 18, 19, 5_000)]
    for text in texts:
        index.add(("of", text), [RowKey(0, text)], is_kept=always)

    assert [taken(index, text) for text in texts] == [{("of", text)} for text in texts]


class EqualToAll:
    """A key that says so of everything, and has another hash."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


@pytest.mark.parametrize("key", [5, "5", 5.0, True, EqualToAll()])
def test_a_key_that_looks_like_the_text_of_its_row_is_found_as_it_is(key: Hashable) -> None:
    index = RowIndex()
    index.add(key, [RowKey(0, "5")], is_kept=always)

    (found,) = index.take(RowKey(0, "5"))

    assert found is key
