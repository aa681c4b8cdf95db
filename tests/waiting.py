"""Waiting for something that another process does: the only place in the tests that sleeps.

A condition is looked at again and again until it holds. The limit is no assertion about speed, it only turns
a test that would hang into one that fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

LIMIT_S = 60.0
POLL_S = 0.005


def wait_until(holds: Callable[[], bool]) -> None:
    """Return when `holds()` is true; raises AssertionError with the condition's name after LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline, f"still not so after {LIMIT_S} s: {holds.__qualname__}"
        time.sleep(POLL_S)


async def eventually(holds: Callable[[], bool | Awaitable[bool]]) -> None:
    """The same on an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        answer = holds()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"still not so after {LIMIT_S} s: {holds.__qualname__}"
        await asyncio.sleep(POLL_S)
