"""A timer beside the session's task: the task may be waiting for an answer that never comes.

It bites when something is overdue twice in a row and nothing was read in between. After a moment in which this process
did not run, or behind a large burst, the answer is here and waits for its turn; giving up then would flush every cache
for nothing. Bound: it looks when the next answer would be overdue, and not at an interval, so that a relay with nothing
to do sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

SECOND_LOOKS_PER_WAIT = 8


class Watched(Protocol):
    """What is watched. Instants are its own monotonic clock, in seconds."""

    heard: int  # changes whenever something was read

    def waiting_since_s(self) -> float:
        """Since when the oldest answer is waited for; 0 when none is."""

    def overdue(self) -> None:
        """The answer does not come."""


class Watchdog:
    """Watches from `start` to `stop`; may be started anew."""

    def __init__(self, watched: Watched, *, limit_s: float, clock: Callable[[], float]) -> None:
        self._watched = watched
        self._limit_s = limit_s
        self._clock = clock
        self._is_suspect = False
        self._heard_before = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self.stop()
        self._is_suspect = False
        self._look()

    def stop(self) -> None:
        """Harmless when it was never started."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now_s = self._clock()
        since_s = self._watched.waiting_since_s()
        is_overdue = 0.0 < since_s < now_s - self._limit_s
        heard = self._watched.heard
        if is_overdue and self._is_suspect and heard == self._heard_before:
            self._watched.overdue()
            return
        self._is_suspect, self._heard_before = is_overdue, heard
        second_look_s = self._limit_s / SECOND_LOOKS_PER_WAIT
        due_s = (since_s or now_s) + self._limit_s
        wait_s = second_look_s if is_overdue else max(second_look_s, due_s - now_s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)
