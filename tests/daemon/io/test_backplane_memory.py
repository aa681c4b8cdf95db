"""Positions: one place, never back, and a new epoch for each life."""

from __future__ import annotations

import re

import pytest

from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane, random_epoch


@pytest.mark.rule("W-POSITION-2")
def test_sequences_count_up_within_an_epoch_and_start_again_in_the_next() -> None:
    backplane = MemoryBackplane()
    first = backplane.position
    assert [backplane.append().seq for _ in range(3)] == [1, 2, 3]
    assert backplane.new_epoch("lost").seq == 0
    assert backplane.position.epoch != first.epoch


@pytest.mark.rule("W-POSITION-1")
def test_two_lives_share_no_epoch() -> None:
    assert len({MemoryBackplane().position.epoch for _ in range(100)}) == 100
    assert re.fullmatch("[0-9a-f]{16}", random_epoch())
