"""The queue face of a listener, and what happens to an event on its way in.

Three things are done with what arrives, in this order: it is handed to every strategy, so that caches are flushed
before anything else happens; it is put into a ring; who waits in `get()` is woken. Caches never read the ring, so no
reader can steal from them, and nothing a slow reader loses is lost to them.

The queue face (`get`, `get_nowait`, `qsize`) is one cursor on that ring. When it falls behind by more than `max_size`
events (QUEUED_EVENTS by default), the oldest go, and the next `get()` raises EventsLost once. It does so too where a
notification could not be read: that is a Gap, and it flushes every cache.

Bound: the ring's. On the path of an event: steps 8 and 9, for programs on the original's paths.
"""

from __future__ import annotations

import asyncio
import collections
import datetime
import json
import time
import weakref
from typing import Any

from pgcachewatch.aio.flight import on_loop
from pgcachewatch.core.ring import Ring
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, EventsLost
from pgcachewatch.logconfig import RateLimited, logger
from pgcachewatch.models import EVERYTHING, Event, Gap, PGChannel, Scope
from pgcachewatch.strategies import Observer

QUEUED_EVENTS = 100_000
CHANNEL_BYTES = 63  # PostgreSQL cuts longer names off, and would then notify on another channel
EXCERPT_LENGTH = 200
MAX_LATENCY = datetime.timedelta(milliseconds=500)


class EventQueue:
    """What both listeners have in common. Needs no event loop until somebody waits.

    `max_latency` is how old, by the database's clock, an event may be before it is logged. It is delivered anyway.
    """

    def __init__(self, max_size: int = 0, max_latency: datetime.timedelta = MAX_LATENCY) -> None:
        self.unreadable = 0  # notifications that became a Gap
        self._max_latency = max_latency
        self._ring: Ring[Any] = Ring(capacity=max_size if max_size > 0 else QUEUED_EVENTS)
        self._cursor = self._ring.cursor()
        self._getters: collections.deque[asyncio.Future[None]] = collections.deque()
        self._observers: list[weakref.ref[Observer]] = []
        self._reported: set[str] = set()
        self._log = RateLimited(logger)
        self.channel: PGChannel | None = None
        self.has_ended = False
        self._lost: ConnectionFailed | None = None

    def connection_healthy(self) -> bool:
        """True while events are certain to arrive, as far as the connection itself can tell."""
        return False

    # --- the queue face

    def put_nowait(self, item: Event | Any) -> None:
        """Let `item` arrive, as if it had come over the connection. It never waits and is never refused."""
        self.arrive(item)

    async def put(self, item: Event | Any) -> None:
        """The same as `put_nowait`."""
        self.arrive(item)

    def get_nowait(self) -> Event:
        """The next event. Raises asyncio.QueueEmpty, and EventsLost once where events are missing."""
        try:
            item = self._cursor.next()
        except IndexError:
            raise asyncio.QueueEmpty from None
        if isinstance(item, Gap):
            raise EventsLost(
                f"events were lost here ({item.reason}: {item.detail}); look up what they would have told you",
                reason=item.reason,
            )
        event: Event = item
        return event

    async def get(self) -> Event | None:
        """The next event, when there is one. None after this side closed the connection.

        Raises EventsLost once where events are missing, and ConnectionFailed after the connection was lost.
        """
        while True:
            try:
                return self.get_nowait()
            except asyncio.QueueEmpty:
                if self._lost is not None:
                    raise ConnectionFailed(*self._lost.args) from self._lost
                if self.has_ended:
                    return None
                await self._something()

    def qsize(self) -> int:
        """How many times `get_nowait` has something to say."""
        return len(self._cursor)

    def empty(self) -> bool:
        """True when `get_nowait` would raise asyncio.QueueEmpty."""
        return not self._cursor

    def full(self) -> bool:
        """False: the ring makes room."""
        return False

    # --- for strategies

    def attach(self, observer: Observer) -> None:
        """Hand every event to `observer` from now on. It is held weakly."""
        self._observers.append(weakref.ref(observer, self._observers.remove))

    # The local monotonic clock. No method around it: each hit of a cache that is flushed from here asks it.
    now_s = staticmethod(time.monotonic)

    def report(self, what: str, error: Exception) -> None:
        """Log a fault of something the user supplied, once for each kind."""
        if what not in self._reported:
            self._reported.add(what)
            logger.error("%s raised, which counts as an event that matters: %r", what, error, exc_info=error)

    # --- arriving

    def receive(self, payload: str | bytes | bytearray) -> None:
        """One notification. What can not be read becomes a Gap for the whole channel: it may have been anything."""
        try:
            content = json.loads(payload)
            if not isinstance(content, dict):
                raise ValueError("it is no JSON object")
            event = Event.model_validate({**content, "channel": self.channel})
        except (ValueError, TypeError, RecursionError) as error:
            self.unreadable += 1
            self._log.warning("unreadable", "a notification can not be read, caches are flushed: %s", excerpt(error))
            self.heard(Gap(Scope(self.channel), "unreadable", excerpt(payload)))
            return
        if event.latency > self._max_latency:
            self._log.warning("late", "event is %s old, more than max_latency=%s", event.latency, self._max_latency)
        self.heard(event)

    def heard(self, item: Event | Gap) -> None:
        """What a notification turned out to be."""
        self.arrive(item)

    def arrive(self, item: object) -> None:
        """One event, a Gap, or whatever else was put."""
        self.tell(item)
        self.keep(item)

    def keep(self, item: object) -> None:
        """For who reads the queue."""
        self._ring.append(item)
        self._wake()

    def tell(self, item: object) -> None:
        """For the strategies."""
        now_s = self.now_s()
        for reference in tuple(self._observers):
            observer = reference()
            if observer is not None:
                observer.observe(item, now_s)

    def end(self, lost: ConnectionFailed | None) -> None:
        """The connection is gone: in an orderly way, or `lost`. Only the first word counts."""
        if self.has_ended:
            return
        self.has_ended, self._lost = True, lost
        if lost is not None:
            logger.error("%s", lost)
        self.tell(Gap(EVERYTHING, "link_lost", "the connection ended"))
        self._wake()

    # --- waiting

    async def _something(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._getters.append(future)
        try:
            await future
        finally:
            if future in self._getters:
                self._getters.remove(future)

    def _wake(self) -> None:
        # All of them: one that was woken and then cancelled would otherwise keep the event from the others.
        while self._getters:
            future = self._getters.popleft()
            on_loop(future.get_loop(), _resolve, future)

    def begin(self, channel: PGChannel) -> None:
        """Connect to `channel`, and to no other ever. Raises RuntimeError the second time."""
        if self.channel is not None:
            raise RuntimeError(
                f"{type(self).__name__} is connected to channel {self.channel!r} already, and connects only once; "
                "make another one for another channel or connection"
            )
        if not channel or "\0" in channel or len(channel.encode()) > CHANNEL_BYTES:
            raise ConfigurationError(
                f"channel {channel[:80]!r} can not be listened to: a name has 1 to {CHANNEL_BYTES} bytes and no NUL"
            )
        self.channel = channel


def excerpt(value: object) -> str:
    """The beginning of a text, for logs."""
    text = str(value)
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "..."


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
