"""A process that reads through the original library, by its own interpreter.

    .../bin/python -m tests.checker.reader_original TASK

`url` is a DSN for its direct path (PGEventQueue) or `ws://.../pgpubsub/...` for its relay path (WSEventQueue). The
original does not connect again by itself, so what a careful user would do is done here: as soon as its listener says
that it is unhealthy, everything is built anew, cache included. Nothing that the original itself calls healthy is
second-guessed. Callers never give up, as one that does would leave its key waiting for ever.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import websockets

from pgcachewatch import decorators, listeners, strategies
from tests.checker.plan import ReaderTask, from_argument
from tests.checker.reading import Subject, read_until_stopped, write_summary
from tests.checker.source import SOURCE_ERRORS, Source, Value

LOOK_EVERY_S = 0.02
CONNECT_TIMEOUT_S = 5.0
LINK_ERRORS = (*SOURCE_ERRORS, websockets.WebSocketException)


class Original:
    """The cached function over whichever listener is the current one."""

    def __init__(self, url: str, load: Callable[[int], Awaitable[Value]]) -> None:
        self._url = url
        self._load = load
        self._listener: Any = None  # Any: the original's listeners share no type
        self._link: Any = None
        self._cached = load
        self.rebuilds = 0

    async def call(self, key: int) -> Value:
        return await self._cached(key)

    def state(self) -> str:
        is_healthy = self._listener is not None and self._listener.connection_healthy()
        return "live" if is_healthy else "down"

    async def keep_connected(self) -> None:
        """Until cancelled."""
        while True:
            if self.state() != "live":
                try:
                    await self._connect()
                except LINK_ERRORS:
                    pass  # nobody there yet: look again
            await asyncio.sleep(LOOK_EVERY_S)

    async def _connect(self) -> None:
        if self._link is not None and self._url.startswith("postgres"):
            self._link.terminate()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if self._url.startswith("postgres"):
                self._link = await asyncpg.connect(self._url)
                listener: Any = listeners.PGEventQueue()
            else:
                self._link, listener = await websockets.connect(self._url), listeners.WSEventQueue()
            await listener.connect(self._link)
        self._listener = listener
        self._cached = decorators.cache(strategy=strategies.Greedy(listener=listener))(self._load)
        self.rebuilds += 1


async def main(task: ReaderTask) -> None:
    """Read until the run says stop."""
    logging.disable(logging.CRITICAL)  # the original logs a line per call while it is unhealthy
    async with Source(task.dsn, random.Random(task.seed)) as source:
        original = Original(task.url, source.load)
        connecting = asyncio.create_task(original.keep_connected())
        subject = Subject(call=original.call, state=original.state, may_give_up=False)
        summary = await read_until_stopped(task, subject)
        summary.counters = {"rebuilds": original.rebuilds}
        connecting.cancel()
    write_summary(task, summary)


if __name__ == "__main__":
    asyncio.run(main(from_argument(ReaderTask, sys.argv[1])))
