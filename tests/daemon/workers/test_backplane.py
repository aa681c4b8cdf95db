"""A worker's positions are those it was told, one after another."""

from __future__ import annotations

import pytest

from pgcachewatch.models import Position
from pgcachewatch_daemon.workers.backplane import FollowedBackplane
from pgcachewatch_daemon.workers.framing import LinkBroken


def following(seq: int) -> FollowedBackplane:
    backplane = FollowedBackplane()
    backplane.begin("a" * 16, seq)
    return backplane


@pytest.mark.rule("W-POSITION-2")
def test_the_position_is_the_one_that_was_told() -> None:
    backplane = following(7)
    backplane.follow(8)
    assert backplane.position.seq == 7, "nothing was appended yet"
    assert backplane.append() == backplane.position == Position("a" * 16, 8)


@pytest.mark.parametrize("seq", [7, 9])
def test_a_change_that_does_not_follow_breaks_the_link(seq: int) -> None:
    with pytest.raises(LinkBroken, match="does not follow 7"):
        following(7).follow(seq)


def test_what_takes_a_change_s_place_has_its_position() -> None:
    backplane = following(7)
    backplane.follow(8)
    assert backplane.append() == backplane.append()
    backplane.follow(9)


@pytest.mark.rule("W-POSITION-1")
def test_a_new_epoch_is_the_primary_s() -> None:
    backplane = following(7)
    backplane.follow_epoch("b" * 16, 30)
    assert backplane.position.epoch == "a" * 16
    assert backplane.new_epoch("connection_lost") == Position("b" * 16, 30)
    backplane.follow(31)
