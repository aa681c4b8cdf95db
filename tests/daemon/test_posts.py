"""Posts and seats."""

from __future__ import annotations

from typing import cast

from pgcachewatch.protocol import messages
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.consumers import Consumer, ConsumerLimits, ConsumerStats, Saved
from pgcachewatch_daemon.core.pages import Filter, Place
from pgcachewatch_daemon.posts import Post, Seat

WISH = messages.Consume(id=1, consumer="c", wants=[messages.Want(channel="c", table="t")])


def seat() -> Seat:
    return Seat(cast(Subscriber, object()), 1, WISH)


def test_a_post_is_wanted_while_somebody_waits_or_takes() -> None:
    wanted = Filter(tuple(WISH.wants))
    post, waiting = Post("c", wanted), seat()
    answers = [post.is_wanted]
    post.waiting[waiting] = None
    answers.append(post.is_wanted)
    del post.waiting[waiting]
    post.core = Consumer(ConsumerLimits(), wanted, Saved(Place("e", "1:1:")), stats=ConsumerStats())
    answers.append(post.is_wanted)
    post.core.join(waiting, 1, now_s=0)
    answers.append(post.is_wanted)
    assert answers == [False, True, False, True]


def test_seats_that_say_the_same_are_two() -> None:
    assert seat() != seat()
