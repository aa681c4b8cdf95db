"""Snapshots compare as the sets of transactions that they stand for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.core.snapshot import Snapshot

HIGHEST = 12


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """As a primary writes them: what runs lies between the two bounds, and `xmin` is the lowest of it."""
    xmax = draw(st.integers(1, HIGHEST))
    running = draw(st.sets(st.integers(1, xmax - 1))) if xmax > 1 else set()
    xmin = min(running, default=xmax)
    return Snapshot(xmin, xmax, frozenset(running))


def over(snapshot: Snapshot) -> set[int]:
    return {xid for xid in range(1, HIGHEST + 2) if snapshot.contains(xid)}


@given(snapshots())
def test_a_snapshot_contains_what_neither_ran_nor_was_still_to_begin(snapshot: Snapshot) -> None:
    assert over(snapshot) == {xid for xid in range(1, snapshot.xmax) if xid not in snapshot.running}


@given(snapshots(), snapshots())
def test_one_includes_another_when_it_contains_all_of_it(one: Snapshot, other: Snapshot) -> None:
    if one.includes(other):
        assert over(other) <= over(one)
    else:
        assert not over(other) <= over(one) or other.xmax > one.xmax


@given(snapshots())
def test_a_text_is_read_as_it_was_meant(snapshot: Snapshot) -> None:
    running = ",".join(map(str, sorted(snapshot.running)))
    assert Snapshot.parse(f"{snapshot.xmin}:{snapshot.xmax}:{running}") == snapshot


@pytest.mark.parametrize(
    "text", ["", "1:2", "2:1:", "a:b:", "1:2:x", "1:2:1,", " 1:2:", "1:2:\n", "-1:2:", "1" * 30 + ":2:"]
)
def test_what_is_no_snapshot_is_none(text: str) -> None:
    assert Snapshot.parse(text) is None
