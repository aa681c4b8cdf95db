"""The channels that the workers' clients use, all together, as the one LISTEN connection sees them.

A worker asks before its clients use a channel, also when others use it already, and says when they use it no more. So
the primary knows at each moment who uses what, and a channel that nobody uses can be given up without a question: a
worker that wants it again asks again, and is told from which position on its events are in the log. Answers bear the
number of the question, so that one which crossed a release is known for what it is.

Bound: `channels_limit` of the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol, TypeAlias

from pgcachewatch.errors import LimitExceeded
from pgcachewatch_daemon.workers.messages import Listening, ListenRefused

Answer: TypeAlias = Callable[[Listening | ListenRefused], None]


class Listener(Protocol):
    """The part of PostgresSource that has to do with channels."""

    def is_listening(self, channel: str) -> bool: ...
    def ensure_channel(self, channel: str) -> asyncio.Future[None]: ...
    def use(self, channel: str) -> None: ...
    def leave(self, channel: str, *, seq: int) -> None: ...


class SharedChannels:
    """`head` is the position now."""

    def __init__(self, source: Listener, *, head: Callable[[], int]) -> None:
        self.listened: dict[str, int] = {}  # those of now, and the position their events begin at
        self._source = source
        self._head = head
        self._holders: dict[str, dict[Hashable, int]] = {}  # by channel and worker: the last question's number

    def ensure(self, worker: Hashable, channel: str, *, number: int, answer: Answer) -> None:
        """Listen to it until this worker releases it."""
        holders = self._holders.setdefault(channel, {})
        if not holders:
            self._source.use(channel)
        holders[worker] = number
        if channel in self.listened:
            answer(Listening(channel, self.listened[channel], number))
            return
        future = self._source.ensure_channel(channel)
        future.add_done_callback(partial(self._ensured, worker, channel, number, answer))

    def _ensured(
        self, worker: Hashable, channel: str, number: int, answer: Answer, future: asyncio.Future[None]
    ) -> None:
        if future.cancelled() or self._holders.get(channel, {}).get(worker) != number:
            return  # it was released meanwhile, and perhaps asked for again
        error = future.exception()
        if error is not None:
            self.release(worker, channel)
            limit = error.allowed if isinstance(error, LimitExceeded) else 0
            answer(ListenRefused(channel, str(error), limit, number))
        elif self._source.is_listening(channel):
            # Events before this moment may be missing, and those behind it are not: the head is what can be promised.
            answer(Listening(channel, self.listened.setdefault(channel, self._head()), number))

    def release(self, worker: Hashable, channel: str) -> None:
        """This worker's clients do not use it."""
        holders = self._holders.get(channel, {})
        if holders.pop(worker, None) is not None and not holders:
            del self._holders[channel]
            self._source.leave(channel, seq=self._head())

    def gone(self, worker: Hashable) -> None:
        """It has no clients any more."""
        for channel in [channel for channel, holders in self._holders.items() if worker in holders]:
            self.release(worker, channel)

    # --- what the source tells

    def channel_listened(self, channel: str) -> None:
        self.listened[channel] = self._head()

    def channel_given_up(self, channel: str) -> None:
        self.listened.pop(channel, None)

    def came_up(self) -> tuple[str, ...]:
        """These are listened to since before the source came up: what they said from now on is whole."""
        self.listened = {channel: 0 for channel in sorted(self._holders) if self._source.is_listening(channel)}
        return tuple(self.listened)

    def lost(self) -> None:
        self.listened.clear()
