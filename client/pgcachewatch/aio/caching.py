"""Declares cached functions on a client: from the options a user writes to a store, a trust and subscriptions.

Each function has a store and a trust of its own, and is served for as long as its wrapper lives: a cache that was
declared inside a function and is garbage by now ends its subscriptions, so declaring in a loop does not leak.

Bound: `maxsize` entries for each function.
"""

from __future__ import annotations

import copy as copying
import dataclasses
import datetime
import functools
import re
import weakref
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Iterable, Sequence
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, cast, get_args, overload

from pgcachewatch.aio.cache import CachedFunction, cached, new_store
from pgcachewatch.aio.fills import CacheOptions
from pgcachewatch.aio.taps import Tap
from pgcachewatch.aio.watch import CacheReader, Watch
from pgcachewatch.core.dependencies import Row, Rows, Table, Tag, declared
from pgcachewatch.core.stamps import Stamps
from pgcachewatch.core.store import DEFAULT_MAXSIZE, Store
from pgcachewatch.core.subscriptions import Wish, dimension_place, table_scopes
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Scope
from pgcachewatch.strategies import EventStrategy, Observer

Consistency = Literal["fresh", "snapshot"]
OnDisconnect = Literal["share", "bypass", "stale", "raise"]

P = ParamSpec("P")
R = TypeVar("R")


class CacheKeywords(TypedDict, total=False):
    """Options of `client.cache`.

    What the results depend on: `rows`, `Row("users", id="user_id")`, one or several (core/dependencies.py); `tables`,
    as SQL writes names (`users`, `public.orders`, `"Order.Lines"`); and in addition `tags`, which the program itself
    invalidates. No rows and no tables mean everything on the client's channels. `strategy`: Greedy, Windowed or Timed,
    which says what of the changes matters, instead of every one.

    `consistency`: "fresh" for functions that read the primary, in a transaction no older than the call. "snapshot" for
    those that read a hot standby or in a REPEATABLE READ transaction: each run tells its snapshots by `read_in`
    (aio/reading.py), and is stored only if they contain each change that was applied. Nothing is stored in the first
    two heartbeats of the relay, nor in two after a change whose transaction is not known (the original's triggers).

    `maxsize`: entries kept. `ttl`: how long one lives at most: seconds, a timedelta, or "90s", "10m", "2h", "1d". Of an
    `async def`, `refresh` is how long before that end a call has it filled anew while it is served, and `stale` how
    long after it. A change drops it all the same. `typed` is True: 1, True and 1.0 are three keys, always.
    `store_none` False: None is not stored. `store_if`: is asked of each result whether it is. `copy`: "deep", or a
    function; each caller gets a copy of its own. `ignore`: names of arguments that do not tell two calls apart. `key`:
    computes from the arguments what does. `on_disconnect`: overrides the client's. `name`: for logs.
    """

    strategy: EventStrategy | None
    rows: Row | Collection[Row]
    tables: Collection[Table | str]
    tags: Collection[Tag | str]
    consistency: Consistency
    maxsize: int
    ttl: float | datetime.timedelta | str | None
    refresh: float | datetime.timedelta | str | None
    stale: float | datetime.timedelta | str | None
    typed: Literal[True]
    store_none: bool
    store_if: Callable[[Any], bool] | None
    copy: Literal["deep"] | Callable[[Any], Any] | None
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
        self._tagged: dict[str, weakref.WeakSet[Store[Any, Any]]] = {}

    def decorator(self, **keywords: Unpack[CacheKeywords]) -> Callable[[Callable[..., Any]], CachedFunction[..., Any]]:
        """A decorator with these options. Raises ConfigurationError for what can not work."""
        strategy = keywords.get("strategy")
        wanted = declared(
            rows=keywords.get("rows", ()), tables=keywords.get("tables", ()), tags=keywords.get("tags", ())
        )
        check(strategy is None or not wanted.rows, "rows", wanted.rows, "a strategy judges whole tables: use tables=")
        consistency = keywords.get("consistency", "fresh")
        check(consistency in get_args(Consistency), "consistency", consistency, f"use one of {get_args(Consistency)}")
        has_stamps = consistency == "snapshot"
        check(
            strategy is None or not has_stamps,
            "consistency",
            consistency,
            "a strategy passes over changes: leave it out",
        )
        has_scopes = bool(wanted.tables) or not wanted.rows
        scopes = table_scopes(wanted.tables, self._channels) if has_scopes else []
        tap = None if strategy is None else self._tap_of(strategy, scopes)
        options = self._options(keywords)

        def decorate(function: Callable[..., Any]) -> CachedFunction[..., Any]:
            rows = Rows(wanted.rows, function) if wanted.rows else None
            trust = Trust()
            store = new_store(
                trust,
                scopes=scopes,
                maxsize=keywords.get("maxsize", DEFAULT_MAXSIZE),
                late_dimensions=rows.late_dimensions if rows else (),
                stamps=Stamps() if has_stamps else None,
            )
            wrapper = cached(function, store, dataclasses.replace(options, rows=rows))
            label = keywords.get("name") or str(getattr(function, "__qualname__", function))
            reader = CacheReader(store, trust, watch=self._watch, label=label, rows=rows)
            for tag in wanted.tags:
                self._tagged.setdefault(tag, weakref.WeakSet()).add(store)
            if strategy is None or tap is None:
                self._serve(reader, self._wishes(scopes, rows, has_stamps=has_stamps), wrapper)
            else:
                strategy.watch(store)
                self._serve_tapped(reader, tap, strategy, wrapper)
            return wrapper

        return decorate

    def invalidate(self, tags: Iterable[Tag | str]) -> int:
        """Flush the functions that have one of these tags. Returns how many."""
        names = declared(tags=tuple(tags)).tags
        stores = {id(store): store for name in names for store in self._tagged.get(name, ())}
        for store in stores.values():
            store.flush()
        return len(stores)

    def _options(self, keywords: CacheKeywords) -> CacheOptions:
        mode = keywords.get("on_disconnect") or self._on_disconnect
        check(mode in get_args(OnDisconnect), "on_disconnect", mode, f"use one of {get_args(OnDisconnect)}")
        check(keywords.get("typed", True) is True, "typed", False, "1 and True are two keys; or make the key with key=")
        ttl_s, refresh_s = _seconds("ttl", keywords.get("ttl")), _seconds("refresh", keywords.get("refresh"))
        stale_s = _seconds("stale", keywords.get("stale"))
        has_more = keywords.get("refresh") is not None or keywords.get("stale") is not None
        check(not has_more or ttl_s < FOREVER, "ttl", None, "refresh= and stale= are about its end, so give one")
        refresh_s, stale_s = (0.0 if each == FOREVER else each for each in (refresh_s, stale_s))
        check(refresh_s < ttl_s, "refresh", keywords.get("refresh"), "give less than ttl=")
        return CacheOptions(
            on_unfresh=mode,
            staleness_s=self._watch.freshness.staleness_s,
            bypass=self._is_bypassed,
            clock=self._clock,
            ignore=keywords.get("ignore", ()),
            key=keywords.get("key"),
            ttl_s=ttl_s - refresh_s,
            refresh_s=refresh_s + stale_s,
            is_kept=_is_kept(store_none=keywords.get("store_none", True), store_if=keywords.get("store_if")),
            copy=copying.deepcopy if keywords.get("copy") == "deep" else _function("copy", keywords.get("copy")),
            declared={name: value for name, value in keywords.items() if name not in ("maxsize", "strategy")},
        )

    def _wishes(self, scopes: Sequence[Scope], rows: Rows | None, *, has_stamps: bool) -> list[Wish]:
        """What a cache wants to be told: of a table, one item an event; of rows, which."""
        wishes = [Wish(scope, columns=(), has_stamps=has_stamps) for scope in scopes]
        for dimension in rows.dimensions if rows else ():
            schema, table, columns = dimension_place(dimension)
            places = [Scope(channel, table, schema) for channel in self._channels]
            wishes += [Wish(place, columns=columns, has_stamps=has_stamps) for place in places]
        return wishes

    def attach(self, observer: Observer, scopes: Sequence[Scope] | None = None) -> None:
        """Hand every event on the client's channels to `observer`, which is held weakly."""
        self._open_tap(observer, Tap(observer, clock=self._clock, is_healthy=self._is_healthy), scopes)

    def _serve(self, reader: CacheReader, wishes: Sequence[Wish], wrapper: object) -> None:
        """Subscribe for a cache, for as long as its wrapper lives."""
        watch = self._watch
        watch.add_cache(reader)

        def add() -> None:
            watch.subscriptions.add_wishes(reader, wishes)
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


