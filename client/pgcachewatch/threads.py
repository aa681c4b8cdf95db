"""The same client for programs without an event loop: Django, Flask, scripts, worker threads.

    with pgcachewatch.sync.connect("ws://127.0.0.1:8420") as client:
        @client.cache(tables=["products"])
        def featured(limit: int) -> list[Product]: ...

One background thread runs one event loop with one Client on it, for all threads of the process. A hit is served on the
calling thread and does not touch the loop, so it costs what it costs anywhere; the guarantees are the same. Everything
here may be used from any thread.

A fork does not take threads along. In the child each cached function runs for each call, and everything else raises
ConfigurationError: connect after the fork, for instance in gunicorn's post_fork hook. The thread is a daemon: a program
that forgets `close` ends all the same.

Bounds: one thread; those of the client.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import datetime
import os
import ssl as tls
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, ParamSpec, TypeVar, Unpack, overload

from pgcachewatch.aio import connecting as aio
from pgcachewatch.aio.cache import CachedFunction
from pgcachewatch.aio.caching import CacheKeywords, Decorator, OnDisconnect
from pgcachewatch.aio.client import DEFAULT_PREFETCH, Status
from pgcachewatch.aio.client import Client as AsyncClient
from pgcachewatch.aio.consuming import ConsumerStream
from pgcachewatch.aio.events import EventStream, closed_error
from pgcachewatch.aio.renewal import Token
from pgcachewatch.core.backoff import Backoff
from pgcachewatch.core.dependencies import Tag
from pgcachewatch.core.store import CacheInfo
from pgcachewatch.core.tokens import BarrierToken
from pgcachewatch.errors import Closed, ConfigurationError, PGCacheWatchError
from pgcachewatch.models import DEFAULT_PG_CHANNEL, OPERATIONS, ConsumedEvent, Event, Gap

CLOSE_TIMEOUT_S = 2.0

P = ParamSpec("P")
R = TypeVar("R")


def connect(
    url: str | Sequence[str],
    *,
    token: Token | None = None,
    ssl: tls.SSLContext | None = None,
    channels: Sequence[str] = (DEFAULT_PG_CHANNEL,),
    staleness: float | datetime.timedelta = aio.DEFAULT_STALENESS_S,
    on_disconnect: OnDisconnect = "share",
    event_buffer: int = aio.DEFAULT_EVENT_BUFFER,
    open_timeout: float = aio.DEFAULT_OPEN_TIMEOUT_S,
    reconnect: Backoff | None = None,
    name: str | None = None,
) -> Client:
    """As `pgcachewatch.connect`; returns when the relay has welcomed the client. For `with`, or call `close()`."""
    return Client(
        lambda: aio.connect(
            url,
            token=token,
            ssl=ssl,
            channels=channels,
            staleness=staleness,
            on_disconnect=on_disconnect,
            event_buffer=event_buffer,
            open_timeout=open_timeout,
            reconnect=reconnect,
            name=name,
        )
    )


def connect_over(urls: Sequence[str], **options: Any) -> Client:  # Any: the options of aio.connecting.connect_over
    """As `connect`, over any transport and with any clock: for tests."""
    return Client(lambda: aio.connect_over(urls, **options))


class Client:
    """A client for threads. Make it with `connect`."""

    def __init__(self, connecting: Callable[[], aio.Connecting]) -> None:
        # Before the thread exists, so that arguments that can not work leave nothing behind.
        pending = connecting()
        self._home = _Home()
        self._pid = os.getpid()
        try:
            self._client = self._home.run(_entered(pending))
        except BaseException:
            self._home.stop()
            raise
        self._finalizer = weakref.finalize(self, _close, self._home, self._client, self._pid)
        _forget_in_child(self)

    @property
    def status(self) -> Status:
        """What is known right now."""
        return self._client.status

    def connection_healthy(self) -> bool:
        """True while freshness is proven."""
        return os.getpid() == self._pid and self._client.connection_healthy()

    def wait_live(self, timeout: float | None = None) -> None:
        """Wait until freshness is proven for all that was subscribed. Raises NotFresh after `timeout` seconds."""
        self._check_process("wait_live")
        self._home.run(self._client.wait_live(timeout))

    def barrier(self, token: BarrierToken | str | None = None, *, timeout: float = 5.0) -> None:
        """After this, every hit in this process contains each transaction whose COMMIT returned before the call.

        With a `token`: the transaction that it was taken in.
        """
        self._check_process("barrier")
        self._home.run(self._client.barrier(token, timeout=timeout))

    def token(self, connection: Any) -> BarrierToken:  # Any: the connections of three libraries share no type
        """A token for the transaction that `connection` is in: take it inside, and `barrier(token)` after the commit.

        `connection` is a DB-API connection such as psycopg's or Django's, or a Connection or Session of SQLAlchemy.
        """
        token = self._client.new_token()
        if hasattr(connection, "get_bind"):
            connection = connection.connection()
        if hasattr(connection, "exec_driver_sql"):
            connection.exec_driver_sql(token.statement)
        else:
            with connection.cursor() as cursor:
                cursor.execute(token.statement)
        return token

    def cache_infos(self) -> dict[str, CacheInfo]:
        """What `cache_info()` tells, of each cached function by its name; those of one name are added up."""
        return self._client.cache_infos()

    def invalidate(self, *tags: Tag | str) -> int:
        """Drop what the functions with one of these tags have stored, in this process. Returns how many functions."""
        return self._client.invalidate(*tags)

    def fresh(self) -> contextlib.AbstractContextManager[None]:
        """Calls inside, on this thread, run the function, and neither read nor write the cache."""
        return self._client.fresh()

    @overload
    def cache(
        self, function: Callable[P, Awaitable[R]], /, **options: Unpack[CacheKeywords]
    ) -> CachedFunction[P, Coroutine[Any, Any, R]]: ...

    @overload
    def cache(self, function: Callable[P, R], /, **options: Unpack[CacheKeywords]) -> CachedFunction[P, R]: ...

    @overload
    def cache(self, /, **options: Unpack[CacheKeywords]) -> Decorator: ...

    def cache(self, function: Callable[..., Any] | None = None, /, **options: Unpack[CacheKeywords]) -> Any:
        """Cache what a function returns until something it depends on changes, as the asynchronous client does.

        The function runs in the thread of the first caller; those who call it meanwhile wait for the same run.
        """
        self._check_process("cache")
        plain = self._client.cache(**options)

        def decorate(function: Callable[..., Any]) -> Any:  # Any: as above
            wrapper: Any = plain(function)
            # A client nobody holds is closed; the functions it caches for hold it.
            wrapper._pgcachewatch_client = self
            return wrapper

        return decorate if function is None else decorate(function)

    @overload
    def events(
        self, *tables: str, operations: Collection[OPERATIONS] | None = None, start: Literal["now"] = "now"
    ) -> EventIterator: ...

    @overload
    def events(
        self,
        *tables: str,
        operations: Collection[OPERATIONS] | None = None,
        consumer: str,
        prefetch: int = DEFAULT_PREFETCH,
        on_gap: Callable[[Gap], object] | None = None,
    ) -> ConsumerIterator: ...

    def events(
        self,
        *tables: str,
        operations: Collection[OPERATIONS] | None = None,
        start: Literal["now"] = "now",
        consumer: str | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        on_gap: Callable[[Gap], object] | None = None,
    ) -> EventIterator | ConsumerIterator:
        """Changes as they are committed, as the asynchronous client tells them; live when this returns.

        With `consumer` at least once, as there; use it as `with ... as events`. `on_gap` runs in a thread of its own.
        """
        self._check_process("events")
        if consumer is not None:
            return self._consume(consumer, tables, operations, prefetch, on_gap)

        async def begin() -> EventStream:
            return await self._client.events(*tables, operations=operations, start=start).__aenter__()

        return EventIterator(self._home, self._home.run(begin()))

    def _consume(
        self,
        consumer: str,
        tables: Sequence[str],
        operations: Collection[OPERATIONS] | None,
        prefetch: int,
        on_gap: Callable[[Gap], object] | None,
    ) -> ConsumerIterator:
        async def mend(gap: Gap) -> None:
            assert on_gap is not None, "without it nothing is mended"
            await asyncio.to_thread(on_gap, gap)

        async def take_part() -> ConsumerStream:
            stream = self._client.events(
                *tables,
                operations=operations,
                consumer=consumer,
                prefetch=prefetch,
                on_gap=None if on_gap is None else mend,
            )
            return await stream.__aenter__()

        return ConsumerIterator(self._home, self._home.run(take_part()))

    def close(self) -> None:
        """Close. Idempotent; takes a fraction of a second."""
        self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_process(self, what: str) -> None:
        if os.getpid() != self._pid:
            raise ConfigurationError(
                f"{what} in process {os.getpid()}, but the client was connected in {self._pid}: threads do not survive "
                "a fork; connect again in the child, for instance in a post_fork hook"
            )

    def _forked(self) -> None:
        """In the child: what was heard stays in the parent, and locks may be held by threads that are gone."""
        self._client.forked()


class EventIterator:
    """Blocking iterator over Event and Gap. Ends when it or the client is closed."""

    def __init__(self, home: _Home, stream: EventStream) -> None:
        self._home = home
        self._stream = stream

    def __iter__(self) -> Iterator[Event | Gap]:
        return self

    def __next__(self) -> Event | Gap:
        try:
            return self._home.run(self._stream.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None
        except Closed:
            # The client was closed meanwhile. What arrived before is still given, then the iteration ends.
            try:
                return self._stream.left()
            except StopAsyncIteration:
                raise StopIteration from None

    def __enter__(self) -> EventIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription; a thread that waits in `next` gets StopIteration."""
        self._home.call(self._stream.close)


