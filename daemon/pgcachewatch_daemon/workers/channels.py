"""The channels that the workers' clients need, all together, as the one LISTEN connection sees them.

Every worker is told of each channel that is listened to, with the position from which on its events are in the log: a
client may resume at a worker that never asked for its channel. When the source is lost, each worker is asked what its
clients still need, and what nobody names is forgotten, provided that all have answered before the source is back.

Bound: `channels_limit` of the source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Iterable
from functools import partial
from typing import Protocol

from pgcachewatch.errors import LimitExceeded
from pgcachewatch_daemon.workers.messages import Listening, ListenRefused


class Listener(Protocol):
    """The part of PostgresSource that has to do with channels."""

    def is_listening(self, channel: str) -> bool: ...
    def ensure_channel(self, channel: str) -> asyncio.Future[None]: ...
    def retain(self, channels: Iterable[str]) -> None: ...


class SharedChannels:
    """`default` is always needed; `head` is the position now; `tell` says something to all workers."""

    def __init__(
        self, source: Listener, *, default: str, head: Callable[[], int], tell: Callable[[Listening], None]
    ) -> None:
        self.listened: dict[str, int] = {}  # those of now, and the position their events begin at
        self._source = source
        self._default = default
        self._head = head
        self._tell = tell
        self._wanted: set[str] = set()
        self._pending: dict[asyncio.Future[None], str] = {}
        self._round = 0
        self._missing: set[Hashable] = set()
        self._needed: set[str] = set()

    def ensure(self, channel: str, answer: Callable[[Listening | ListenRefused], None]) -> None:
        """Listen to it. All workers are told once it is so; `answer` tells who asked when they were told before."""
        if channel in self.listened:
            answer(Listening(channel, self.listened[channel]))
            return
        self._wanted.add(channel)
        future = self._source.ensure_channel(channel)
        self._pending[future] = channel
        future.add_done_callback(partial(self._ensured, answer))

    def _ensured(self, answer: Callable[[Listening | ListenRefused], None], future: asyncio.Future[None]) -> None:
        channel = self._pending.pop(future)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self._wanted.discard(channel)
            answer(ListenRefused(channel, str(error), error.allowed if isinstance(error, LimitExceeded) else 0))
        elif channel not in self.listened and self._source.is_listening(channel):
            # Events before this moment may be missing, and those behind it are not: the head is what can be promised.
            self.listened[channel] = self._head()
            self._tell(Listening(channel, self.listened[channel]))

    def came_up(self) -> tuple[str, ...]:
        """A new epoch begins; these are listened to from its start."""
        self.listened = {channel: 0 for channel in sorted(self._wanted) if self._source.is_listening(channel)}
        self._wanted = {*self.listened, *self._pending.values()}
        return tuple(self.listened)

    def lost(self, workers: Collection[Hashable]) -> int:
        """The source is lost, and these are asked what they need; returns the number of the round."""
        self.listened.clear()
        self._round += 1
        self._missing, self._needed = set(workers), {self._default}
        self._retain_if_complete()
        return self._round

    def needed(self, worker: Hashable, number: int, channels: Iterable[str]) -> None:
        """A worker's answer to a round."""
        if number == self._round and worker in self._missing:
            self._needed.update(channels)
            self._missing.discard(worker)
            self._retain_if_complete()

    def gone(self, worker: Hashable) -> None:
        """It has no clients any more."""
        if worker in self._missing:
            self._missing.discard(worker)
            self._retain_if_complete()

    def _retain_if_complete(self) -> None:
        if not self._missing:
            self._source.retain(self._needed)
