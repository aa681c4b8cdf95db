"""What waits for LISTEN: the hello of a client, or one more subscription of it, on channels that nobody used before.

Whoever waits may be gone, or have taken its wish back, before the answer comes. Until then it uses each of its
channels, those too that were listened to already: none of them is given up before all of them are there. Bounds: one
task for each wish that waits, and those of the source for channels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from pgcachewatch.errors import PGCacheWatchError
from pgcachewatch_daemon.core.uses import Uses
from pgcachewatch_daemon.feeds import Channels
from pgcachewatch_daemon.visitor import Visitor, Waiting

LOOK_WITHIN_S = 5.0


class Waits:
    """The first look at the catalogue sets `has_looked`."""

    def __init__(self, source: Channels, uses: Uses, *, has_looked: asyncio.Event) -> None:
        self._source = source
        self._uses = uses
        self._has_looked = has_looked
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(
        self,
        visitor: Visitor,
        waiting: Waiting,
        channels: Sequence[str],
        *,
        then: Callable[[], None],
        refused: Callable[[PGCacheWatchError], None],
        needs_look: bool = False,
    ) -> None:
        """Call `then` once each channel is listened to, or `refused`; neither once the visitor is gone."""
        for channel in channels:
            self._uses.begin(channel)
        task = asyncio.get_running_loop().create_task(self._listen(channels, needs_look=needs_look))
        visitor.waits_for(waiting.sid, task)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, visitor, waiting, channels, then, refused))

    async def close(self) -> None:
        """Wait for the end of what still waited."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, channels: Sequence[str], *, needs_look: bool) -> None:
        if needs_look:
            with contextlib.suppress(TimeoutError):  # what is not known to be journalled is taken for notified
                await asyncio.wait_for(self._has_looked.wait(), LOOK_WITHIN_S)
        for channel in channels:
            await self._source.ensure_channel(channel)

    def _ended(
        self,
        visitor: Visitor,
        waiting: Waiting,
        channels: Sequence[str],
        then: Callable[[], None],
        refused: Callable[[PGCacheWatchError], None],
        task: asyncio.Task[None],
    ) -> None:
        self._tasks.discard(task)
        try:
            self._answer(visitor, waiting, then, refused, task)
        finally:  # behind the answer, which makes a user of whoever waited
            for channel in channels:
                self._uses.end(channel)

    def _answer(
        self,
        visitor: Visitor,
        waiting: Waiting,
        then: Callable[[], None],
        refused: Callable[[PGCacheWatchError], None],
        task: asyncio.Task[None],
    ) -> None:
        # Whoever has gone, or taken the wish back, has cancelled it; the task may have ended in that very moment.
        if task.cancelled() or visitor.waited_for(waiting.sid) is not task:
            return
        error = task.exception()
        if error is None:
            then()
        elif isinstance(error, PGCacheWatchError):
            refused(error)
        else:
            raise error
