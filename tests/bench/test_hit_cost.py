"""What a hit costs, every check on and the link live, against a function that takes the same value out of a dict.

The floor and the cached function take turns within one run, and of each the best round counts. Each call site gets a
copy of the driver's code, because the interpreter adapts code to the function it calls, and in a program a call site
calls one function. Coroutines are driven by `.send(None)`, which includes what it costs to end one, and awaited.
"""

from __future__ import annotations

import asyncio
import gc
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pgcachewatch.aio.binding import Cache
from pgcachewatch.aio.connecting import connect_over
from pgcachewatch.testing import URL, FakeRelay
from tests.bench.rounds import Row, report, rounds

ROUNDS = 300
CALLS = 2_000
LEASE_S = 3_600.0

VALUES = {5: "Ada"}
PAIRS = {(5, "en"): "Ada"}

Driver = Callable[..., int]


@dataclass(frozen=True, slots=True)
class Contest:
    """Two functions that are called alike, and the driver that calls them."""

    name: str
    driver: Driver
    floor: Callable[..., Any]
    measured: Callable[..., Any]
    arguments: tuple[Any, ...]
    target: float | None = None


async def floor_async(key: int) -> str:
    return VALUES[key]


def floor(key: int) -> str:
    return VALUES[key]


def floor_of_two(key: int, language: str) -> str:
    return PAIRS[key, language]


class Floor:
    """Holds a method."""

    def get(self, key: int) -> str:
        return VALUES[key]


def called(function: Callable[[Any], Any], key: object) -> int:
    started_ns = time.perf_counter_ns()
    for _ in range(CALLS):
        function(key)
    return time.perf_counter_ns() - started_ns


def called_with_two(function: Callable[[Any, Any], Any], key: object, language: object) -> int:
    started_ns = time.perf_counter_ns()
    for _ in range(CALLS):
        function(key, language)
    return time.perf_counter_ns() - started_ns


def sent(function: Callable[[Any], Any], key: object) -> int:
    started_ns = time.perf_counter_ns()
    for _ in range(CALLS):
        try:
            function(key).send(None)
        except StopIteration:
            pass
    return time.perf_counter_ns() - started_ns


def awaited(function: Callable[[Any], Any], key: object) -> int:
    try:
        _awaiting(function, key).send(None)
    except StopIteration as done:
        return int(done.value)
    raise AssertionError("a hit waits for nothing")


async def _awaiting(function: Callable[[Any], Any], key: object) -> int:
    started_ns = time.perf_counter_ns()
    for _ in range(CALLS):
        await function(key)
    return time.perf_counter_ns() - started_ns


def own_copy(driver: Driver) -> Driver:
    """The same function with code of its own."""
    scope = dict(globals())
    if driver is awaited:
        scope["_awaiting"] = types.FunctionType(_awaiting.__code__.replace(), scope)
    return types.FunctionType(driver.__code__.replace(), scope)


def best_ns(contests: list[Contest]) -> list[Row]:
    drivers = [(own_copy(one.driver), own_copy(one.driver)) for one in contests]
    best = [(float("inf"), float("inf")) for _ in contests]
    gc.disable()
    try:
        for _ in range(rounds(ROUNDS)):
            for place, (one, (of_floor, of_measured)) in enumerate(zip(contests, drivers, strict=True)):
                floor_ns = of_floor(one.floor, *one.arguments) / CALLS
                measured_ns = of_measured(one.measured, *one.arguments) / CALLS
                best[place] = (min(best[place][0], floor_ns), min(best[place][1], measured_ns))
    finally:
        gc.enable()
    return [Row(one.name, *times_ns, target=one.target) for one, times_ns in zip(contests, best, strict=True)]


@pytest.mark.bench
async def test_a_hit_costs_a_small_multiple_of_a_lookup() -> None:
    relay = FakeRelay()
    connecting = connect_over(
        [URL], open_link=relay.open_link, clock=time.monotonic, chance=lambda: 0.0, staleness=LEASE_S
    )
    async with connecting as client:
        runs = 0

        @client.cache(tables=["users"])
        async def cached_async(key: int) -> str:
            nonlocal runs
            runs += 1
            return VALUES[key]

        @client.cache(tables=["users"])
        def cached(key: int) -> str:
            nonlocal runs
            runs += 1
            return VALUES[key]

        @client.cache(tables=["users"])
        def cached_of_two(key: int, language: str) -> str:
            nonlocal runs
            runs += 1
            return PAIRS[key, language]

        class Cached:
            @client.cache(tables=["users"])
            def get(self, key: int) -> str:
                nonlocal runs
                runs += 1
                return VALUES[key]

        method = Cached().get
        early = Cache(tables=["users"])
        declared = early(cached.__wrapped__)
        early.bind(client)
        await client.wait_live()
        await cached_async(5)
        cached(5)
        cached_of_two(5, "en")
        method(5)
        declared(5)
        await asyncio.sleep(0)
        rows = best_ns(
            [
                Contest("async def, one argument, by send", sent, floor_async, cached_async, (5,), target=4),
                Contest("async def, one argument, awaited", awaited, floor_async, cached_async, (5,), target=4),
                Contest("def, one argument", called, floor, cached, (5,), target=5),
                Contest("def, two arguments", called_with_two, floor_of_two, cached_of_two, (5, "en")),
                Contest("method, one argument", called, Floor().get, method, (5,)),
                Contest("def, one argument, declared before its client", called, floor, declared, (5,)),
            ]
        )
        report("hit, ns a call", rows)

        # Each call but the first of each function was a hit, so that nothing else was measured.
        assert runs == 5
