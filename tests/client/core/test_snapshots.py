"""Snapshots: what a read could see, and what it provably saw."""

from __future__ import annotations

import random

import pytest

from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.errors import ConfigurationError
from tests.client.core.history import FIRST_XID, History


def test_a_transaction_is_seen_when_it_was_over() -> None:
    snapshot = Snapshot.parse("10:20:10,14")

    assert [xid for xid in range(8, 22) if snapshot.contains(xid)] == [8, 9, 11, 12, 13, 15, 16, 17, 18, 19]


def test_a_standby_proves_only_what_is_below_xmin() -> None:
    snapshot = Snapshot.parse("10:20:", is_standby=True)

    assert [xid for xid in range(8, 22) if snapshot.contains(xid)] == [8, 9]
    assert Snapshot.parse("10:20:").contains(15)


def test_transaction_ids_have_64_bits() -> None:
    assert Snapshot.parse(f"{2**63}:{2**63 + 5}:{2**63 + 1}").contains(2**63 + 2)


@pytest.mark.parametrize(
    "text", ["", "10", "10:20", "10:20:x", "20:10:", "10:20:10,", " 10:20:", "10:20:\n", "-1:2:", "\u0661:\u0662:"]
)
def test_what_is_no_snapshot_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"pg_current_snapshot\(\)::text"):
        Snapshot.parse(text)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_claimed_of_a_snapshot_is_true_in_every_history(seed: int) -> None:
    chance = random.Random(seed)
    history = History(rows=())
    seen: list[tuple[Snapshot, set[int]]] = []
    primaries: list[tuple[Snapshot, set[int]]] = []
    for _ in range(20):
        if not history.running or chance.random() < 0.4:
            history.begin()
        else:
            history.end(chance.choice(history.running), None)
        over = {xid for xid, _ in history.ended}
        primaries.append((history.primary().told, over))
        replayed = chance.randint(0, len(history.ended))
        seen.append((history.standby(replayed).told, {xid for xid, _ in history.ended[:replayed]}))
    seen += primaries

    for snapshot, over in seen:
        assert {xid for xid in range(FIRST_XID, history.next_xid) if snapshot.contains(xid)} <= over
        for other, over_there in primaries:
            assert not snapshot.includes(other) or over_there <= over
    for snapshot, over in primaries:
        assert {xid for xid in range(FIRST_XID, history.next_xid) if snapshot.contains(xid)} == over
        assert snapshot.includes(snapshot)


def test_a_long_transaction_does_not_keep_later_snapshots_of_a_primary_apart() -> None:
    floor, later = Snapshot.parse("10:20:10,14"), Snapshot.parse("10:30:10,25")

    assert later.includes(floor)
    assert not floor.includes(later)
    assert not Snapshot.parse("10:30:", is_standby=True).includes(floor)
