"""Single flight on an event loop: who shares a run, and what cancellation and failure do to it.

Several loops: test_other_loops.py. What may be newer than what is stored: test_overtaken_runs.py.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import AsyncIterator
from typing import Any, Never

import pytest

from pgcachewatch.errors import ConfigurationError
from tests.client.aio.source import LIMIT_S, Cleaning, Shop, Source, cancelled, settle

# --- one run for all


async def test_calls_that_overlap_share_one_run() -> None:
    source = Source()
    shop = Shop(source.read)

    first = await source.running(shop.ask(5))
    others = [asyncio.create_task(shop.ask(5)) for _ in range(50)]
    await settle()
    source.gate.set()

    assert await asyncio.gather(first, *others) == [1] * 51
    assert await shop.ask(5) == 1
    info = shop.ask.cache_info()
    assert (info.misses, info.joins, info.hits) == (1, 50, 1)


async def test_calls_of_different_keys_run_beside_each_other() -> None:
    source = Source()
    shop = Shop(source.read)

    one = await source.running(shop.ask(1))
    other = await source.running(shop.ask(2))
    source.gate.set()

    assert [await one, await other] == [1, 2]


async def test_an_invalidation_detaches_the_run_from_later_calls() -> None:
    source = Source()
    shop = Shop(source.read)
    early = await source.running(shop.ask(5))

    shop.store.flush()
    late = await source.running(shop.ask(5))
    source.gate.set()

    assert [await early, await late] == [1, 2]


async def test_a_run_sees_the_context_of_its_first_caller() -> None:
    tenant = contextvars.ContextVar("tenant", default="none")

    async def read() -> str:
        return tenant.get()

    shop = Shop(read)
    tenant.set("acme")

    assert await shop.ask() == "acme"


async def test_statistics_are_told_of_each_call() -> None:
    told: list[str] = []
    source = Source()
    shop = Shop(source.read, statistics=told.append)

    first = await source.running(shop.ask(5))
    second = asyncio.create_task(shop.ask(5))
    await settle()
    source.gate.set()
    await asyncio.gather(first, second)
    await shop.ask(5)

    assert told == ["miss", "hit", "hit"]


async def test_a_statistics_callback_that_stops_a_call_stops_no_other() -> None:
    class Stop(BaseException):
        """As test runners and greenlets raise."""

    def statistics(what: str) -> None:
        if what == "miss":
            raise Stop

    source = Source()
    shop = Shop(source.read, statistics=statistics)

    with pytest.raises(Stop):
        await shop.ask(5)

    async with asyncio.timeout(LIMIT_S):
        assert await shop.ask(5) == 1


# --- who is cancelled


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_a_caller_who_is_cancelled_harms_no_other(who: int) -> None:
    source = Source()
    shop = Shop(source.read)
    tasks = [await source.running(shop.ask(5)), *(asyncio.create_task(shop.ask(5)) for _ in range(2))]
    await settle()

    await cancelled(tasks.pop(who))
    source.gate.set()

    assert await asyncio.gather(*tasks) == [1, 1]
    assert shop.ask.cache_contains(5)


async def test_a_timeout_is_the_callers_own() -> None:
    source = Source()
    shop = Shop(source.read)
    patient = await source.running(shop.ask(5))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await shop.ask(5)
    source.gate.set()

    assert await patient == 1


async def test_when_the_last_caller_left_the_function_is_cancelled_and_waited_for() -> None:
    function = Cleaning()
    shop = Shop(function.read)
    only = asyncio.create_task(shop.ask())
    await function.started.wait()

    only.cancel()
    await settle()
    assert not only.done()
    function.may_end.set()

    with pytest.raises(asyncio.CancelledError):
        await only
    assert function.is_clean


async def test_nobody_joins_a_run_that_is_being_cancelled() -> None:
    function = Cleaning()
    shop = Shop(function.read)
    only = asyncio.create_task(shop.ask())
    await function.started.wait()
    only.cancel()
    await settle()

    assert await shop.ask() == 2

    function.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await only
    assert await shop.ask() == 2


async def test_what_a_function_returns_although_it_was_cancelled_is_not_stored() -> None:
    started = asyncio.Event()
    runs = 0

    async def stubborn() -> int:
        nonlocal runs
        runs += 1
        started.set()
        try:
            await asyncio.sleep(3600 if runs == 1 else 0)
        except asyncio.CancelledError:
            pass
        return runs

    shop = Shop(stubborn)
    only = asyncio.create_task(shop.ask())
    await started.wait()

    await cancelled(only)

    assert await shop.ask() == 2


async def test_an_error_of_a_function_nobody_waits_for_is_not_reported_to_the_loop() -> None:
    reported: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    started = asyncio.Event()

    async def read() -> Never:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            raise ValueError("while it cleaned up")

    shop = Shop(read)
    only = asyncio.create_task(shop.ask())
    await started.wait()
    await cancelled(only)
    del only
    gc.collect()

    assert reported == []


def fills() -> list[asyncio.Task[Any]]:
    """The tasks that run cached functions."""
    return [task for task in asyncio.all_tasks() if task.get_name().startswith("fill of")]


async def test_a_run_that_somebody_else_cancelled_is_started_anew() -> None:
    source = Source()
    shop = Shop(source.read)
    waiting = [await source.running(shop.ask(5)), asyncio.create_task(shop.ask(5))]
    await settle()

    (fill,) = fills()
    fill.cancel()
    source.gate.set()

    assert await asyncio.gather(*waiting) == [2, 2]


async def test_a_run_that_was_cancelled_before_its_first_step_is_started_anew() -> None:
    source = Source()
    shop = Shop(source.read)

    waiting = asyncio.create_task(shop.ask(5))
    await asyncio.sleep(0)  # the call has made its step, and the run has not
    (fill,) = fills()
    assert source.runs == 0
    fill.cancel()

    assert await waiting == 1


async def test_a_cancellation_the_function_raises_is_its_outcome() -> None:
    async def read() -> Never:
        raise asyncio.CancelledError("of the function")

    shop = Shop(read)

    with pytest.raises(asyncio.CancelledError):
        await shop.ask()


def test_a_run_that_its_ending_loop_cancelled_is_joined_by_nobody() -> None:
    runs = 0

    async def read() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            await asyncio.sleep(3600)
        return runs

    shop = Shop(read)

    async def leave_it_running() -> asyncio.Task[int]:
        task = asyncio.create_task(shop.ask())
        await settle()
        return task

    assert asyncio.run(leave_it_running()).cancelled()
    assert asyncio.run(shop.ask()) == 2


# --- errors


async def test_each_caller_gets_an_error_of_his_own_and_nothing_is_stored() -> None:
    gate = asyncio.Event()
    runs = 0

    async def read() -> Never:
        nonlocal runs
        runs += 1
        await gate.wait()
        raise ValueError("a")

    shop = Shop(read)
    calls = [asyncio.create_task(shop.ask()) for _ in range(3)]
    await settle()
    gate.set()
    errors = await asyncio.gather(*calls, return_exceptions=True)

    assert runs == 1
    assert [repr(error) for error in errors] == ["ValueError('a')"] * 3
    assert len({id(error) for error in errors}) == 3
    with pytest.raises(ValueError, match="a"):
        await shop.ask()
    assert runs == 2


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_the_loop_and_leaves_nothing_to_wait_for(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    runs = 0

    async def read() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise kind
        return runs

    shop = Shop(read)

    with pytest.raises(kind):
        asyncio.run(shop.ask())
    gc.collect()

    assert asyncio.run(shop.ask()) == 2
    assert "never retrieved" not in caplog.text


async def generate() -> AsyncIterator[int]:
    yield 1


async def test_a_result_that_can_be_read_only_once_is_refused_for_each_caller() -> None:
    async def read() -> AsyncIterator[int]:
        return generate()

    shop = Shop(read)
    results = await asyncio.gather(shop.ask(), shop.ask(), return_exceptions=True)

    assert all(isinstance(result, ConfigurationError) for result in results)


async def test_a_call_that_does_not_fit_is_refused_in_the_functions_own_words() -> None:
    shop = Shop(Source().read)

    with pytest.raises(TypeError, match=r"Source\.read\(\).*unknown"):
        await shop.ask(unknown=5)


# --- tasks that start at once


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_a_function_that_ends_without_waiting_may_run_in_an_eager_task() -> None:
    eager: Any = getattr(asyncio, "eager_task_factory", None)
    asyncio.get_running_loop().set_task_factory(eager)
    runs = 0

    async def read(key: int) -> int:
        nonlocal runs
        runs += 1
        if key:
            await asyncio.sleep(0)
        return key

    shop = Shop(read)

    assert await asyncio.gather(*(shop.ask(number % 2) for number in range(10))) == [0, 1] * 5
    assert runs == 2


# --- memory


async def test_a_flight_is_garbage_without_the_collector_when_it_is_over() -> None:
    class Value:
        """Can be seen to die."""

    values: list[weakref.ref[Value]] = []

    async def read() -> Value:
        value = Value()
        values.append(weakref.ref(value))
        return value

    shop = Shop(read)
    gc.collect()
    gc.disable()
    try:
        await shop.ask()
        shop.store.entries.clear()
        await settle()
        assert values[0]() is None
    finally:
        gc.enable()
