"""What waits for LISTEN: the hello of a client, or one more subscription of it, on channels that nobody used before.

Whoever waits may be gone, or have taken its wish back, before the answer comes. It is also known here from which
position on a channel's events are in the log, since LISTEN began in the middle of it. Bounds: one task for each wish
that waits, and those of the source for channels.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from pgcachewatch.errors import PGCacheWatchError
from pgcachewatch_daemon.feeds import Channels
from pgcachewatch_daemon.visitor import Visitor, Waiting

LOOK_WITHIN_S = 5.0


class Waits:
    """`head` is the last sequence of the log; the first look at the catalogue sets `has_looked`."""

    def __init__(self, source: Channels, *, head: Callable[[], int], has_looked: asyncio.Event) -> None:
        self._source = source
        self._head = head
        self._has_looked = has_looked
        self._since: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def since(self, channel: str) -> int:
        """The position from which on the channel's events are in the log; 0 when all of them are."""
        return self._since.get(channel, 0)

    def listened(self, channel: str, since: int) -> None:
        """The relay listens to it: the log has its events from this position on."""
        self._since.setdefault(channel, since)

    def source_lost(self) -> None:
        self._since.clear()

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
        task = asyncio.get_running_loop().create_task(self._listen(channels, needs_look=needs_look))
        visitor.waits_for(waiting.sid, task)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, visitor, waiting, then, refused))

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
            # Events of this channel before this position are not in the log.
            self.listened(channel, self._head())

    def _ended(
        self,
        visitor: Visitor,
        waiting: Waiting,
        then: Callable[[], None],
        refused: Callable[[PGCacheWatchError], None],
        task: asyncio.Task[None],
    ) -> None:
        self._tasks.discard(task)
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
