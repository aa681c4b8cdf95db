"""Single flight across event loops in several threads, and loops that stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from pgcachewatch.aio import loop_fills
from tests.client.aio.source import LIMIT_S, Cleaning, Shop, Source, cancelled, settle
from tests.client.virtual_time import virtual_time


def on_another_loop(call: Callable[[], Awaitable[int]]) -> asyncio.Future[int]:
    async def run() -> int:
        return await call()

    return asyncio.ensure_future(asyncio.to_thread(lambda: asyncio.run(run())))


async def joins(shop: Shop, count: int) -> None:
    """Wait until so many calls have joined."""
    async with asyncio.timeout(LIMIT_S):
        while shop.ask.cache_info().joins < count:  # noqa: ASYNC110  # another thread brings it
            await asyncio.sleep(0)


async def test_callers_on_different_loops_share_one_run() -> None:
    source = Source()
    shop = Shop(source.read)
    here = await source.running(shop.ask(5))

    elsewhere = on_another_loop(lambda: shop.ask(5))
    await joins(shop, 1)
    source.gate.set()

    assert [await here, await elsewhere] == [1, 1]
    assert source.runs == 1


async def test_an_entry_is_served_on_any_loop() -> None:
    source = Source()
    shop = Shop(source.read)
    await shop.ask(5)

    assert await on_another_loop(lambda: shop.ask(5)) == 1


async def test_the_last_caller_cancels_the_run_across_loops() -> None:
    function = Cleaning()
    function.may_end.set()
    shop = Shop(function.read)
    here = asyncio.create_task(shop.ask())
    await function.started.wait()

    async def leave_early() -> int:
        task = asyncio.create_task(shop.ask())
        await settle()
        await asyncio.to_thread(may_leave.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return 0

    may_leave = threading.Event()
    elsewhere = on_another_loop(leave_early)
    await joins(shop, 1)
    await cancelled(here)
    assert not function.is_clean  # somebody still waits
    may_leave.set()
    await elsewhere
    await settle()

    assert function.is_clean


class FirstRunHangs:
    """A function whose first run waits for a gate, and no other."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()

    async def read(self, key: int) -> int:
        self.runs += 1
        number = self.runs
        if number == 1:
            await self.gate.wait()
        return number


def test_a_run_on_a_loop_that_stopped_is_abandoned() -> None:
    function = FirstRunHangs()
    shop = Shop(function.read)

    async def start() -> asyncio.Task[int]:
        task = asyncio.create_task(shop.ask(5))
        await settle()
        return task

    with asyncio.Runner() as stopped:
        abandoned = stopped.run(start())
        assert function.runs == 1

        assert asyncio.run(shop.ask(5)) == 2

        function.gate.set()
        assert stopped.get_loop().run_until_complete(abandoned) > 1  # he starts over


@virtual_time
async def test_who_waits_across_loops_notices_that_the_loop_stopped() -> None:
    function = FirstRunHangs()
    shop = Shop(function.read)
    is_running, may_stop = threading.Event(), threading.Event()

    async def start() -> asyncio.Task[int]:
        task = asyncio.create_task(shop.ask(5))
        await settle()
        is_running.set()
        await asyncio.to_thread(may_stop.wait)
        return task

    elsewhere = asyncio.Runner()
    owner = asyncio.create_task(asyncio.to_thread(elsewhere.run, start()))
    await asyncio.to_thread(is_running.wait)
    caller = asyncio.create_task(shop.ask(5))
    await settle()
    assert shop.ask.cache_info().joins == 1

    may_stop.set()
    abandoned = await owner

    assert await caller == 2
    function.gate.set()
    assert await asyncio.to_thread(elsewhere.get_loop().run_until_complete, abandoned) > 1
    await asyncio.to_thread(elsewhere.close)


async def test_who_waits_across_loops_is_told_and_need_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_fills, "LOOK_EVERY_S", None)
    source = Source()
    shop = Shop(source.read)
    here = await source.running(shop.ask(5))
    elsewhere = on_another_loop(lambda: shop.ask(5))
    await joins(shop, 1)

    source.gate.set()

    async with asyncio.timeout(LIMIT_S):
        assert [await here, await elsewhere] == [1, 1]


async def test_an_interrupt_of_another_loop_is_no_outcome_for_those_who_waited() -> None:
    may_end = threading.Event()
    runs = 0

    async def read(key: int) -> int:
        nonlocal runs
        runs += 1
        number = runs
        if number == 1:
            await asyncio.to_thread(may_end.wait)
            raise KeyboardInterrupt
        return number

    shop = Shop(read)

    def run_until_interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(shop.ask(5))

    elsewhere = asyncio.create_task(asyncio.to_thread(run_until_interrupted))
    async with asyncio.timeout(LIMIT_S):
        while not runs:  # noqa: ASYNC110  # another thread brings it
            await asyncio.sleep(0)
    here = asyncio.create_task(shop.ask(5))
    await joins(shop, 1)
    may_end.set()

    assert await here == 2
    await elsewhere
