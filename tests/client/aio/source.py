"""A function to cache and what surrounds it, for the tests of whatever caches it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pgcachewatch.aio.cache import CachedFunction, cached, new_store
from pgcachewatch.aio.fills import CacheOptions
from pgcachewatch.core.store import Store
from pgcachewatch.core.trust import FOREVER, Trust

TURNS = 20  # more than any call here takes to come to rest
LIMIT_S = 10.0  # turns a test that would hang into one that fails


async def settle() -> None:
    """Let each task go on until it waits for something that only the test can bring."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Source:
    """Counts its runs, and returns the number of the run. `gate` holds runs until it is opened."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Semaphore(0)

    async def read(self, key: int = 0) -> int:
        self.runs += 1
        number = self.runs
        self.started.release()
        await self.gate.wait()
        return number

    async def running(self, call: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        """A call whose run of the function waits at the gate."""
        self.gate.clear()
        while not self.started.locked():
            await self.started.acquire()
        task = asyncio.create_task(call)
        async with asyncio.timeout(LIMIT_S):  # it may join another run, which is a failure and not a reason to hang
            await self.started.acquire()
        return task


class Shop:
    """One cached function without a client: its store, its trust, and a clock that stands still."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.now_s = 100.0
        self.trust = Trust(FOREVER)
        self.store: Store[Any, Any] = new_store(self.trust)
        self.ask: CachedFunction[..., Any] = cached(
            function, self.store, CacheOptions(**{"clock": lambda: self.now_s} | options)
        )


class Cleaning:
    """A function that has something to clean up when it is cancelled."""

    def __init__(self) -> None:
        self.runs = 0
        self.started = asyncio.Event()
        self.may_end = asyncio.Event()
        self.is_clean = False

    async def read(self) -> int:
        self.runs += 1
        if self.runs > 1:
            return self.runs
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self.may_end.wait()
            self.is_clean = True
        raise AssertionError("nobody opens that gate")


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
