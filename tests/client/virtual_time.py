"""An event loop whose clock moves only when nothing is left to do: timeouts and backoff cost no time in tests.

    @virtual_time
    async def test_something() -> None:
        await asyncio.sleep(3600)  # returns at once, and loop.time() has moved by an hour

Only for tests without a network: what a real socket answers takes real time.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec

P = ParamSpec("P")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, moves the clock by the time it would have waited."""

    now_s = 1_000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            # Another thread may still wake the loop, through its socket pair; without one this is a deadlock.
            ready = super().select(5)
            if not ready:
                raise AssertionError("every task waits for something that no timer will bring")
            return ready
        self.now_s += max(timeout, 1e-6)
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now_s

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # Threads end in real time: a limit in virtual time would be over before they could.
        await super().shutdown_default_executor()

    def block(self, seconds: float) -> None:
        """Let time pass as a callback does that blocks the loop."""
        self._virtual.now_s += seconds


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a VirtualTimeLoop."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(test(*args, **kwargs))

    # pytest-asyncio must see a plain function, and pytest the names of the fixtures.
    del run.__wrapped__
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]  # functions take attributes
    return run


async def until(condition: Callable[[], bool]) -> None:
    """Let time pass until the condition holds."""
    while not condition():  # noqa: ASYNC110  # costs nothing in virtual time
        await asyncio.sleep(0.05)
