"""The events of a durable consumer: each of them comes until it is acknowledged, whoever is killed meanwhile.

    async with client.events("users", operations={"insert"}, consumer="enrich-users") as events:
        async for event in events:
            await enrich(event.keys)

An event is acknowledged when the next one is asked for. Leaving the block by an exception gives it back, and the relay
gives it to anybody after a pause; leaving it otherwise acknowledges it. So a handler may see an event again after it,
or the relay, was killed: with the same `id`.

Reconnects are invisible. What was given and not begun before one is left to the relay; what was begun is named to it,
as is what was acknowledged lately, since the relay may not have heard of it any more.

Bounds: `prefetch` jobs. On the path of an event: step 9, beside the streams.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import datetime
import weakref
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Protocol

import pydantic

from pgcachewatch.aio.events import reason_of
from pgcachewatch.errors import EventsLost, PGCacheWatchError
from pgcachewatch.models import ConsumedEvent, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import ClientSession

OnGap = Callable[[Gap], Awaitable[None]]

LEFT = "the loop that handled it was left"


class Mouth(Protocol):
    """What a consumer says its words with."""

    def say(self, write: Callable[[ClientSession], str | None]) -> bool:
        """Send what `write` makes of the session, if anything. False when there is no open one, or nothing was sent."""

    @property
    def epoch(self) -> str:
        """Of the session's position; empty when there is none."""


def item_of(job: messages.Job) -> ConsumedEvent | Gap:
    """What a job says. What can not be read is a Gap, and can not be overlooked either."""
    detail = job.detail
    if job.op != "*":
        operation = messages.OPERATION_OF[job.op]
        try:
            return ConsumedEvent.model_validate({**detail, "operation": operation, "id": job.id, "tries": job.tries})
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            return Gap(Scope(_text(detail.get("channel")), _text(detail.get("table"))), "unreadable", str(first)[:200])
    since: datetime.datetime | None = None
    with contextlib.suppress(ValueError):
        since = datetime.datetime.fromisoformat(_text(detail.get("since")) or "")
    scope = Scope(_text(detail.get("channel")), _text(detail.get("table")), _text(detail.get("schema")))
    return Gap(scope, reason_of(detail.get("reason")), _text(detail.get("detail")) or "", since=since)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


