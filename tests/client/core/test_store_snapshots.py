"""A store with stamps keeps G1 for runs that read any past, on a primary or a hot standby: shown by a state machine.

Transactions begin and end in any order. What they changed travels to the store in the order of their ends, with its
transaction or without, row by row or table-wide; a link that breaks loses what is under way, and one that is slow
conflates it. Loopbacks are sent and come back as marks. A run reads any snapshot there ever was. What must hold after
each step: an entry that may be served contains each change that was applied, and each from before a break.

The rules are needed, each of them: with any one taken out the machine finds a stale entry.
"""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pgcachewatch.core import stamps as stamps_module
from pgcachewatch.core.dependencies import ANY_ROW, RowKey
from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.core.stamps import Stamps
from pgcachewatch.core.store import Fill, Store
from pgcachewatch.core.trust import FOREVER, Trust
from tests.client.core.history import History, Read, Versions

ROWS = ("1", "2")
KEYS = (*ROWS, "late", "any")
EARLY, LATE = 0, 1
REMEMBERED = 3  # changes, so that forgetting is part of it
MOST = 4
WALKS = 1_500

Value = tuple[str, int]  # a row and the version of it that was read


@dataclass(frozen=True, slots=True)
class Change:
    """One event: the row, its version since, the transaction if it is told. `is_wide`: it names no row."""

    row: str
    version: int
    xid: int | None
    is_wide: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What it shows was taken when its loopback was sent; None when it came later than its loopback."""

    snapshot: Snapshot | None


@dataclass(eq=False, slots=True)
class Run:
    key: str
    row: str
    reads: list[Read]
    fill: Fill[None]


Draw = Callable[[int], int]  # a number below the one given


class World:
    """One walk. Keys "1" and "2" read the row of that name; "late" and "any" read a row that their result tells."""

    keeps_late_snapshots = False  # a bug that is planted: a conflated mark shows the snapshot that it had

    def __init__(self, draw: Draw) -> None:
        self.store: Store[Value, None] = Store(
            Trust(FOREVER), scopes=[], late_dimensions={LATE}, stamps=Stamps(limit=REMEMBERED)
        )
        self.database = History(ROWS)
        self.applied: Versions = dict.fromkeys(ROWS, 0)
        self.under_way: collections.deque[Change | Mark] = collections.deque()
        self.loopback: Snapshot | None = None  # the one that was sent
        self.kept: list[Read] = []  # snapshots of transactions that are still open
        self.runs: list[Run] = []
        self.stored = 0
        self._draw = draw
        self.prove()

    def step(self) -> None:
        """Something that can happen next, and what must hold then. The likely things stand first, several times."""
        likely = [self.begin, self.end, self.end, self.deliver, self.deliver, self.fill, self.fill, self.keep_snapshot]
        others = [self.call, self.read, self.finish, self.send_loopback, self.loopback_returns, self.prove]
        rare = [self.break_link, self.conflate]
        steps = likely * 3 + others * 2 + rare
        steps[self._draw(len(steps))]()
        self.check()

    def check(self) -> None:
        for key in KEYS:
            entry = self.store.lookup(key)
            if entry is not None:
                row, version = entry.value
                assert version >= self.applied[row], f"G1: {key} holds version {version} of row {row}"

    # --- the database

    def begin(self) -> None:
        if len(self.database.running) < MOST:
            self.database.begin()

    def end(self) -> None:
        if not self.database.running:
            return
        xid = self.database.running[self._draw(len(self.database.running))]
        row = (*ROWS, *ROWS, None)[self._draw(5)]
        self.database.end(xid, row)
        if row is not None:
            is_told, is_wide = self._draw(8) > 0, self._draw(6) == 1
            version = self.database.versions()[row]
            self.under_way.append(Change(row, version, xid if is_told else None, is_wide))

    def keep_snapshot(self) -> None:
        self.kept = [*self.kept[-MOST:], self.database.primary()]

    # --- the relay and the link

    def send_loopback(self) -> None:
        if self.loopback is None:
            self.loopback = self.database.primary().told

    def loopback_returns(self) -> None:
        if self.loopback is not None:
            self.under_way.append(Mark(self.loopback))
            self.loopback = None

    def prove(self) -> None:
        """Two loopbacks, and all that is under way arrives."""
        for _ in range(2):
            self.send_loopback()
            self.loopback_returns()
        while self.under_way:
            self.deliver()

    def deliver(self) -> None:
        match self.under_way.popleft() if self.under_way else None:
            case Mark(snapshot) if snapshot is not None:
                self.store.proven(snapshot)
            case Change(row, version, xid, is_wide):
                if is_wide:
                    self.store.flush(xid)
                else:
                    for dimension in (EARLY, LATE):
                        self.store.forget_row(RowKey(dimension, row), xid)
                self.applied[row] = version

    def conflate(self) -> None:
        """A slow reader is sent each row without its transaction, and one mark behind all of them."""
        changes = [one for one in self.under_way if isinstance(one, Change)]
        marks = [one for one in self.under_way if isinstance(one, Mark)]
        self.under_way.clear()
        self.under_way += [Change(one.row, one.version, None, one.is_wide) for one in changes]
        if marks:
            self.under_way.append(marks[-1] if self.keeps_late_snapshots else Mark(None))

    def break_link(self) -> None:
        """Not resumed: what was under way is lost, and everything from before counts as applied."""
        self.under_way.clear()
        self.store.flush()
        self.applied = self.database.versions()

    # --- the program

    def fill(self) -> None:
        """A whole run, without anything in between: what most entries come from."""
        if self.call():
            self._read(self.runs[-1])
            self._finish(self.runs.pop())

    def call(self) -> bool:
        key, row = KEYS[self._draw(len(KEYS))], ROWS[self._draw(len(ROWS))]
        is_miss = self.store.lookup(key) is None and self.store.current(key) is None
        if is_miss:
            row = key if key in ROWS else row
            rows = [RowKey(EARLY, row)] if key in ROWS else []
            self.runs.append(Run(key, row, [], self.store.begin(key, now=0.0, run=None, rows=rows)))
        return is_miss

    def read(self) -> None:
        if self.runs:
            self._read(self.runs[self._draw(len(self.runs))])

    def finish(self) -> None:
        if self.runs:
            self._finish(self.runs.pop(self._draw(len(self.runs))))

    def _read(self, run: Run) -> None:
        """Now, in a transaction that began some time ago, or on a standby that lags behind."""
        match self._draw(4):
            case 0:
                run.reads.append(self.database.standby(max(0, len(self.database.ended) - self._draw(MOST))))
            case 1 | 2 if self.kept:
                run.reads.append(self.kept[self._draw(len(self.kept))])
            case _:
                run.reads.append(self.database.primary())

    def _finish(self, run: Run) -> None:
        late = {"late": [RowKey(LATE, run.row)], "any": [RowKey(LATE, ANY_ROW)]}.get(run.key, [])
        version = min((each.versions[run.row] for each in run.reads), default=0)
        snapshots = [each.told for each in run.reads]
        self.stored += self.store.finish(run.fill, (run.row, version), rows=late, snapshots=snapshots)


class SnapshotMachine(RuleBasedStateMachine):
    """The walks that Hypothesis chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.choices: list[int] = []
        self.world = World(lambda below: self.choices.pop() % below if self.choices else 0)

    @rule(choices=st.lists(st.integers(0, 1_000), min_size=8, max_size=8))
    def step(self, choices: list[int]) -> None:
        self.choices = choices
        self.world.step()


