"""Stamps: what a run must have seen for its result to be stored. The proof of the whole is in test_store_snapshots."""

from __future__ import annotations

import pytest

from pgcachewatch.core.dependencies import ANY_ROW, RowKey
from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.core.stamps import Stamps

ROW, OTHER = RowKey(0, "5"), RowKey(0, "6")


def at(xid: int) -> Snapshot:
    """Each transaction below `xid` is over, and no other."""
    return Snapshot(xid, xid)


def settled(*, limit: int = 100) -> Stamps:
    """Nothing in doubt, and all below 100 is over."""
    stamps = Stamps(limit=limit)
    stamps.proven(at(100))
    stamps.proven(at(100))
    return stamps


@pytest.mark.rule("W-STAMP-3")
def test_the_first_mark_behind_a_doubt_settles_nothing_and_the_second_does() -> None:
    stamps = Stamps()
    before = stamps.hold([at(200)], [ROW])
    stamps.proven(at(100))
    after_one = stamps.hold([at(200)], [ROW])
    stamps.proven(at(110))

    assert (before, after_one) == (False, False)
    assert stamps.hold([at(110)], [ROW])
    assert not stamps.hold([at(109)], [ROW])


def test_a_run_that_told_no_snapshot_proves_nothing() -> None:
    assert not settled().hold([], [ROW])


def test_each_snapshot_of_a_run_must_contain_what_changed_its_rows() -> None:
    stamps = settled()
    stamps.changed(ROW, 120)

    assert stamps.hold([at(121), at(130)], [ROW])
    assert not stamps.hold([at(130), at(120)], [ROW])
    assert stamps.hold([at(110)], [OTHER])


def test_each_of_several_changes_of_a_row_counts_in_whatever_order_they_began() -> None:
    stamps = settled()
    stamps.changed(ROW, 120)
    stamps.changed(ROW, 110)

    assert not stamps.hold([Snapshot(110, 130, frozenset({110}))], [ROW])
    assert not stamps.hold([Snapshot(120, 130, frozenset({120}))], [ROW])


def test_a_table_wide_change_concerns_each_row_and_each_change_concerns_who_depends_on_any() -> None:
    stamps = settled()
    stamps.changed(None, 120)
    stamps.changed(ROW, 130)

    assert not stamps.hold([at(120)], [OTHER])
    assert stamps.hold([at(121)], [OTHER])
    assert not stamps.hold([at(121)], [RowKey(0, ANY_ROW)])
    assert stamps.hold([at(121)], [RowKey(1, ANY_ROW)])


def test_marks_do_not_move_the_floor_when_nothing_is_in_doubt() -> None:
    stamps = settled()
    stamps.proven(at(500))

    assert stamps.hold([at(100)], [ROW])


def test_a_change_without_a_transaction_leaves_a_doubt() -> None:
    stamps = settled()
    stamps.changed(ROW, None)
    stamps.proven(at(150))

    assert not stamps.hold([at(200)], [OTHER])
    stamps.proven(at(160))
    assert stamps.hold([at(160)], [ROW])
    assert not stamps.hold([at(150)], [ROW])


def test_a_forgotten_change_is_in_what_was_read_after_it_or_with_what_a_mark_showed() -> None:
    stamps = settled(limit=1)
    stamps.changed(ROW, 120)
    stamps.proven(Snapshot(100, 125, frozenset({100})))
    stamps.changed(OTHER, 130)

    assert stamps.hold([at(121)], [ROW])
    assert stamps.hold([Snapshot(100, 126, frozenset({100}))], [ROW]), "100 began long before, and still runs"
    assert not stamps.hold([Snapshot(100, 126, frozenset({100, 120}))], [ROW])


def test_a_change_that_is_forgotten_before_a_mark_showed_it_leaves_a_doubt() -> None:
    stamps = settled(limit=1)
    stamps.changed(ROW, 120)
    stamps.changed(OTHER, 130)

    assert not stamps.hold([at(500)], [ROW])


def test_a_doubt_forgets_transactions_of_an_epoch_that_is_over() -> None:
    stamps = settled()
    stamps.changed(ROW, 10_000)
    stamps.doubt()
    stamps.proven(at(50))
    stamps.proven(at(51))

    assert stamps.hold([at(51)], [ROW])
