"""Declares cached functions on a client: from the options a user writes to a store, a trust and subscriptions.

Each function has a store and a trust of its own, and is served for as long as its wrapper lives: a cache that was
declared inside a function and is garbage by now ends its subscriptions, so declaring in a loop does not leak.

Bound: `maxsize` entries for each function.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, get_args, overload

from pgcachewatch.aio.cache import CachedFunction, cached, new_store
from pgcachewatch.aio.fills import CacheOptions
from pgcachewatch.aio.taps import Tap
from pgcachewatch.aio.watch import CacheReader, Watch
from pgcachewatch.core.store import DEFAULT_MAXSIZE
from pgcachewatch.core.subscriptions import table_scopes
from pgcachewatch.core.trust import Trust
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Scope
from pgcachewatch.strategies import EventStrategy, Observer

OnDisconnect = Literal["share", "bypass", "stale", "raise"]

P = ParamSpec("P")
R = TypeVar("R")


class CacheKeywords(TypedDict, total=False):
    """Options of `client.cache`.

    `strategy`: Greedy, Windowed or Timed, which says what of the changes matters, instead of every one.
    `tables`: what the results depend on, as SQL writes names (`users`, `public.orders`, `"Order.Lines"`); none means
    everything on the client's channels. `maxsize`: entries kept. `name`: for logs. `on_disconnect`: overrides the
    client's. `ignore`: names of arguments that do not tell two calls apart. `key`: computes from the arguments what
    does.
    """

    strategy: EventStrategy | None
    tables: Collection[str]
    maxsize: int
    name: str | None
    on_disconnect: OnDisconnect | None
    ignore: Collection[str]
    key: Callable[..., Hashable] | None


class Decorator(Protocol):
    """What `client.cache(...)` returns: put it on an `async def` or a `def`."""

    @overload
    def __call__(self, function: Callable[P, Awaitable[R]], /) -> CachedFunction[P, Coroutine[Any, Any, R]]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> CachedFunction[P, R]: ...


class Caching:
    """The caches of one client.

    `is_bypassed` is asked by calls in doubt. `on_loop` runs a step on the client's loop, at once where that is
    possible; `soon` runs it there in a step of its own, for what the garbage collector finds in the middle of another.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        clock: Callable[[], float],
        channels: Sequence[str],
        on_disconnect: OnDisconnect,
        is_bypassed: Callable[[], bool],
        is_healthy: Callable[[], bool],
        on_loop: Callable[[Callable[[], None]], None],
        soon: Callable[[Callable[[], None]], None],
    ) -> None:
        self._watch = watch
        self._clock = clock
        self._channels = channels
        self._on_disconnect = on_disconnect
        self._is_bypassed = is_bypassed
        self._is_healthy = is_healthy
        self._on_loop = on_loop
        self._soon = soon
        self._taps: weakref.WeakKeyDictionary[Observer, Tap] = weakref.WeakKeyDictionary()

    def decorator(
        self,
        *,
        strategy: EventStrategy | None = None,
        tables: Collection[str] = (),
        maxsize: int = DEFAULT_MAXSIZE,
        name: str | None = None,
        on_disconnect: OnDisconnect | None = None,
        ignore: Collection[str] = (),
        key: Callable[..., Hashable] | None = None,
    ) -> Callable[[Callable[..., Any]], CachedFunction[..., Any]]:
        """A decorator with these options. Raises ConfigurationError for what can not work."""
        scopes = table_scopes(tables, self._channels)
        mode = on_disconnect or self._on_disconnect
        check(mode in get_args(OnDisconnect), "on_disconnect", mode, f"use one of {get_args(OnDisconnect)}")
        tap = None if strategy is None else self._tap_of(strategy, scopes)
        options = CacheOptions(
            on_unfresh=mode,
            staleness_s=self._watch.freshness.staleness_s,
            bypass=self._is_bypassed,
            clock=self._clock,
            ignore=ignore,
            key=key,
        )

        def decorate(function: Callable[..., Any]) -> CachedFunction[..., Any]:
            trust = Trust()
            store = new_store(trust, scopes=scopes, maxsize=maxsize)
            wrapper = cached(function, store, options)
            label = name or str(getattr(function, "__qualname__", function))
            reader = CacheReader(store, trust, watch=self._watch, label=label)
            if strategy is None or tap is None:
                self._serve(reader, scopes, wrapper)
            else:
                strategy.watch(store)
                self._serve_tapped(reader, tap, strategy, wrapper)
            return wrapper

        return decorate

    def attach(self, observer: Observer, scopes: Sequence[Scope] | None = None) -> None:
        """Hand every event on the client's channels to `observer`, which is held weakly."""
        self._open_tap(observer, Tap(observer, clock=self._clock, is_healthy=self._is_healthy), scopes)

    def _serve(self, reader: CacheReader, scopes: Sequence[Scope], wrapper: object) -> None:
        """Subscribe for a cache, for as long as its wrapper lives."""
        watch = self._watch
        watch.add_cache(reader)

        def add() -> None:
            watch.subscriptions.add(reader, scopes)
            watch.wants_changed()

        def remove() -> None:
            watch.remove_cache(reader)
            watch.subscriptions.remove(reader)
            watch.wants_changed()

        self._on_loop(add)
        weakref.finalize(wrapper, self._soon, remove).atexit = False

    def _serve_tapped(self, reader: CacheReader, tap: Tap, strategy: EventStrategy, wrapper: object) -> None:
        """The same for a cache with a strategy, which is kept for as long as the wrapper lives."""
        self._watch.add_cache(reader)

        def remove() -> None:
            self._watch.remove_cache(reader)
            tap.remove(reader)

        def ended(strategy: EventStrategy) -> None:
            self._soon(remove)

        self._on_loop(functools.partial(tap.add, reader))
        weakref.finalize(wrapper, ended, strategy).atexit = False

    def _tap_of(self, strategy: EventStrategy, scopes: Sequence[Scope]) -> Tap:
        """The tap a strategy listens to. One without a listener is bound to a tap on `scopes`."""
        if not isinstance(strategy, EventStrategy):
            raise ConfigurationError(
                f"strategy={strategy!r} can not be told events; use Greedy, Windowed or Timed, or the decorator "
                "pgcachewatch.decorators.cache, which asks any strategy on each call"
            )
        tap = self._taps.get(strategy)
        if tap is None:
            tap = Tap(None, clock=self._clock, is_healthy=self._is_healthy)
            strategy.bind(tap)
            self._open_tap(strategy, tap, scopes)
        return tap

    def _open_tap(self, observer: Observer, tap: Tap, scopes: Sequence[Scope] | None) -> None:
        subscriptions = self._watch.subscriptions
        wanted = table_scopes((), self._channels) if scopes is None else scopes

        def add() -> None:
            subscriptions.add(tap, wanted, mode="stream")
            self._watch.wants_changed()

        def remove() -> None:
            subscriptions.remove(tap)
            self._watch.wants_changed()

        self._taps[observer] = tap
        self._on_loop(add)
        weakref.finalize(observer, self._soon, remove).atexit = False


def check(is_fine: bool, what: str, value: object, remedy: str) -> None:
    """Raise ConfigurationError for an argument that can not work."""
    if not is_fine:
        raise ConfigurationError(f"{what}={value!r} can not work; {remedy}")
