"""Those who asked a worker for what only the primary can say, and wait for its one answer.

Whoever asks while somebody waits gets the same answer. Bound: WITHIN_S, then all of them are refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer

WITHIN_S = 5.0


class Awaited:
    """`ask` tells the primary that somebody wants to know."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._waiting: list[Callable[[Answer], None]] = []
        self._timer: asyncio.TimerHandle | None = None

    def wait(self, answer: Callable[[Answer], None]) -> None:
        """Call `answer` once, with what the primary says or that it says nothing."""
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            self._ask()
            silent = http.refuse(503, "the primary does not answer")
            self._timer = asyncio.get_running_loop().call_later(WITHIN_S, self.told, silent)

    def told(self, answer: Answer) -> None:
        """The answer, for all who wait."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each(answer)
