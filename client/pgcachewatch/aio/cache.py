"""A function with a cache around it: `cached()` joins a function, a Store, its Trust and the options.

Both kinds of functions can be cached. For an `async def` the fill is a task of its own (aio/loop_fills.py), for a `def`
it runs in the thread of the first caller (aio/thread_fills.py). Values belong to no loop and no thread.

Bound: that of the store. On the path of an event: behind step 12, serve.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from pgcachewatch.aio.fills import CacheOptions, Fills
from pgcachewatch.aio.hit_path import asynchronous, synchronous
from pgcachewatch.aio.loop_fills import LoopFills
from pgcachewatch.aio.thread_fills import ThreadFills
from pgcachewatch.core.keys import Keys
from pgcachewatch.core.stamps import Stamps
from pgcachewatch.core.store import DEFAULT_MAXSIZE, CacheInfo, Store
from pgcachewatch.core.trust import Lease
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import EVERYTHING, Scope

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")

DEFAULTS = CacheOptions()


class CachedFunction(Protocol[P, R_co]):
    """What the decorators return: called as the function is, and a function itself, so it can be a method.

    `cache_invalidate` and `cache_contains` take the arguments of a call; for a method, the instance comes first. They
    and `cache_clear` are about this process only.
    """

    @property
    def __wrapped__(self) -> Callable[P, R_co]: ...

    @property
    def __name__(self) -> str: ...

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> CachedFunction[P, R_co]: ...

    @overload
    def __get__(
        self: CachedFunction[Concatenate[S, Q], R_co], instance: S, owner: type | None = None
    ) -> Callable[Q, R_co]: ...

    def cache_info(self) -> CacheInfo: ...

    def cache_clear(self) -> None: ...

    def cache_invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...

    def cache_contains(self, *args: P.args, **kwargs: P.kwargs) -> bool: ...

    def cache_parameters(self) -> dict[str, Any]: ...


def new_store(
    trust: Lease,
    *,
    scopes: Iterable[Scope] = (EVERYTHING,),
    maxsize: int = DEFAULT_MAXSIZE,
    late_dimensions: Collection[int] = (),
    stamps: Stamps | None = None,
) -> Store[Any, Any]:
    """A store that several threads may use. Any: what it holds is decided by the function it is given to."""
    return Store(
        trust,
        scopes=scopes,
        maxsize=maxsize,
        lock=threading.RLock(),
        late_dimensions=late_dimensions,
        stamps=stamps,
    )


@overload
def cached(
    function: Callable[P, Awaitable[R]], store: Store[Any, Any], options: CacheOptions = ...
) -> CachedFunction[P, Coroutine[Any, Any, R]]: ...


@overload
def cached(function: Callable[P, R], store: Store[Any, Any], options: CacheOptions = ...) -> CachedFunction[P, R]: ...


def cached(
    function: Callable[..., Any], store: Store[Any, Any], options: CacheOptions = DEFAULTS
) -> CachedFunction[..., Any]:
    """`function` with a cache in front, whose entries live in `store`.

    The store must come from `new_store`, and belong to this function alone. Raises ConfigurationError for what can not
    be cached.

    >>> from pgcachewatch.core.trust import Trust
    >>> store = new_store(Trust(float("inf")))
    >>> square = cached(lambda number: number * number, store)
    >>> square(7), square(7), square.cache_info().hits
    (49, 49, 1)
    """
    _refuse(function)
    keys = Keys(function, ignore=options.ignore, key=options.key, is_method=_is_method(function))
    if is_async(function):
        loop_fills: LoopFills[Any] = LoopFills(function, keys, store, options)
        return _finished(asynchronous(loop_fills, loop_fills.call), function, loop_fills)
    if options.refresh_s:
        raise ConfigurationError(
            f"{keys.name} is no async def, so nothing can fill it anew while its caller goes on; leave stale= and "
            "refresh= out"
        )
    thread_fills: ThreadFills[Any] = ThreadFills(function, keys, store, options)
    return _finished(synchronous(thread_fills, thread_fills.call), function, thread_fills)


def is_async(function: Callable[..., Any]) -> bool:
    """True when calling it gives a coroutine: an `async def`, a partial of one, or an object with an async __call__.

    Also for a plain `def` that is marked so, as aio/binding.py marks its own; before Python 3.12 asyncio alone knows.
    """
    knows = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
    return knows(function) or inspect.iscoroutinefunction(type(function).__call__)


def _refuse(function: Callable[..., Any]) -> None:
    name = getattr(function, "__qualname__", repr(function))
    if not callable(function):
        raise ConfigurationError(f"only a function can be cached, not {name}; decorate a def or an async def")
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(
            f"{name} is a generator function: what it returns can be read only once, so a second caller would get "
            "nothing; collect its items in a list, and cache the function that returns the list"
        )
    if isinstance(function, staticmethod | classmethod):
        raise ConfigurationError(f"{name}: put the cache below @{type(function).__name__}, next to the def")


def _is_method(function: Callable[..., Any]) -> bool:
    """True for a `def` in the body of a class whose first parameter is called self; a bound method has its instance."""
    if inspect.ismethod(function):
        return False
    scope = getattr(function, "__qualname__", "").rpartition(".")[0]
    code = getattr(function, "__code__", None)
    names = code.co_varnames[: code.co_argcount] if code is not None else ()
    return bool(scope) and not scope.endswith("<locals>") and names[:1] == ("self",)


def _finished(wrapper: Callable[..., Any], function: Callable[..., Any], fills: Fills[Any]) -> CachedFunction[..., Any]:
    functools.update_wrapper(wrapper, function)
    keys, store = fills.keys, fills.store

    def invalidate(*args: Any, **kwargs: Any) -> bool:
        return store.forget(keys.of(args, kwargs))

    def contains(*args: Any, **kwargs: Any) -> bool:
        entry = store.lookup(keys.of(args, kwargs))
        return entry is not None and fills.options.clock() < entry.until + fills.options.refresh_s

    done: Any = wrapper  # Any: attributes of a function
    done.cache_info = store.info
    done.cache_clear = store.flush
    done.cache_invalidate = invalidate
    done.cache_contains = contains
    done.cache_parameters = lambda: {"maxsize": store.maxsize, "typed": True, **fills.options.declared}
    return cast("CachedFunction[..., Any]", done)
