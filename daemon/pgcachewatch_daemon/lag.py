"""How late the event loop of a process runs: one timer, and a histogram of its delays.

A late loop delays marks, answers and health checks alike, so this is the first figure to look at when all of them are.
Bound: one timer each SAMPLE_S.
"""

from __future__ import annotations

import asyncio
import time

from pgcachewatch_daemon.io.metrics import Histogram

SAMPLE_S = 1.0


class LoopLag:
    """Measures from `start` to `close`. `seconds` holds what was measured."""

    def __init__(self) -> None:
        self.seconds = Histogram()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._arm(time.monotonic())

    def close(self) -> None:
        """End it; harmless when it was never started."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, now_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(SAMPLE_S, self._sample, now_s + SAMPLE_S)

    def _sample(self, due_s: float) -> None:
        now_s = time.monotonic()
        self.seconds.observe(max(0.0, now_s - due_s))
        self._arm(now_s)
