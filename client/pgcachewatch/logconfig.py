"""The package's logger, and a limit on how often it repeats itself.

What can happen on every call or every event is logged once per period and kind, with the number of times it happened
unlogged in between. Bound: one small record per kind of message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

logger: Final = logging.getLogger("pgcachewatch")
logger.addHandler(logging.NullHandler())

EVERY_S = 10.0


class RateLimited:
    """Logs each kind of message at most once per period.

    >>> log = RateLimited(logger)
    >>> log.warning("late", "event is %s late", "2 s")
    """

    def __init__(
        self, target: logging.Logger, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._target = target
        self._every_s = every_s
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}  # kind -> when it was logged, and how often not since

    def warning(self, kind: str, text: str, *args: object) -> None:
        """Log `text % args`, unless this kind was logged lately."""
        now = self._clock()
        logged_s, skipped = self._last.get(kind, (-self._every_s, 0))
        if now - logged_s < self._every_s:
            self._last[kind] = (logged_s, skipped + 1)
            return
        self._last[kind] = (now, 0)
        more = f" ({skipped} more like this since the last one logged)" if skipped else ""
        self._target.warning(f"{text}{more}", *args)
