"""The stream of events a client hands out: an async iterator of Event, and Gap where continuity broke.

A stream is a reader like a cache, with a buffer between the socket and its consumer. The buffer is bounded: when the
consumer falls behind by more, what is buffered is dropped and one Gap stands in its place, since a consumer that must
read everything anew has no use for half of the old events. Gaps in a row are one Gap.

The consumer may simply stop iterating: the handle it held is what keeps the subscription alive.
Bound: `limit` events; at the limit, the Gap described above. On the path of an event: step 9, beside the caches.
"""

from __future__ import annotations

import asyncio
import collections
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import get_args

import pydantic

from pgcachewatch.errors import Closed, PGCacheWatchError
from pgcachewatch.models import Event, Gap, GapReason, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Change


def event_of(change: Change, sub: messages.Sub) -> Event | Gap:
    """What one item of a stream subscription says. What can not be read is a Gap of the subscription's scope (G11)."""
    scope = Scope(sub.channel, sub.table, sub.schema_name)
    detail = change.detail or {}
    operation = messages.OPERATION_OF.get(change.op)
    if operation is None or "table" not in detail:
        return Gap(scope, reason_of(detail.get("reason")), f"item {change.op!r} names no single event")
    try:
        return Event.model_validate({**detail, "operation": operation, "channel": sub.channel})
    except pydantic.ValidationError as error:
        return Gap(scope, "unreadable", str(error.errors(include_url=False, include_input=False)[0])[:200])


_REASONS: dict[object, GapReason] = {word: word for word in get_args(GapReason)}


def reason_of(word: object) -> GapReason:
    """One of the words of a Gap; `unreadable` for any other."""
    return _REASONS.get(word, "unreadable") if isinstance(word, str) else "unreadable"


class Feed:
    """The reader behind a stream: buffers what is told until the consumer takes it."""

    def __init__(self, *, scope: Scope, limit: int) -> None:
        self._scope = scope
        self._limit = limit
        self._buffer: collections.deque[Event | Gap] = collections.deque()
        self._woken = asyncio.Event()
        self._live = asyncio.Event()
        self._pending: Gap | None = None  # continuity broke, and is not back yet
        self._was_live = False
        self._end: BaseException | None = None

    # --- told by the client, as a Reader

    def changed(self, change: Change, sub: messages.Sub) -> None:
        self._put(event_of(change, sub))

    def lost(self, gap: Gap) -> None:
        if self._live.is_set():
            self._put(gap)
        else:
            self._pending = gap

    def became_live(self) -> None:
        if self._was_live:
            # Told only now: a consumer that read everything anew while dark would have to do so again.
            self._put(self._pending or Gap(self._scope, "link_lost"))
        self._pending, self._was_live = None, True
        self._live.set()

    def went_dark(self) -> None:
        self._live.clear()

    def refused(self, error: PGCacheWatchError) -> None:
        self.end(error)

    def stopped(self, error: PGCacheWatchError) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come. What is buffered can still be taken; then `error` is raised, or iteration ends."""
        if self._end is None:
            self._end = error or StopAsyncIteration()
        self._woken.set()
        self._live.set()

    # --- asked by the consumer

    async def take(self) -> Event | Gap:
        while not self._buffer:
            if self._end is not None:
                raise self._end
            self._woken.clear()
            await self._woken.wait()
        return self._buffer.popleft()

    def left(self) -> Event | Gap:
        """What is still buffered, for when nothing more can come. Raises as `take` does."""
        if self._buffer:
            return self._buffer.popleft()
        raise self._end or StopAsyncIteration

    async def live(self) -> None:
        while not self._live.is_set():
            await self._live.wait()
        if self._end is not None and not isinstance(self._end, StopAsyncIteration):
            raise self._end

    def _put(self, told: Event | Gap) -> None:
        buffer = self._buffer
        if isinstance(told, Gap) and buffer and buffer[-1] == told:
            return
        if len(buffer) >= self._limit:
            buffer.clear()
            buffer.append(Gap(self._scope, "overflow", f"the consumer fell behind by more than {self._limit} events"))
        buffer.append(told)
        self._woken.set()


class EventStream:
    """Async iterator over Event and Gap. Iterate on the client's event loop; one consumer for each stream.

    `async with` waits until the subscription is live, so that the next committed event is in the stream (G12); plain
    `async for` starts at once, and events before the relay's acknowledgement are not in it.
    """

    def __init__(self, feed: Feed, release: Callable[[Feed], None]) -> None:
        self._feed = feed
        self._finalizer = weakref.finalize(self, release, feed)
        self._finalizer.atexit = False

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event | Gap:
        return await self._feed.take()

    def left(self) -> Event | Gap:
        """What had arrived when the client's loop ended. Raises StopAsyncIteration when nothing is left."""
        return self._feed.left()

    async def __aenter__(self) -> EventStream:
        await self._feed.live()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription. A consumer that waits gets StopAsyncIteration."""
        self._feed.end()
        self._finalizer()


def closed_error(what: str) -> Closed:
    """The error of everything that needs an open client."""
    return Closed(f"{what} on a closed client: nothing is heard any more; connect a new one")
