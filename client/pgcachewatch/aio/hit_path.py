"""The hit path: what a call costs when its entry is there. This file is the product.

It binds nothing, logs nothing, takes no lock and does no work for events. It looks the arguments up as they were
given, and checks their types, the lease, the horizon and the two generations. The rest goes the slow way
(aio/fills.py): other spellings of a call, arguments that must be frozen, misses, doubts. It is measured in tests/bench.

One text in several tunings: one argument, several as given, some picked out of several; coroutine or not. Shared code
would cost a call on each hit. What decides the order of the checks: to read the lease may find a link unhealthy and
bump a generation, so it is read first; the value is read last, since another thread may be replacing it.

Bound: constant work. On the path of an event: step 12, serve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgcachewatch.aio.fills import Fills
from pgcachewatch.core.frozen import PLAIN

Call = Callable[..., Any]  # takes args and kwargs, and is a coroutine function for an `async def`
MISSING: Any = object()  # Any: stands where an argument of any type can be


def asynchronous(fills: Fills[Any], call: Call) -> Callable[..., Any]:
    """The `async def` in front of `call`, the slow path."""
    store, trust, entries, plain = fills.store, fills.store.trust, fills.store.entries, PLAIN
    observe, quick, now = fills.observe_hit, fills.quick, fills.options.clock

    async def cached(first: Any = MISSING, /, *rest: Any, **kwargs: Any) -> Any:  # hot path
        if not rest and not kwargs:
            try:
                entry = entries[first]
            except (KeyError, TypeError):  # TypeError: it can not be hashed, and must be frozen
                pass
            else:
                if (
                    first.__class__ is entry.kind
                    and trust.deadline > now() < store.horizon
                    and entry.generation == store.generation
                    and entry.gap == trust.generation
                ):
                    entry.hits += 1
                    if observe is not None:
                        observe()
                    return entry.value
        return await call(() if first is MISSING else (first, *rest), kwargs)

    async def cached_several(*args: Any, **kwargs: Any) -> Any:  # hot path
        for argument in args:
            if argument.__class__ not in plain:
                break
        else:
            entry = entries.get(args)
            if (
                entry is not None
                and not kwargs
                and trust.deadline > now() < store.horizon
                and entry.generation == store.generation
                and entry.gap == trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return await call(args, kwargs)

    async def cached_picked(*args: Any, **kwargs: Any) -> Any:  # hot path
        if quick is not None and not kwargs:
            entry = entries.get(quick(args))
            if (
                entry is not None
                and trust.deadline > now() < store.horizon
                and entry.generation == store.generation
                and entry.gap == trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return await call(args, kwargs)

    async def cached_asked(*args: Any, **kwargs: Any) -> Any:
        return await call(args, kwargs)

    return _tuning(fills, single=cached, several=cached_several, picked=cached_picked, asked=cached_asked)


def synchronous(fills: Fills[Any], call: Call) -> Callable[..., Any]:
    """The `def` in front of `call`, the slow path."""
    store, trust, entries, plain = fills.store, fills.store.trust, fills.store.entries, PLAIN
    observe, quick, now = fills.observe_hit, fills.quick, fills.options.clock

    def cached(first: Any = MISSING, /, *rest: Any, **kwargs: Any) -> Any:  # hot path
        if not rest and not kwargs:
            try:
                entry = entries[first]
            except (KeyError, TypeError):
                pass
            else:
                if (
                    first.__class__ is entry.kind
                    and trust.deadline > now() < store.horizon
                    and entry.generation == store.generation
                    and entry.gap == trust.generation
                ):
                    entry.hits += 1
                    if observe is not None:
                        observe()
                    return entry.value
        return call(() if first is MISSING else (first, *rest), kwargs)

    def cached_several(*args: Any, **kwargs: Any) -> Any:  # hot path
        for argument in args:
            if argument.__class__ not in plain:
                break
        else:
            entry = entries.get(args)
            if (
                entry is not None
                and not kwargs
                and trust.deadline > now() < store.horizon
                and entry.generation == store.generation
                and entry.gap == trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return call(args, kwargs)

    def cached_picked(*args: Any, **kwargs: Any) -> Any:  # hot path
        if quick is not None and not kwargs:
            entry = entries.get(quick(args))
            if (
                entry is not None
                and trust.deadline > now() < store.horizon
                and entry.generation == store.generation
                and entry.gap == trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return call(args, kwargs)

    def cached_asked(*args: Any, **kwargs: Any) -> Any:
        return call(args, kwargs)

    return _tuning(fills, single=cached, several=cached_several, picked=cached_picked, asked=cached_asked)


def _tuning(
    fills: Fills[Any],
    *,
    single: Callable[..., Any],
    several: Callable[..., Any],
    picked: Callable[..., Any],
    asked: Callable[..., Any],
) -> Callable[..., Any]:
    if not fills.options.has_hit_path:
        return asked
    if fills.keys.is_as_given:
        return single if fills.keys.is_single else several
    return picked
