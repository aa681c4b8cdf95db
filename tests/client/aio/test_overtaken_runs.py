"""Calls of coroutine functions that must wait for a run and take nothing from it, or must not wait for it at all.

The first are those that find a run which another one overtook (G5), the second those of a function that called itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from pgcachewatch.aio.flight import CURRENT, Node
from tests.client.aio.source import LIMIT_S, Shop, cancelled, settle

# --- overtaken runs


class Database:
    """One version. Each run reads it when the test says so, and returns when the test says so."""

    def __init__(self) -> None:
        self.version = 0
        self.runs: list[tuple[asyncio.Event, asyncio.Event]] = []

    async def read(self) -> int:
        may_read, may_return = asyncio.Event(), asyncio.Event()
        self.runs.append((may_read, may_return))
        await may_read.wait()
        saw = self.version
        await may_return.wait()
        return saw

    async def let(self, number: int, *, read: bool = False, end: bool = False) -> None:
        """Let this run, the first being 0, go on."""
        may_read, may_return = self.runs[number]
        if read or end:
            may_read.set()
        await settle()
        if end:
            may_return.set()
        await settle()


async def started(call: Awaitable[int]) -> asyncio.Task[int]:
    task = asyncio.ensure_future(call)
    await settle()
    assert isinstance(task, asyncio.Task)
    return task


async def test_no_call_gets_less_than_a_detached_run_has_returned() -> None:
    database = Database()
    shop = Shop(database.read)
    detached = await started(shop.ask())
    shop.store.flush()
    current = await started(shop.ask())
    await database.let(1, read=True)
    database.version = 1
    await database.let(0, end=True)
    assert await detached == 1

    later = await started(shop.ask())
    await database.let(1, end=True)

    assert await current == 0  # it overlaps with the detached run
    await database.let(2, end=True)
    assert await later == 1
    assert await shop.ask() == 1
    assert len(database.runs) == 3


async def test_no_call_gets_less_than_one_that_passed_the_cache_by() -> None:
    is_fresh_wanted = False
    database = Database()
    shop = Shop(database.read, bypass=lambda: is_fresh_wanted)
    current = await started(shop.ask())
    await database.let(0, read=True)
    database.version = 1
    is_fresh_wanted = True
    alone = await started(shop.ask())
    is_fresh_wanted = False
    await database.let(1, end=True)
    assert await alone == 1

    later = await started(shop.ask())
    await database.let(0, end=True)
    await database.let(2, end=True)

    assert await current == 0
    assert await later == 1


async def test_many_calls_that_wait_for_an_overtaken_run_share_the_next_one() -> None:
    database = Database()
    shop = Shop(database.read)
    leader = await started(shop.ask())
    shop.store.overtake(())
    later = [await started(shop.ask()) for _ in range(5)]
    assert len(database.runs) == 1

    await database.let(0, end=True)
    assert len(database.runs) == 2
    await database.let(1, end=True)

    assert await asyncio.gather(leader, *later) == [0] * 6
    assert shop.ask.cache_info().currsize == 1


async def test_a_caller_who_waits_for_an_overtaken_run_may_leave() -> None:
    database = Database()
    shop = Shop(database.read)
    leader = await started(shop.ask())
    shop.store.overtake(())
    later = await started(shop.ask())

    await cancelled(later)
    await database.let(0, end=True)

    assert await leader == 0


async def test_who_waits_for_an_overtaken_run_does_not_get_its_error() -> None:
    gate = asyncio.Event()
    runs = 0

    async def read() -> int:
        nonlocal runs
        runs += 1
        if runs == 1:
            await gate.wait()
            raise ValueError("a")
        return runs

    shop = Shop(read)
    leader = await started(shop.ask())
    shop.store.overtake(())
    later = await started(shop.ask())
    gate.set()

    with pytest.raises(ValueError, match="a"):
        await leader
    assert await later == 2


# --- functions that call each other


async def test_a_function_that_calls_itself_with_the_same_arguments_ends() -> None:
    depth = 0

    async def read(key: int) -> int:
        nonlocal depth
        depth += 1
        return await shop.ask(key) + 1 if depth < 4 else 0

    shop = Shop(read)

    async with asyncio.timeout(LIMIT_S):
        assert await shop.ask(5) == 3


async def test_a_function_that_calls_itself_in_a_task_of_its_own_ends() -> None:
    depth = 0

    async def read(key: int) -> int:
        nonlocal depth
        depth += 1
        return sum(await asyncio.gather(shop.ask(key), shop.ask(key))) if depth == 1 else 1

    shop = Shop(read)

    async with asyncio.timeout(LIMIT_S):
        assert await shop.ask(5) == 2


async def test_two_functions_that_call_each_other_end() -> None:
    both_run = asyncio.Barrier(2)
    runs = 0

    async def one(key: int) -> int:
        nonlocal runs
        runs += 1
        if runs > 2:
            return 1
        await both_run.wait()
        return int(await second.ask(key))

    async def other(key: int) -> int:
        nonlocal runs
        runs += 1
        if runs > 2:
            return 1
        await both_run.wait()
        return int(await first.ask(key))

    first, second = Shop(one), Shop(other)

    async with asyncio.timeout(LIMIT_S):
        assert list(await asyncio.gather(first.ask(5), second.ask(5))) == [1, 1]


async def test_a_function_may_call_itself_with_other_arguments() -> None:
    runs = 0

    async def factorial(number: int) -> int:
        nonlocal runs
        runs += 1
        return number * int(await shop.ask(number - 1)) if number else 1

    shop = Shop(factorial)

    assert [await shop.ask(5), await shop.ask(5), await shop.ask(4)] == [120, 120, 24]
    assert runs == 6


async def test_who_waited_for_whom_is_forgotten_when_the_call_is_over() -> None:
    """A task that outlives the run that started it may call for ever, and must not pile up notes."""
    nodes: list[Node | None] = []

    async def read_one(key: int) -> int:
        if key < 0:
            raise ValueError(key)
        return key

    async def read_all(key: int) -> int:
        nodes.append(CURRENT.get())
        results = await asyncio.gather(*(inner.ask(each) for each in (1, 1, 2, -1)), return_exceptions=True)
        return len(results)

    inner, outer = Shop(read_one), Shop(read_all)
    await outer.ask(5)

    (node,) = nodes
    assert node is not None
    assert node.waits_for == []