TestSnapshotMachine = SnapshotMachine.TestCase
TestSnapshotMachine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None, database=None)

STEPS = 60


def walk(seed: int) -> World:
    """A walk of the same kind, a hundred times faster."""
    chance = random.Random(seed)
    world = World(chance.randrange)
    for _ in range(STEPS):
        world.step()
    return world


def walks() -> list[World]:
    return [walk(seed) for seed in range(WALKS)]


@pytest.mark.rule("W-STAMP-4")
def test_no_entry_that_may_be_served_lacks_a_change_that_was_applied() -> None:
    stored = sum(world.stored for world in walks())

    assert stored > WALKS, "the rules refuse nearly everything, so this shows nothing"


# --- each rule taken out

Plant = Callable[[pytest.MonkeyPatch], None]


def standby_is_read_like_a_primary(patch: pytest.MonkeyPatch) -> None:
    def contains(self: Snapshot, xid: int) -> bool:
        return xid < self.xmin or (xid < self.xmax and xid not in self.running)

    patch.setattr(Snapshot, "contains", contains)


def running_transactions_are_overlooked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Snapshot, "contains", lambda self, xid: xid < (self.xmin if self.is_standby else self.xmax))


def floor_is_compared_by_its_end(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Snapshot, "includes", lambda self, other: self.xmax >= other.xmax)


