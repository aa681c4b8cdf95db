"""A store whose entries depend on rows keeps the guarantees row by row: G1, G4 and G5, shown by a state machine.

Beside a store it keeps a database of a few rows with a version each. A call of key k reads row k, which is known before
the run ("early"), or a row that only its result tells ("late"). Changes are delivered some time after they were
committed, in order. What a call must at least return is known when it starts: the version of its row that had been
applied, and the newest that any call of the key had returned of that row.
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from pgcachewatch.core.dependencies import ANY_ROW, RowKey
from pgcachewatch.core.store import Fill, Store
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.models import Scope

ROWS = ("1", "2")
CALLS = (*ROWS, "late", "late", "any")
EARLY, LATE = 0, 1

Value = tuple[str, int]  # a row and the version of it that was read


@dataclass(eq=False)
class Caller:
    """Somebody who waits, with what had been applied and returned when he called: versions by row."""

    key: str
    applied: dict[str, int]
    returned: dict[str, int]


@dataclass(eq=False)
class Run:
    """One run of the function, and who waits for it. `saw` None: it reads just before it ends."""

    key: str
    row: str
    saw: int | None
    fill: Fill[Run | None]
    callers: list[Caller]
    awaiting: list[Caller] = field(default_factory=list)


class RowMachine(RuleBasedStateMachine):
    """Keys "1" and "2" read the row of that name; the keys "late" and "any" read a row that their result tells."""

    def __init__(self) -> None:
        super().__init__()
        scope = Scope("c", "others")
        self.store: Store[Value, Run | None] = Store(Trust(FOREVER), scopes=[scope], maxsize=2, late_dimensions={LATE})
        self.versions = dict.fromkeys(ROWS, 0)
        self.applied = dict.fromkeys(ROWS, 0)
        self.under_way: collections.deque[tuple[str, int]] = collections.deque()
        self.returned: dict[str, dict[str, int]] = {key: dict.fromkeys(ROWS, 0) for key in CALLS}
        self.runs: list[Run] = []

    @rule(row=st.sampled_from(ROWS))
    def commit(self, row: str) -> None:
        self.versions[row] += 1
        self.under_way.append((row, self.versions[row]))

    @precondition(lambda self: self.under_way)
    @rule(is_table_wide=st.booleans())
    def deliver(self, is_table_wide: bool) -> None:
        row, version = self.under_way.popleft()
        if is_table_wide and version % 3 == 0:
            self.store.flush()
        else:
            for dimension in (EARLY, LATE):
                self.store.forget_row(RowKey(dimension, row))
        self.applied[row] = version

    @rule(row=st.sampled_from(ROWS))
    def change(self, row: str) -> None:
        """Committed and delivered with all before it: what most runs should see."""
        self.commit(row)
        while self.under_way:
            self.deliver(is_table_wide=False)

    @rule(key=st.sampled_from(CALLS), row=st.sampled_from(ROWS), reads_at_once=st.booleans())
    def call(self, key: str, row: str, reads_at_once: bool) -> None:
        self._call(Caller(key, dict(self.applied), dict(self.returned[key])), row, reads_at_once)

    def _call(self, caller: Caller, row: str, reads_at_once: bool) -> None:
        key, store = caller.key, self.store
        entry = store.lookup(key)
        if entry is not None:
            self._return(caller, entry.value)
            return
        fill = store.current(key)
        if fill is not None and fill.run is not None:
            (fill.run.awaiting if store.is_closed(fill) else fill.run.callers).append(caller)
            return
        row = key if key in ROWS else row
        rows = [RowKey(EARLY, row)] if key in ROWS else []
        fill = store.begin(key, now=0.0, run=None, rows=rows)
        fill.run = Run(key, row, self.versions[row] if reads_at_once else None, fill, [caller])
        self.runs.append(fill.run)

    @precondition(lambda self: self.runs)
    @rule(number=st.integers(0, 5), fails=st.sampled_from([False, False, False, True]))
    def finish(self, number: int, fails: bool) -> None:
        run = self.runs.pop(number % len(self.runs))
        version = self.versions[run.row] if run.saw is None else run.saw
        if fails:
            self.store.abandon(run.fill)
        else:
            late = {"late": [RowKey(LATE, run.row)], "any": [RowKey(LATE, ANY_ROW)]}.get(run.key, [])
            self.store.finish(run.fill, (run.row, version), rows=late)
            for caller in run.callers:
                self._return(caller, (run.row, version))
        for caller in run.awaiting:
            self._call(caller, run.row, reads_at_once=True)

    def _return(self, caller: Caller, value: Value) -> None:
        row, version = value
        assert version >= caller.applied[row], "G1, G4: a change of this row was applied before the call"
        assert version >= caller.returned[row], "G5: an earlier call of this key was given a newer version"
        self.returned[caller.key][row] = max(version, self.returned[caller.key][row])


TestRowMachine = RowMachine.TestCase
TestRowMachine.settings = settings(max_examples=400, stateful_step_count=30, deadline=None, database=None)


def make(*late: int) -> Store[str, None]:
    return Store(Trust(FOREVER), scopes=[], late_dimensions=late)


def test_a_change_of_one_row_drops_what_depends_on_it_and_nothing_else() -> None:
    store = make()
    for key in ("1", "2"):
        store.finish(store.begin(key, now=0, run=None, rows=[RowKey(0, key)]), "value")

    store.forget_row(RowKey(0, "1"))

    assert store.lookup("1") is None
    assert store.lookup("2") is not None
    assert store.info().flushes == 0


def test_a_run_whose_row_changes_is_detached_and_not_stored() -> None:
    store = make()
    fill = store.begin("1", now=0, run=None, rows=[RowKey(0, "1")])

    store.forget_row(RowKey(0, "1"))

    assert store.current("1") is None
    assert not store.finish(fill, "old")


def test_a_run_with_late_rows_is_closed_by_any_change_and_stored_when_it_was_another_row() -> None:
    store = make(0)
    fill = store.begin("list", now=0, run=None)
    assert not store.is_closed(fill)

    store.forget_row(RowKey(0, "1"))

    assert store.is_closed(fill)
    assert store.finish(fill, "value", rows=[RowKey(0, "2")])
    store.forget_row(RowKey(0, "2"))
    assert store.lookup("list") is None


def test_a_run_with_late_rows_is_not_stored_when_one_of_them_changed_while_it_ran() -> None:
    store = make(0)
    fill = store.begin("list", now=0, run=None)

    store.forget_row(RowKey(0, "2"))

    assert not store.finish(fill, "value", rows=[RowKey(0, "2")])


def test_an_entry_that_was_evicted_and_filled_anew_is_found_by_its_row() -> None:
    store: Store[str, None] = Store(Trust(FOREVER), scopes=[], maxsize=1)
    for key in ("1", "2", "1"):
        store.finish(store.begin(key, now=0, run=None, rows=[RowKey(0, key)]), "value")

    store.forget_row(RowKey(0, "2"))
    assert store.lookup("1") is not None
    store.forget_row(RowKey(0, "1"))

    assert store.lookup("1") is None
