"""The hit path: what a call costs when its entry is there. This file is the product.

It binds nothing, logs nothing, takes no lock and does no work for events. It looks the arguments up as they were
given, and checks their types, the lease, the horizon and the two generations. The rest goes the slow way
(aio/fills.py): other spellings of a call, arguments that must be frozen, misses, doubts. It is measured in tests/bench.

One text in several tunings: one parameter, several as given, some picked out of several; coroutine or not. Shared code
would cost a call on each hit. What decides the order of the checks: to read the lease may find a link unhealthy and
bump a generation, so it is read first; the value is read last, since another thread may be replacing it. Generations
are compared by identity: a fill hands on the very number it was given, and another object would only cost a miss.

Bound: constant work. On the path of an event: step 12, serve.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pgcachewatch.aio.fills import Fills
from pgcachewatch.core.frozen import PLAIN

Call = Callable[..., Any]  # takes args and kwargs, and is a coroutine function for an `async def`
MISSING: Any = object()  # Any: stands where an argument of any type can be


def asynchronous(fills: Fills[Any], call: Call) -> Callable[..., Any]:
    """The `async def` in front of `call`, the slow path."""
    if not fills.options.is_plain:
        return _asked_async(call)
    store, trust, entries, plain = fills.store, fills.store.trust, fills.store.entries, PLAIN
    observe, quick, now = fills.observe_hit, fills.quick, fills.options.clock

    async def cached(only: Any = MISSING) -> Any:  # hot path
        try:
            entry = entries[only]
        except (KeyError, TypeError):  # TypeError: it can not be hashed, and must be frozen
            pass
        else:
            if (
                only.__class__ is entry.kind
                and trust.deadline > now() < store.horizon
                and entry.generation is store.generation
                and entry.gap is trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return await call(() if only is MISSING else (only,), {})

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
                and entry.generation is store.generation
                and entry.gap is trust.generation
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
                and entry.generation is store.generation
                and entry.gap is trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return await call(args, kwargs)

    return _tuning(fills, single=cached, several=cached_several, picked=cached_picked)


def synchronous(fills: Fills[Any], call: Call) -> Callable[..., Any]:
    """The `def` in front of `call`, the slow path."""
    if not fills.options.is_plain:
        return _asked(call)
    store, trust, entries, plain = fills.store, fills.store.trust, fills.store.entries, PLAIN
    observe, quick, now = fills.observe_hit, fills.quick, fills.options.clock

    def cached(only: Any = MISSING) -> Any:  # hot path
        try:
            entry = entries[only]
        except (KeyError, TypeError):
            pass
        else:
            if (
                only.__class__ is entry.kind
                and trust.deadline > now() < store.horizon
                and entry.generation is store.generation
                and entry.gap is trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return call(() if only is MISSING else (only,), {})

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
                and entry.generation is store.generation
                and entry.gap is trust.generation
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
                and entry.generation is store.generation
                and entry.gap is trust.generation
            ):
                entry.hits += 1
                if observe is not None:
                    observe()
                return entry.value
        return call(args, kwargs)

    return _tuning(fills, single=cached, several=cached_several, picked=cached_picked)


def _asked_async(call: Call) -> Callable[..., Any]:
    async def cached(*args: Any, **kwargs: Any) -> Any:
        return await call(args, kwargs)

    return cached


def _asked(call: Call) -> Callable[..., Any]:
    def cached(*args: Any, **kwargs: Any) -> Any:
        return call(args, kwargs)

    return cached


def _tuning(
    fills: Fills[Any], *, single: Callable[..., Any], several: Callable[..., Any], picked: Callable[..., Any]
) -> Callable[..., Any]:
    if not fills.keys.is_as_given:
        return picked
    return _like(fills.function, single) if fills.keys.is_single else several


def _like(function: Any, wrapper: Any) -> Callable[..., Any]:  # Any: attributes of a plain `def`
    """Give the one parameter of `wrapper` the name of that of `function`: calls by keyword are hits, too.

    A wrapper that takes whatever comes (`*args, **kwargs`) costs a fifth of a hit more, and refuses a call that does
    not fit in other words than the function does.
    """
    own, code = function.__code__, wrapper.__code__
    wrapper.__code__ = code.replace(
        co_varnames=(own.co_varnames[0], *code.co_varnames[1:]), co_posonlyargcount=own.co_posonlyargcount
    )
    wrapper.__defaults__ = function.__defaults__ and (MISSING,)
    return cast("Callable[..., Any]", wrapper)
