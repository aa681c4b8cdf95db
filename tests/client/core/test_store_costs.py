"""What a change costs a store, counted and not timed: rows by what depends on them, flushes and gaps nothing at all.

Counted is each instruction that the interpreter executes for the call, so that no loop over entries can hide, and each
touch of the entries themselves, in case such a loop were in C.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable, Iterator
from types import FrameType
from typing import Any

import pytest

from pgcachewatch.core.dependencies import ANY_ROW, RowKey
from pgcachewatch.core.row_index import LEAST
from pgcachewatch.core.store import SWEPT_PER_ENTRY, Entry, Store
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.models import Scope

FEW, MANY = 10, 3_000
USERS = Scope("c", "users")


class Value:
    """Something whose end can be seen."""


class CountedEntries(dict[Hashable, Entry[Any]]):
    """Counts what is done with it."""

    touches = 0

    def get(self, key: Hashable, default: Any = None) -> Any:  # Any: as in dict
        self.touches += 1
        return super().get(key, default)

    def __iter__(self) -> Iterator[Hashable]:
        self.touches += len(self)
        return super().__iter__()

    def clear(self) -> None:
        self.touches += len(self)
        super().clear()


def filled(count: int) -> tuple[Store[Any, None], CountedEntries]:
    """Each entry depends on a row of its own, two of them on row "shared" as well."""
    store: Store[Any, None] = Store(Trust(FOREVER), scopes=[USERS], maxsize=count)
    store.entries = entries = CountedEntries()
    for number in range(count):
        rows = [RowKey(0, str(number)), *([RowKey(0, "shared")] if number < 2 else [])]
        store.finish(store.begin(number, now=0, run=None, rows=rows), Value())
    assert len(entries) == count
    entries.touches = 0
    return store, entries


def instructions(act: Callable[[], object]) -> int:
    """How many instructions `act` takes, those of C functions not counted."""
    count = 0

    def traced(frame: FrameType, event: str, argument: object) -> Any:  # Any: a trace function
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        act()
    finally:
        sys.settrace(before)
    return count


ACTS: dict[str, tuple[Callable[[Store[Any, None]], object], int]] = {
    "a row nobody depends on": (lambda store: store.forget_row(RowKey(0, "x")), 0),
    "a row with one entry": (lambda store: store.forget_row(RowKey(0, "5")), 1),
    "a row with two entries": (lambda store: store.forget_row(RowKey(0, "shared")), 2),
    "a flush": (lambda store: store.flush(), 0),
    "a table": (lambda store: store.invalidate(USERS), 0),
    "a gap": (lambda store: store.trust.gap(), 0),  # type: ignore[attr-defined]  # a Trust, by `filled`
}


@pytest.mark.parametrize("name", ACTS)
def test_a_change_costs_as_much_in_a_full_store_as_in_a_small_one(name: str) -> None:
    act, touches = ACTS[name]
    spent = []
    for count in (FEW, MANY):
        store, entries = filled(count)
        spent.append(instructions(lambda store=store: act(store)))  # type: ignore[misc]  # bound in the loop
        assert entries.touches == touches

    assert spent[0] == spent[1] > 0


def test_a_row_costs_in_proportion_to_its_entries() -> None:
    spent = []
    for count in (10, 20, 40):
        store: Store[Any, None] = Store(Trust(FOREVER), scopes=[USERS], maxsize=MANY)
        for number in range(MANY):
            row = RowKey(0, "busy" if number < count else str(number))
            store.finish(store.begin(number, now=0, run=None, rows=[row]), Value())
        spent.append(instructions(lambda store=store: store.forget_row(RowKey(0, "busy"))))  # type: ignore[misc]

    assert spent[2] - spent[1] == 2 * (spent[1] - spent[0]) > 0


def test_a_result_costs_no_more_when_thousands_died_before_it() -> None:
    spent = []
    for count in (FEW, MANY):
        store, _ = filled(count)
        store.flush()
        spent.append(instructions(lambda store=store: store.finish(store.begin("x", now=0, run=None), Value())))  # type: ignore[misc]

    assert spent[0] == spent[1]


@pytest.mark.parametrize("is_gap", [False, True])
def test_what_died_by_a_flush_is_gone_once_half_as_many_results_were_stored(is_gap: bool) -> None:
    trust = Trust(FOREVER)
    store: Store[Any, None] = Store(trust, scopes=[USERS], maxsize=MANY)
    for number in range(MANY):
        store.finish(store.begin(number, now=0, run=None), Value())
    values = [weakref.ref(entry.value) for entry in store.entries.values()]

    if is_gap:
        trust.gap()
    else:
        store.flush()
    for number in range(MANY // SWEPT_PER_ENTRY):
        store.finish(store.begin(("new", number), now=0, run=None), Value())
        assert len(store.entries) <= MANY - number * (SWEPT_PER_ENTRY - 1)

    assert not any(value() is not None for value in values)
    assert len(store.entries) == MANY // SWEPT_PER_ENTRY


def test_rows_of_dead_entries_are_bounded_however_often_all_is_flushed() -> None:
    store: Store[Any, None] = Store(Trust(FOREVER), scopes=[USERS], maxsize=MANY)
    for number in range(10 * MANY):
        if number % MANY == 0:
            store.flush()
        rows = [RowKey(0, str(number)), RowKey(1, ANY_ROW)]
        store.finish(store.begin(number, now=0, run=None, rows=rows), Value())
        assert len(store._rows) <= max(LEAST, 4 * MANY)
        assert len(store.entries) <= MANY
