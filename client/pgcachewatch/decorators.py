"""The original's decorator: a function, a strategy, and nothing else to declare.

    @decorators.cache(strategy=strategies.Greedy(listener=listener))
    async def get_users() -> list[User]: ...

While the strategy's listener is unhealthy each call runs the function itself, and nothing that was stored before is
served afterwards. N concurrent calls run it once. `cache` may decorate a `def` too.

A strategy of ours is watched: it flushes the function's store the moment an event arrives, whoever else watches it.
Any other object with `clear` and `connection_healthy` is asked both, once on each call; functions that share one share
its answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable
from time import monotonic
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from pgcachewatch.aio.cache import CachedFunction, cached, new_store
from pgcachewatch.aio.fills import CacheOptions
from pgcachewatch.core.store import DEFAULT_MAXSIZE
from pgcachewatch.core.trust import PolledTrust
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.logconfig import RateLimited, logger
from pgcachewatch.strategies import EventStrategy, Strategy

P = ParamSpec("P")
T = TypeVar("T")

SHARED_TRUST = "_pgcachewatch_trust"  # attribute of a strategy that is not ours

StatisticsCallback = Callable[[Literal["hit", "miss"]], object]


class Decorator(Protocol):
    """What `cache(...)` returns: put it on an `async def` or a `def`."""

    @overload
    def __call__(self, fn: Callable[P, Awaitable[T]], /) -> CachedFunction[P, Coroutine[Any, Any, T]]: ...

    @overload
    def __call__(self, fn: Callable[P, T], /) -> CachedFunction[P, T]: ...


def cache(
    strategy: Strategy,
    statistics_callback: StatisticsCallback | None = None,
    *,
    maxsize: int = DEFAULT_MAXSIZE,
    ignore: Collection[str] = (),
    key: Callable[..., Hashable] | None = None,
) -> Decorator:
    """Cache a function's results until `strategy` says otherwise.

    `statistics_callback` is told "hit" or "miss" for each call that uses the cache; to join a running call is a hit.
    What it raises is logged, and does not reach the caller. `maxsize`, `ignore` and `key` are what they are for
    `client.cache`. Raises ConfigurationError, when it decorates, for what can not be cached.
    """
    source = strategy.source if isinstance(strategy, EventStrategy) else None
    trust = _trust(strategy)
    options = CacheOptions(
        on_unfresh="call",
        statistics=statistics_callback,
        has_hit_path=source is not None,
        clock=monotonic if source is None else source.now_s,
        ignore=ignore,
        key=key,
    )

    def decorate(function: Callable[..., Any], /) -> CachedFunction[..., Any]:
        store = new_store(trust, maxsize=maxsize)
        if isinstance(strategy, EventStrategy):
            strategy.watch(store)
        return cached(function, store, options)

    return cast("Decorator", decorate)


def _trust(strategy: Strategy) -> PolledTrust:
    """What the functions of one strategy go by."""
    log = RateLimited(logger)

    def report(error: Exception) -> None:
        log.warning("strategy", "asking %s failed, so nothing is cached: %r", type(strategy).__name__, error)

    if isinstance(strategy, EventStrategy):
        # It flushes every store that watches it by itself; only a foreign listener has to be read for that.
        is_cleared = strategy.drain if strategy.source is None else None
        return PolledTrust(strategy.connection_healthy, is_cleared, report)
    return _shared(strategy, PolledTrust(strategy.connection_healthy, strategy.clear, report))


def _shared(strategy: Strategy, trust: PolledTrust) -> PolledTrust:
    """The one trust of a strategy that answers `clear()` with True only once, though several functions may ask."""
    try:
        shared: PolledTrust = vars(strategy).setdefault(SHARED_TRUST, trust)
    except TypeError:
        # Each function with a trust of its own would be told of a change only if it asked before the others did.
        raise ConfigurationError(
            f"the strategy {type(strategy).__name__} has __slots__ and no place for what its functions share; "
            'add "__dict__" to them'
        ) from None
    return shared
