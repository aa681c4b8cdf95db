"""Caches that exist before their client does: declared when a module is imported, bound when the program connects.

    cache = pgcachewatch.Cache(maxsize=10_000)

    @cache(tables=["users"])
    async def get_user(user_id: int) -> User: ...

    async with pgcachewatch.connect(url) as client:
        with cache.bound(client): ...

Unbound, each call runs the function and nothing is stored. Bound, each function is one that the client caches, with all
of its guarantees: the function stays what it is, only what stands behind it changes. Unbinding drops what was stored,
so that nothing read over one client is served over another.

What a module declares is a plain `def` that hands the call on, also for an `async def`: a second coroutine around the
first would cost more than the hit itself. It is marked so that frameworks await what it returns.

Bounds: those of the client's caches. A declaration ends with its function, as one on a client does, so declaring in a
loop does not leak. On the path of an event: behind step 12, serve.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, cast, overload

from pgcachewatch.aio.cache import CachedFunction, cached, is_async, new_store
from pgcachewatch.aio.caching import CacheKeywords, Decorator
from pgcachewatch.aio.fills import CacheOptions
from pgcachewatch.core.dependencies import Rows, declared
from pgcachewatch.core.stamps import Stamps
from pgcachewatch.core.store import DEFAULT_MAXSIZE
from pgcachewatch.core.trust import Trust
from pgcachewatch.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")


class Caches(Protocol):
    """Who caches functions: a client of either kind, or a Cache that will be bound to one."""

    def cache(self, /, **options: Unpack[CacheKeywords]) -> Decorator: ...


class Cache:
    """Declares cached functions for a client that comes later. The options are defaults for `client.cache`.

    Raises ConfigurationError for an option there is none of; what else can not work is refused where it is declared, or
    when it is bound. One client may have many of these. Everything here may be called from any thread.

    >>> from pgcachewatch.testing import FakeRelay
    >>> cache = Cache(tables=["prices"])
    >>> @cache
    ... def price(book: str) -> float:
    ...     return 9.5
    >>> with FakeRelay().connect_sync() as client, cache.bound(client):
    ...     client.wait_live()
    ...     price("Emma"), price("Emma"), price.cache_info().hits
    (9.5, 9.5, 1)
    """

    def __init__(self, **defaults: Unpack[CacheKeywords]) -> None:
        _check_options(defaults)
        self._defaults = defaults
        self._client: Caches | None = None
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        # By number, so that they are bound in the order they were declared; each lives as long as its function.
        self._declared: weakref.WeakValueDictionary[int, _Declaration] = weakref.WeakValueDictionary()

    @overload
    def __call__(
        self, function: Callable[P, Awaitable[R]], /, **options: Unpack[CacheKeywords]
    ) -> CachedFunction[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /, **options: Unpack[CacheKeywords]) -> CachedFunction[P, R]: ...

    @overload
    def __call__(self, /, **options: Unpack[CacheKeywords]) -> Decorator: ...

    def __call__(self, function: Callable[..., Any] | None = None, /, **options: Unpack[CacheKeywords]) -> Any:
        """Declare a function: `@cache`, `@cache(tables=["users"])`, `cache(function)`; options as for `client.cache`.

        While this is bound the function is declared on the client at once.
        """
        _check_options(options)
        merged = cast("CacheKeywords", {**self._defaults, **options})
        if function is None:
            return functools.partial(self._declare, merged)
        return self._declare(merged, function)

    def cache(self, /, **options: Unpack[CacheKeywords]) -> Decorator:
        """The same by the name that clients have for it, so that this can stand where a client is wanted."""
        return self(**options)

    @property
    def is_bound(self) -> bool:
        """True between `bind` and `unbind`."""
        return self._client is not None

    def bind(self, client: Caches) -> None:
        """Let `client` cache what is declared here, now and later. To the client it is bound to, this does nothing.

        Raises ConfigurationError when it is bound to another one, or when something declared here can not be cached;
        then nothing is bound.
        """
        with self._lock:
            self._bind(client)

    def unbind(self) -> None:
        """Drop what was stored, and run the functions from here on. Does nothing when nothing is bound."""
        with self._lock:
            self._client = None
            for declaration in list(self._declared.values()):
                declaration.unbind()

    @contextlib.contextmanager
    def bound(self, client: Caches) -> Iterator[None]:
        """Bound inside, and as it was before afterwards."""
        with self._lock:
            was_bound = self.is_bound
            self._bind(client)
        try:
            yield
        finally:
            if not was_bound:
                self.unbind()

    def _bind(self, client: Caches) -> None:
        if self._client is client:
            return
        if self._client is not None:
            raise ConfigurationError(
                f"this Cache is bound to {self._client!r} and can not serve {client!r} too; unbind it first, which "
                "`with cache.bound(client)` does at its end, or make a second Cache"
            )
        declarations = list(self._declared.values())
        try:
            for declaration in declarations:
                declaration.bind(client)
        except BaseException:
            for declaration in declarations:
                declaration.unbind()
            raise
        self._client = client

    def _declare(self, options: CacheKeywords, function: Callable[..., Any]) -> CachedFunction[..., Any]:
        declaration = _Declaration(function, options)
        wrapper = declaration.wrapper()
        with self._lock:
            if self._client is not None:
                declaration.bind(self._client)
            self._declared[next(self._numbers)] = declaration
        return wrapper


class _Declaration:
    """One function and its options. Its wrapper holds it, and not the other way round."""

    def __init__(self, function: Callable[..., Any], options: CacheKeywords) -> None:
        self._function = function
        self._options = options
        # A cache that is never asked: it refuses what no client could cache, and answers questions while unbound.
        wanted = declared(rows=options.get("rows", ()), tables=options.get("tables", ()), tags=options.get("tags", ()))
        told = {name: value for name, value in options.items() if name not in ("maxsize", "strategy")}
        self._empty = cached(
            function,
            new_store(
                Trust(),
                maxsize=options.get("maxsize", DEFAULT_MAXSIZE),
                stamps=Stamps() if options.get("consistency") == "snapshot" else None,
            ),
            CacheOptions(
                ignore=options.get("ignore", ()),
                key=options.get("key"),
                rows=Rows(wanted.rows, function) if wanted.rows else None,
                declared=told,
            ),
        )
        self._now = self._empty
        self._point, self._call = _late_bound(function)

    def wrapper(self) -> CachedFunction[..., Any]:
        """What stands in the module. Once: who drops it drops the declaration."""
        done: Any = functools.update_wrapper(self._call, self._function)  # Any: attributes of a function
        del self._call
        done.cache_info = lambda: self._now.cache_info()
        done.cache_clear = lambda: self._now.cache_clear()
        done.cache_invalidate = lambda *args, **kwargs: self._now.cache_invalidate(*args, **kwargs)
        done.cache_contains = lambda *args, **kwargs: self._now.cache_contains(*args, **kwargs)
        done.cache_parameters = lambda: self._now.cache_parameters()
        if is_async(self._function):
            _mark_as_coroutine_function(done)
        return cast("CachedFunction[..., Any]", done)

    def bind(self, client: Caches) -> None:
        bound = client.cache(**self._options)(self._function)
        self._now = bound
        self._point(bound)

    def unbind(self) -> None:
        bound, self._now = self._now, self._empty
        self._point(self._function)
        # A call that came here before may still hold it. It must find nothing: the client stops telling it of changes.
        bound.cache_clear()


def _late_bound(function: Callable[..., Any]) -> tuple[Callable[[Callable[..., Any]], None], Callable[..., Any]]:
    """A `def` that calls what it was last pointed to, and what points it."""
    call = function

    def point(target: Callable[..., Any]) -> None:
        nonlocal call
        call = target

    def late_bound(*args: Any, **kwargs: Any) -> Any:  # hot path
        return call(*args, **kwargs)

    return point, late_bound


def _mark_as_coroutine_function(wrapper: Any) -> None:  # Any: attributes of a function
    """Say that calling it gives a coroutine, to `inspect` where it can be told, and to `asyncio` before Python 3.12."""
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(wrapper)
    else:
        import asyncio.coroutines

        wrapper._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]  # not in its stubs


def _check_options(options: CacheKeywords) -> None:
    known = CacheKeywords.__annotations__
    for name in options:
        if name not in known:
            raise ConfigurationError(f"there is no option {name!r} of a cache; the options are {', '.join(known)}")