def _is_kept(*, store_none: bool, store_if: Callable[[Any], bool] | None) -> Callable[[Any], bool] | None:
    """What decides of a result whether it is stored; None when each is."""
    if store_none and store_if is None:
        return None
    asked = _function("store_if", store_if)

    def is_kept(value: Any) -> bool:  # Any: whatever the function returns
        return (store_none or value is not None) and (asked is None or bool(asked(value)))

    return is_kept


def _function(name: str, value: Any) -> Callable[[Any], Any] | None:  # Any: what a user gave
    check(value is None or callable(value), name, value, "give a function of the result")
    return cast("Callable[[Any], Any] | None", value)


_TTL = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def _seconds(name: str, value: float | datetime.timedelta | str | None) -> float:
    """A length of time in seconds; infinite for None."""
    remedy = 'give seconds above 0, a timedelta, or a text such as "90s", "10m", "2h", "1d"'
    if value is None:
        return FOREVER
    if isinstance(value, str):
        found = _TTL.fullmatch(value.strip())
        check(found is not None, name, value, remedy)
        seconds = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    else:
        seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else float(value)
    check(seconds > 0, name, value, remedy)
    return seconds


def check(is_fine: bool, what: str, value: object, remedy: str) -> None:
    """Raise ConfigurationError for an argument that can not work."""
    if not is_fine:
        raise ConfigurationError(f"{what}={value!r} can not work; {remedy}")
