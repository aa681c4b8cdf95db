"""The primary's answers to /v1/status: one look at all workers for everybody who asks meanwhile, kept for a moment.

Bound: one look at a time, which ends when the scrape behind it does (scrape.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pgcachewatch_daemon.overview import Kept, View, render
from pgcachewatch_daemon.sights import Sights
from pgcachewatch_daemon.workers.scrape import Scrapes


class Statuses:
    """`view` makes of what workers told, and of what the primary knows, what is shown."""

    def __init__(self, scrapes: Scrapes, view: Callable[[Sights], View]) -> None:
        self._scrapes = scrapes
        self._view = view
        self._kept = Kept(time.monotonic)
        self._task: asyncio.Task[bytes] | None = None

    def ask(self, answer: Callable[[bytes], None]) -> None:
        """Call `answer` once with the document; never, when the relay ends before."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._make(), name="status")
        self._task.add_done_callback(lambda task: None if task.cancelled() else answer(task.result()))

    async def close(self) -> None:
        """Nobody is answered any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make(self) -> bytes:
        text = self._kept.text
        if text is None:
            text = self._kept.keep(render(self._view(await self._scrapes.look()), wall_s=time.time()))
        return text
