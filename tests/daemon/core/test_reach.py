"""What a channel said before it was listened to is missing, whatever was so before that."""

from __future__ import annotations

import pytest

from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.reach import Reach


def wish(channel: str, *, is_journalled: bool = False) -> Subscription:
    return Subscription(1, 1, channel, is_journalled=is_journalled)


@pytest.mark.rule("W-RESUME-3")
def test_a_channel_that_is_listened_to_anew_is_whole_from_there_on_only() -> None:
    reach = Reach()
    reach.listened("a", since=3)
    reach.given_up("a")
    reach.listened("a", since=9)
    assert [reach.is_whole([wish("a")], after=seq) for seq in (3, 9, 10)] == [False, False, True]
    reach.listened("a", since=12)
    assert not reach.is_whole([wish("a")], after=9), "also when nobody said that it was given up"


@pytest.mark.rule("W-RESUME-3")
def test_who_left_at_the_very_position_may_have_left_before_it_was_listened_to() -> None:
    reach = Reach()
    assert reach.is_whole([wish("a")], after=0), "what is listened to from the beginning has no hole"
    reach.listened("a", since=0)
    assert not reach.is_whole([wish("a")], after=0)


def test_one_channel_with_a_hole_is_enough_and_others_harm_nobody() -> None:
    reach = Reach()
    reach.listened("late", since=5)
    assert not reach.is_whole([wish("early"), wish("late")], after=4)
    assert reach.is_whole([wish("early")], after=4)


def test_what_is_journalled_misses_nothing() -> None:
    reach = Reach()
    reach.listened("late", since=5)
    assert reach.is_whole([wish("late", is_journalled=True)], after=0)


def test_nothing_is_kept_of_channels_that_came_and_went() -> None:
    reach = Reach()
    for number in range(100):
        reach.listened(str(number), since=number)
        reach.given_up(str(number))
    reach.listened("lost", since=1)
    reach.forget_all()
    assert len(reach) == 0