class ConsumerIterator:
    """Blocking iterator over the events of a consumer; `with` says how each of them ended."""

    def __init__(self, home: _Home, stream: ConsumerStream) -> None:
        self._home = home
        self._stream = stream

    def __iter__(self) -> Iterator[ConsumedEvent]:
        return self

    def __next__(self) -> ConsumedEvent:
        try:
            return self._home.run(self._stream.__anext__())
        except (StopAsyncIteration, Closed):
            raise StopIteration from None

    def __enter__(self) -> ConsumerIterator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._home.run(self._stream.__aexit__(kind, error, trace))
        except Closed:
            pass  # the client was closed before, and gave everything back

    def close(self) -> None:
        """Take part no more; a thread that waits in `next` gets StopIteration."""
        self._home.call(self._stream.close)


class _Home:
    """A thread that runs an event loop, until it is stopped."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._has_ended = False  # from then on nothing is taken on
        self._thread = threading.Thread(target=self._main, name="pgcachewatch", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R], timeout_s: float | None = None) -> R:
        """Run a coroutine there, and wait here for what it returns or raises."""
        if threading.current_thread() is self._thread:
            work.close()
            raise ConfigurationError("a blocking call from the client's own thread would wait for itself for ever")
        with self._lock:
            if self._has_ended:
                work.close()
                raise closed_error("call")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout_s)
        except concurrent.futures.CancelledError:
            if self._has_ended:
                raise closed_error("call") from None
            raise
        except BaseException:
            # An interrupted caller takes its work along.
            future.cancel()
            raise

    def call(self, act: Callable[[], None]) -> None:
        """Do something there, soon."""
        try:
            self._loop.call_soon_threadsafe(act)
        except RuntimeError:
            pass  # the loop is closed, and there is nothing left to act on

    @property
    def is_here(self) -> bool:
        return threading.current_thread() is self._thread

    def stop(self) -> None:
        """End the thread. Nothing that still runs there is waited for any longer than CLOSE_TIMEOUT_S."""
        self.call(self._loop.stop)
        if not self.is_here:
            self._thread.join(CLOSE_TIMEOUT_S)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with self._lock:
                self._has_ended = True
            # What was taken on a moment ago becomes a task in the first round, and is cancelled in the next.
            self._loop.run_until_complete(asyncio.sleep(0))
            while left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self._loop.close()


async def _entered(connecting: Awaitable[AsyncClient]) -> AsyncClient:
    return await connecting


def _close(home: _Home, client: AsyncClient, pid: int) -> None:
    """Close from any thread, at exit, or when the garbage collector finds a client nobody closed."""
    if os.getpid() != pid:
        return
    if home.is_here:
        # Collected on the client's own thread: nobody may wait here.
        task = asyncio.ensure_future(client.aclose())
        task.add_done_callback(lambda _: home.stop())
        return
    try:
        home.run(client.aclose(), CLOSE_TIMEOUT_S)
    except (PGCacheWatchError, TimeoutError):
        pass  # the thread is stopped all the same
    home.stop()


def _forget_in_child(client: Client) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    weak = weakref.ref(client)

    def in_child() -> None:
        client = weak()
        if client is not None:
            client._forked()

    os.register_at_fork(after_in_child=in_child)
