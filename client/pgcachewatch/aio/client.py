"""The client: what a program holds of a relay. Made by `connect`, it hands out caches, events and barriers.

    async with pgcachewatch.connect("ws://127.0.0.1:8420") as client:
        @client.cache(tables=["users"])
        async def get_user(user_id: int) -> User: ...

The client belongs to the event loop it was connected on. Cached functions may be called from any loop and any thread;
`barrier`, `wait_live` and `aclose` find their way home from other loops. After `aclose` each cached function runs for
each call, and everything else raises Closed.

Bounds: those of its parts; `event_buffer` events for each stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import secrets
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

import pydantic

from pgcachewatch.aio.cache import CachedFunction
from pgcachewatch.aio.caching import CacheKeywords, Caching, Decorator, OnDisconnect
from pgcachewatch.aio.connection import Connection
from pgcachewatch.aio.consuming import ConsumerFeed, ConsumerStream, OnGap
from pgcachewatch.aio.events import EventStream, Feed, closed_error
from pgcachewatch.aio.watch import Watch
from pgcachewatch.core.dependencies import Tag
from pgcachewatch.core.store import CacheInfo
from pgcachewatch.core.subscriptions import table_scopes
from pgcachewatch.core.tokens import BarrierToken
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, NotFresh, PGCacheWatchError
from pgcachewatch.models import OPERATIONS, Position, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.strategies import Observer

DEFAULT_PREFETCH = 10
CONSUMER_IDS_FROM = 2**41  # subscriptions, barriers and pings count from less (W-ID-1)

logger = logging.getLogger("pgcachewatch")


P = ParamSpec("P")
R = TypeVar("R")

# The clients, by id(), whose caches the current context does not want to use.
FRESH: contextvars.ContextVar[tuple[int, ...]] = contextvars.ContextVar("pgcachewatch_fresh", default=())


@dataclass(frozen=True, slots=True)
class Status:
    """A client at one instant. Times are seconds.

    `state` is "cold" before the first proof of freshness, "live" while a proof is younger than the staleness bound and
    the link stands, "suspect" otherwise: then hits go on for `lease_left_s` and no longer. `gaps` counts the times
    continuity broke, `resumes` the reconnects that kept the caches warm. `refusals` are requests the relay declined,
    newest last: the caches that need them run their functions for every call. `notices` are what it finds odd in them,
    such as a table that does not exist.
    """

    state: Literal["cold", "live", "suspect"]
    position: Position | None
    lease_left_s: float
    gaps: int
    resumes: int
    reconnects: int
    is_connected: bool
    is_closed: bool
    url: str
    last_error: PGCacheWatchError | None
    refusals: tuple[str, ...]
    notices: tuple[str, ...] = ()


class Client:
    """One program's view of a relay. Make it with `connect`."""

    def __init__(
        self,
        watch: Watch,
        connection: Connection,
        *,
        clock: Callable[[], float],
        channels: tuple[str, ...],
        on_disconnect: OnDisconnect,
        event_buffer: int,
    ) -> None:
        self._watch = watch
        self._connection = connection
        self._clock = clock
        self._channels = channels
        self._event_buffer = event_buffer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._task: asyncio.Task[None] | None = None
        self._feeds: weakref.WeakSet[Feed] = weakref.WeakSet()
        self._is_closed = False
        self._last_consumer_id = CONSUMER_IDS_FROM
        self._reported: set[str] = set()
        self._caching = Caching(
            watch,
            clock=clock,
            channels=channels,
            on_disconnect=on_disconnect,
            is_bypassed=self._is_bypassed,
            is_healthy=self.connection_healthy,
            on_loop=self._on_loop,
            soon=self._soon,
        )

    async def open(self, *, timeout_s: float) -> None:
        """Start, and wait for the first welcome. `connect` does this."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._task = self._loop.create_task(self._connection.run(), name="pgcachewatch-client")
        if timeout_s == 0:
            return
        watch = self._watch
        try:
            await watch.until(lambda: watch.is_welcomed, timeout_s=timeout_s)
        except NotFresh as error:
            await self.aclose()
            last = f": {watch.last_error}" if watch.last_error else ""
            raise ConnectionFailed(
                f"no relay welcomed this client within {timeout_s:g} s{last}; is the relay running there? "
                "open_timeout=0 starts without waiting"
            ) from error
        except BaseException:
            await self.aclose()
            raise

    # --- state

    @property
    def status(self) -> Status:
        """What is known right now. Cheap; may be asked from any thread."""
        watch, now_s = self._watch, self._clock()
        return Status(
            state=watch.freshness.trust_at(now_s=now_s).value,
            position=watch.position,
            lease_left_s=max(0.0, watch.freshness.lease_left_s(now_s=now_s)),
            gaps=watch.gaps,
            resumes=watch.resumes,
            reconnects=max(0, self._connection.connects - 1),
            is_connected=self._connection.stage == "open",
            is_closed=self._is_closed,
            url=self._connection.url,
            last_error=watch.last_error,
            refusals=tuple(watch.refusals),
            notices=tuple(watch.notices),
        )

    def connection_healthy(self) -> bool:
        """True while freshness is proven: the word of the original library for it."""
        return not self._is_closed and self._watch.freshness.lease_left_s(now_s=self._clock()) >= 0

    async def wait_live(self, timeout: float | None = None) -> None:
        """Wait until freshness is proven for all that was subscribed. Raises NotFresh after `timeout` seconds."""
        watch = self._watch
        await self._at_home(lambda: watch.until(lambda: watch.is_live, timeout_s=timeout), "wait_live")

    async def barrier(self, token: BarrierToken | str | None = None, *, timeout: float = 5.0) -> None:
        """After this, every hit in this process contains each transaction whose COMMIT returned before the call (G3).

        With a `token`: the transaction that it was taken in, whoever committed it, also when that happens later. It
        costs no round trip when the transaction was applied already. Raises BarrierTimeout, which says what is missing,
        after `timeout` seconds.
        """
        barriers = self._watch.barriers
        if isinstance(token, str):
            token = BarrierToken.parse(token)
        position = self._watch.position
        if token is None or position is None or token.epoch != position.epoch:
            await self._at_home(lambda: barriers.wait(timeout_s=timeout), "barrier")
        else:
            nonce = token.nonce
            await self._at_home(lambda: barriers.wait_for_token(nonce, timeout_s=timeout), "barrier")

    def new_token(self) -> BarrierToken:
        """A token, for a driver that `token` does not know: execute its `statement` inside the transaction."""
        position = self._watch.position
        return BarrierToken(secrets.token_hex(16), position.epoch if position else "")

    async def token(self, connection: Any) -> BarrierToken:  # Any: connections of four libraries share no type
        """A token for the transaction that `connection` is in: await it inside, and `barrier(token)` after the commit.

        `connection` is asyncpg's or psycopg's, or an AsyncConnection or AsyncSession of SQLAlchemy.
        """
        token = self.new_token()
        if hasattr(connection, "sync_session"):
            connection = await connection.connection()
        execute = getattr(connection, "exec_driver_sql", None) or connection.execute
        await execute(token.statement)
        return token

    # --- caches

    @overload
    def cache(
        self, function: Callable[P, Awaitable[R]], /, **options: Unpack[CacheKeywords]
    ) -> CachedFunction[P, Coroutine[Any, Any, R]]: ...

    @overload
    def cache(self, function: Callable[P, R], /, **options: Unpack[CacheKeywords]) -> CachedFunction[P, R]: ...

    @overload
    def cache(self, /, **options: Unpack[CacheKeywords]) -> Decorator: ...

    def cache(self, function: Callable[..., Any] | None = None, /, **options: Unpack[CacheKeywords]) -> Any:
        """Cache what a function returns until something it depends on changes.

        `@client.cache`, `@client.cache(tables=["users"])` and `client.cache(function, tables=["users"])`, for an
        `async def` as for a `def`. The options are those of CacheKeywords. Nothing is stored before the relay has
        acknowledged the subscription, a moment after this returns; `wait_live` waits for it.
        """
        self._check_open("cache")
        decorate = self._caching.decorator(**options)
        return decorate if function is None else decorate(function)

    def cache_infos(self) -> dict[str, CacheInfo]:
        """What `cache_info()` tells, of each cached function by its name; those of one name are added up.

        O(entries); may be asked from any thread.
        """
        found: dict[str, CacheInfo] = {}
        for reader in tuple(self._watch.caches):
            info = reader.info()
            found[reader.label] = found[reader.label] + info if reader.label in found else info
        return found

    def invalidate(self, *tags: Tag | str) -> int:
        """Drop what the functions with one of these tags have stored, in this process. Returns how many functions.

        For changes that no event tells of. May be called from any thread.
        """
        return self._caching.invalidate(tags)

    @contextlib.contextmanager
    def fresh(self) -> Iterator[None]:
        """Calls of this client's cached functions inside run the function, and neither read nor write the cache.

        The mark is a context variable: it holds for this task or thread and what it starts, and for nobody else.
        """
        wanting = FRESH.set((*FRESH.get(), id(self)))
        self._watch.hold()
        try:
            yield
        finally:
            self._watch.release()
            FRESH.reset(wanting)

    def _is_bypassed(self) -> bool:
        """Asked by each call that finds no hit allowed."""
        return self._is_closed or id(self) in FRESH.get()

    # --- a listener, as strategies want it

    def attach(self, observer: Observer) -> None:
        """Hand every event on the client's channels, and every Gap, to `observer`, which is held weakly.

        A strategy does this by itself when the client is its listener.
        """
        self._check_open("attach")
        self._caching.attach(observer)

    def now_s(self) -> float:
        """The clock of this client: local, monotonic, in seconds."""
        return self._clock()

    def report(self, what: str, error: Exception) -> None:
        """Log a fault of something the user supplied, once for each kind."""
        if what not in self._reported:
            self._reported.add(what)
            logger.error("%s raised; this is logged once: %r", what, error, exc_info=error)

    # --- events

    @overload
    def events(
        self, *tables: str, operations: Collection[OPERATIONS] | None = None, start: Literal["now"] = "now"
    ) -> EventStream: ...

    @overload
    def events(
        self,
        *tables: str,
        operations: Collection[OPERATIONS] | None = None,
        consumer: str,
        prefetch: int = DEFAULT_PREFETCH,
        on_gap: OnGap | None = None,
    ) -> ConsumerStream: ...

    def events(
        self,
        *tables: str,
        operations: Collection[OPERATIONS] | None = None,
        start: Literal["now"] = "now",
        consumer: str | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        on_gap: OnGap | None = None,
    ) -> EventStream | ConsumerStream:
        """Changes of `tables` (none: of everything on the client's channels) as they are committed.

        Yields Event, and Gap where continuity broke: what happened there is not known, so read anew what matters. The
        stream keeps `event_buffer` events for a consumer that is slow, and a Gap for one that is slower. `async with`
        waits until the subscription is live; `async for` alone starts at once.

        With `consumer`, a name of your choice, the relay keeps in the database what was acknowledged, and each event
        comes at least once, whoever is killed meanwhile: see aio/consuming. Who gives the same name shares the events.
        The tables must be in journal mode. `prefetch` events are sent ahead; `on_gap` is awaited where events are
        missing, and without it EventsLost is raised there.
        """
        self._check_open("events")
        if consumer is not None:
            return self._consume(consumer, tables, self._operations(operations), prefetch, on_gap)
        if start != "now":
            raise ConfigurationError(
                f"start={start!r} can not work; a stream starts now: read the past from the tables"
            )
        ops = [messages.OP_CODES[one] for one in self._operations(operations)]
        scopes = table_scopes(tables, self._channels)
        feed = Feed(scope=scopes[0] if len(scopes) == 1 else Scope(), limit=self._event_buffer)

        def add() -> None:
            self._watch.subscriptions.add(feed, scopes, mode="stream", ops=ops or None)
            self._feeds.add(feed)
            self._watch.wants_changed()

        self._on_loop(add)
        return EventStream(feed, self._release_feed)

    def _consume(
        self, name: str, tables: Sequence[str], operations: list[OPERATIONS], prefetch: int, on_gap: OnGap | None
    ) -> ConsumerStream:
        if not tables:
            raise ConfigurationError(f"consumer={name!r} can not work without tables; name those in journal mode")
        self._last_consumer_id += 1
        wants = [
            messages.Want(channel=scope.channel, table=scope.table, schema_name=scope.schema)
            for scope in table_scopes(tables, self._channels)
        ]
        try:
            wish = messages.Consume(
                id=self._last_consumer_id,
                consumer=name,
                wants=wants,
                ops=[messages.OP_CODES[one] for one in operations] or None,
                prefetch=prefetch,
            )
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigurationError(
                f"{first['loc'][0]}={first['input']!r} of a consumer can not work: {first['msg']}"
            ) from None
        feed = ConsumerFeed(wish, self._connection)

        def add() -> None:
            self._watch.consumers[wish.id] = feed
            feed.connected()

        self._on_loop(add)
        return ConsumerStream(feed, self._release_consumer, on_gap)

    def _release_consumer(self, feed: ConsumerFeed) -> None:
        def remove() -> None:
            feed.leave()
            self._watch.consumers.pop(feed.wish.id, None)

        self._soon(remove)  # as with a stream

    @staticmethod
    def _operations(operations: Collection[OPERATIONS] | None) -> list[OPERATIONS]:
        if operations is None:
            return []
        unknown = set(operations) - set(messages.OP_CODES)
        if unknown or not operations or isinstance(operations, str):
            raise ConfigurationError(
                f"operations={operations!r} can not work; give a set out of {', '.join(messages.OP_CODES)}"
            )
        return sorted(set(operations))

    def _release_feed(self, feed: Feed) -> None:
        def remove() -> None:
            self._watch.subscriptions.remove(feed)
            self._watch.wants_changed()

        # In a step of its own: the garbage collector may have come here in the middle of another.
        self._soon(remove)

    # --- the end

    async def aclose(self) -> None:
        """Close. Idempotent; takes a fraction of a second at most."""
        if not self._is_closed:
            self._is_closed = True
            await self._at_home(self._close, "aclose", may_be_closed=True)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def forked(self) -> None:
        """This is the child of a fork, and whoever heard the relay stayed in the parent: run the functions."""
        self._is_closed = True
        self._watch.forked()

    async def _close(self) -> None:
        self._watch.close(closed_error("waiting"))
        for feed in list(self._feeds):
            feed.end()
        for consumer in list(self._watch.consumers.values()):
            consumer.forget()
            consumer.leave()
        self._watch.consumers.clear()
        try:
            await self._connection.close()
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)

    # --- loops and threads

    def _check_open(self, what: str) -> None:
        if self._is_closed:
            raise closed_error(what)

    def _on_loop(self, act: Callable[[], None]) -> None:
        """Do something that changes the watch: at once on the client's thread, soon from another."""
        if threading.get_ident() == self._thread:
            act()
            return
        self._soon(act)

    def _soon(self, act: Callable[[], None]) -> None:
        """Do it in a step of its own."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(act)
        except RuntimeError:
            pass  # the loop is closed, and the client with it

    async def _at_home(
        self, call: Callable[[], Coroutine[Any, Any, None]], what: str, *, may_be_closed: bool = False
    ) -> None:
        """Run a coroutine on the client's loop, wherever this is called from."""
        if not may_be_closed:
            self._check_open(what)
        assert self._loop is not None
        if asyncio.get_running_loop() is self._loop:
            await call()
        elif not self._loop.is_closed():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(), self._loop))