class ConsumerFeed:
    """One part in one consumer: asks for it on each connection, and keeps what is given until it is begun."""

    def __init__(self, wish: messages.Consume, mouth: Mouth) -> None:
        self.wish = wish
        self.is_admitted = False
        self.is_asking = False  # this connection was asked, and has not answered
        self._mouth = mouth
        self._queue: collections.deque[tuple[str, messages.Job]] = collections.deque()  # each with its epoch
        self._begun: messages.Job | None = None
        self._epoch = ""  # of the job that was begun
        self._done: collections.deque[tuple[str, str]] = collections.deque(maxlen=messages.DONE_REPEATED)
        self._was_called_back = False
        self._has_left = False
        self._woken = asyncio.Event()
        self._admission = asyncio.Event()
        self._end: BaseException | None = None

    # --- told by the client

    def connected(self) -> None:
        """There is a session: ask it."""
        self.lost()
        if self._end is None:
            epoch = self._mouth.epoch
            held = self._begun.id if self._begun is not None and self._epoch == epoch else None
            done = [identity for its_epoch, identity in self._done if its_epoch == epoch]
            wish = self.wish.model_copy(update={"done": done, "held": held})
            self.is_asking = self._mouth.say(lambda session: session.takers.consume(wish))

    def lost(self) -> None:
        """The connection is gone, and what was not begun with it."""
        self.is_admitted = self.is_asking = False
        self._admission.clear()
        self._queue.clear()

    def admitted(self) -> None:
        self.is_admitted, self.is_asking = True, False
        self._was_called_back = False
        self._admission.set()

    def given(self, job: messages.Job) -> None:
        if self._end is None:
            self._queue.append((self._mouth.epoch, job))
            self._woken.set()

    def taken(self, ids: Sequence[str]) -> None:
        gone = set(ids)
        self._queue = collections.deque(each for each in self._queue if each[1].id not in gone)
        self._was_called_back = True
        self._woken.set()

    def refused(self, error: PGCacheWatchError, *, may_retry: bool) -> None:
        self.is_admitted = self.is_asking = False
        if not may_retry:
            self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more is taken. `error` is raised where somebody waits, or iteration ends."""
        if self._end is None:
            self._end = error or StopAsyncIteration()
            self._queue.clear()
        self._woken.set()
        self._admission.set()

    # --- asked by who handles them

    async def live(self) -> None:
        """Wait until events are given."""
        await self._admission.wait()
        if self._end is not None and not isinstance(self._end, StopAsyncIteration):
            raise self._end

    async def take(self) -> messages.Job:
        """The next job, which counts as begun from now on."""
        while not self._queue:
            if self._end is not None:
                raise self._end
            if self._was_called_back and self.is_admitted:
                # The relay gives nothing to who let a job time out before it says something.
                self._was_called_back = False
                self._say_done([])
            self._woken.clear()
            await self._woken.wait()
        self._epoch, self._begun = self._queue.popleft()
        return self._begun

    def acknowledge(self) -> None:
        """What was begun is handled."""
        job, self._begun = self._begun, None
        if job is not None:
            self._done.append((self._epoch, job.id))
            self._say_done([job.id])

    def give_back(self, reason: str) -> None:
        """It is not, and may be given to anybody."""
        job, self._begun = self._begun, None
        if job is not None:
            said = reason[: messages.REASON_LENGTH]
            self._mouth.say(lambda session: session.takers.failed(self.wish.id, [job.id], said))

    def forget(self) -> None:
        """Somebody else is to handle what was begun, and it does not count as tried."""
        self._begun = None

    def leave(self) -> None:
        """Take part no more. A second call does nothing."""
        if self._has_left:
            return
        self._has_left = True
        self.give_back(LEFT)
        self._mouth.say(lambda session: session.takers.leave(self.wish.id))

    def _say_done(self, ids: list[str]) -> None:
        if ids:
            self._was_called_back = False
        self._mouth.say(lambda session: session.takers.done(self.wish.id, ids))


class ConsumerStream:
    """Async iterator over the events of a consumer. Iterate on the client's event loop; one handler for each stream.

    A gap is an event as well, that has to be acknowledged: `on_gap` is awaited with it, and acknowledges by returning.
    Without `on_gap` it raises EventsLost, each time anew: it can not be overlooked.
    """

    def __init__(self, feed: ConsumerFeed, release: Callable[[ConsumerFeed], None], on_gap: OnGap | None) -> None:
        self.tells_gaps_once = False  # for listeners: raising is telling, and the next one acknowledges
        self._feed = feed
        self._on_gap = on_gap
        self._finalizer = weakref.finalize(self, _drop, feed, release)
        self._finalizer.atexit = False

    def __aiter__(self) -> ConsumerStream:
        return self

    async def __anext__(self) -> ConsumedEvent:
        while True:
            self._feed.acknowledge()
            item = item_of(await self._feed.take())
            if not isinstance(item, Gap):
                return item
            await self._mend(item)

    async def _mend(self, gap: Gap) -> None:
        since = f" since {gap.since.isoformat()}" if gap.since is not None else ""
        if self._on_gap is None:
            if not self.tells_gaps_once:
                self._feed.give_back("no on_gap")
            raise EventsLost(
                f"events of consumer {self._feed.wish.consumer!r} are missing{since} ({gap.reason}: {gap.detail}); "
                "give on_gap=, which looks up what they would have told you",
                reason=gap.reason,
            )
        try:
            await self._on_gap(gap)
        except Exception as error:
            self._feed.give_back(repr(error))
            raise

    async def __aenter__(self) -> ConsumerStream:
        await self._feed.live()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._feed.acknowledge()
        elif isinstance(error, Exception):
            self._feed.give_back(repr(error))
        self.close()

    def close(self) -> None:
        """Take part no more. A handler that waits gets StopAsyncIteration; what it has begun is given back."""
        self._feed.forget()
        self._feed.leave()
        self._finalizer()


def _drop(feed: ConsumerFeed, release: Callable[[ConsumerFeed], None]) -> None:
    """From `close`, or when nobody holds the stream any more."""
    feed.end()
    release(feed)
