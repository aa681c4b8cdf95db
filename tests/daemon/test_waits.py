"""Whoever waits for LISTEN is answered once, and not at all when it has gone or taken its wish back."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from pgcachewatch.errors import ConfigurationError, PGCacheWatchError
from pgcachewatch_daemon.core.uses import Uses
from pgcachewatch_daemon.feeds import Channels
from pgcachewatch_daemon.io.websocket import Connection
from pgcachewatch_daemon.visitor import HELLO, Visitor, Waiting
from pgcachewatch_daemon.waits import Waits
from tests.waiting import eventually

WISH = Waiting(3, 30)


class Listener:
    """LISTEN that takes until the test says so."""

    def __init__(self) -> None:
        self.asked: dict[str, asyncio.Future[None]] = {}
        self.uses: list[str] = []
        counted = Uses(began=lambda name: self.uses.append(f"+{name}"), ended=lambda name: self.uses.append(f"-{name}"))
        self.has_looked = asyncio.Event()
        self.answers: list[str] = []
        self.waits = Waits(cast(Channels, self), counted, has_looked=self.has_looked)
        self.visitor = Visitor(cast(Connection, object()), None)

    def ensure_channel(self, channel: str) -> asyncio.Future[None]:
        return self.asked.setdefault(channel, asyncio.get_running_loop().create_future())

    def then(self) -> None:
        self.answers.append("then")
        self.uses.append("then")

    def refused(self, error: PGCacheWatchError) -> None:
        self.answers.append(str(error))

    def begin(self, waiting: Waiting, *channels: str, needs_look: bool = False) -> None:
        self.waits.begin(
            self.visitor,
            waiting,
            channels,
            then=self.then,
            refused=self.refused,
            needs_look=needs_look,
        )

    async def listen(self, channel: str) -> None:
        await eventually(lambda: channel in self.asked)
        self.asked[channel].set_result(None)


async def test_the_answer_comes_behind_the_last_channel_and_each_is_used_until_then() -> None:
    listener = Listener()
    listener.begin(HELLO, "a", "b")
    await listener.listen("a")
    await eventually(lambda: "b" in listener.asked)
    assert (listener.answers, listener.uses) == ([], ["+a", "+b"])
    await listener.listen("b")
    await eventually(lambda: listener.answers == ["then"])
    assert listener.uses == ["+a", "+b", "then", "-a", "-b"], "whoever waited uses them before the wait ends"


async def test_a_channel_that_can_not_be_listened_to_is_refused() -> None:
    listener = Listener()
    listener.begin(WISH, "a")
    await eventually(lambda: "a" in listener.asked)
    listener.asked["a"].set_exception(ConfigurationError("no such name"))
    await eventually(lambda: listener.answers == ["no such name"])
    assert listener.uses == ["+a", "-a"]


async def test_a_look_that_is_needed_is_waited_for() -> None:
    listener = Listener()
    listener.begin(HELLO, "a", needs_look=True)
    await asyncio.sleep(0)
    assert listener.asked == {}
    listener.has_looked.set()
    await listener.listen("a")
    await eventually(lambda: listener.answers == ["then"])


@pytest.mark.parametrize("ends", ["gone", "taken back"])
async def test_whoever_does_not_wait_any_more_hears_nothing_even_in_the_moment_of_the_answer(ends: str) -> None:
    listener = Listener()
    listener.begin(WISH, "a")
    assert listener.visitor.pending is not None
    task = listener.visitor.pending[WISH.sid]
    await listener.listen("a")
    while not task.done():  # noqa: ASYNC110  # an event would be heard in the same turn as what is tested
        await asyncio.sleep(0)
    # The task has ended, and whoever waits is told in the next turn of the loop.
    if ends == "gone":
        listener.visitor.wait_no_more()
    else:
        listener.visitor.waited_for(WISH.sid)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (listener.answers, listener.uses) == ([], ["+a", "-a"])


async def test_closing_leaves_no_task() -> None:
    listener = Listener()
    listener.begin(HELLO, "a")
    await listener.waits.close()
    await asyncio.sleep(0)
    assert (listener.answers, listener.uses) == ([], ["+a", "-a"])