def first_mark_settles(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stamps_module, "MARKS_TO_SETTLE", 1)


def no_floor(patch: pytest.MonkeyPatch) -> None:
    proven = Stamps.proven

    def forgets(self: Stamps, snapshot: Snapshot) -> None:
        proven(self, snapshot)
        self._floor = stamps_module.NOTHING

    patch.setattr(Stamps, "proven", forgets)


def change_without_transaction_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    changed = Stamps.changed

    def passes(self: Stamps, row: RowKey | None, xid: int | None) -> None:
        if xid is not None or row is None:
            changed(self, row, xid)

    patch.setattr(Stamps, "changed", passes)


def break_leaves_no_doubt(patch: pytest.MonkeyPatch) -> None:
    changed = Stamps.changed

    def passes(self: Stamps, row: RowKey | None, xid: int | None) -> None:
        if xid is not None or row is not None:
            changed(self, row, xid)

    patch.setattr(Stamps, "changed", passes)


def forgetting_leaves_nothing(patch: pytest.MonkeyPatch) -> None:
    forget = Stamps._forget_oldest

    def forgets(self: Stamps) -> None:
        forget(self)
        self._covered = 0

    patch.setattr(Stamps, "_forget_oldest", forgets)


def forgetting_never_doubts(patch: pytest.MonkeyPatch) -> None:
    forget = Stamps._forget_oldest

    def forgets(self: Stamps) -> None:
        doubt, Stamps.doubt = Stamps.doubt, lambda self: None  # type: ignore[method-assign]  # for one call
        try:
            forget(self)
        finally:
            Stamps.doubt = doubt  # type: ignore[method-assign]

    patch.setattr(Stamps, "_forget_oldest", forgets)


def late_snapshots_are_shown(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(World, "keeps_late_snapshots", True)


def hold_sees(patch: pytest.MonkeyPatch, change: Callable[..., tuple[list[Snapshot], list[RowKey]]]) -> None:
    hold = Stamps.hold
    patch.setattr(Stamps, "hold", lambda self, snapshots, rows: hold(self, *change(list(snapshots), list(rows))))


def one_snapshot_of_a_run_will_do(patch: pytest.MonkeyPatch) -> None:
    hold_sees(patch, lambda snapshots, rows: (snapshots[-1:], rows))


def late_rows_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    hold_sees(patch, lambda snapshots, rows: (snapshots, [row for row in rows if row.dimension == EARLY]))


def early_rows_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    hold_sees(patch, lambda snapshots, rows: (snapshots, [row for row in rows if row.dimension == LATE]))


def any_row_is_a_row_like_others(patch: pytest.MonkeyPatch) -> None:
    hold_sees(patch, lambda snapshots, rows: (snapshots, [row for row in rows if row.text != ANY_ROW]))


def table_wide_changes_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    changed = Stamps.changed

    def passes(self: Stamps, row: RowKey | None, xid: int | None) -> None:
        if xid is None or row is not None:
            changed(self, row, xid)

    patch.setattr(Stamps, "changed", passes)


PLANTED: tuple[Plant, ...] = (
    standby_is_read_like_a_primary,
    running_transactions_are_overlooked,
    floor_is_compared_by_its_end,
    first_mark_settles,
    no_floor,
    change_without_transaction_is_passed_over,
    break_leaves_no_doubt,
    forgetting_leaves_nothing,
    forgetting_never_doubts,
    late_snapshots_are_shown,
    one_snapshot_of_a_run_will_do,
    late_rows_are_not_looked_at,
    early_rows_are_not_looked_at,
    any_row_is_a_row_like_others,
    table_wide_changes_are_not_looked_at,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: str(plant.__name__))
def test_a_rule_that_is_taken_out_leaves_a_stale_entry(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)

    with pytest.raises(AssertionError, match="G1"):
        walks()
