"""Keeps a log readable when one thing happens over and over: a client that fails in a loop, a thousand that are cut.

What has the same words, whatever its facts, may fill a few lines per window. The rest is counted, and told in one
line when the window is over: `suppressed=<n>` beside the words. A change of state is told as it happens, unless it
happens that often. Told with the next line of any kind, since a log that nobody writes to needs no clock of its own,
and at the latest when the log ends.
Lines below INFO are never cut: whoever turns them on wants all of them. Any thread may log.

Bound: one small record for each kind of line, KINDS of them; above, what is new is not limited.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pgcachewatch_daemon.lines import Line

LINES = 30  # per kind and window: more than the findings of one look at the catalogue
WINDOW_S = 10.0
KINDS = 500


@dataclass(slots=True)
class _Window:
    began_s: float
    last: logging.LogRecord
    told: int = 0
    suppressed: int = 0


class Repeats(logging.Filter):
    """A filter for a handler. `clock` is monotonic, in seconds."""

    def __init__(
        self, handler: logging.Handler, *, lines: int = LINES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._handler = handler
        self._lines = lines
        self._clock = clock
        self._windows: dict[tuple[str, int, str], _Window] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line that is only counted. Tells of those of windows that are over."""
        now_s = self._clock()
        with self._lock:
            over = self._take_those_over(now_s)
            may_pass = record.levelno < logging.INFO or self._may_pass(record, now_s)
        if over:
            self._tell(over)
        return may_pass

    def end(self) -> None:
        """Tell of windows that are not over: the log is."""
        with self._lock:
            windows, self._windows = [each for each in self._windows.values() if each.suppressed], {}
        if windows:
            self._tell(windows)

    def _may_pass(self, record: logging.LogRecord, now_s: float) -> bool:
        kind = _kind(record)
        window = self._windows.get(kind)
        if window is None:
            if len(self._windows) >= KINDS:
                return True
            window = self._windows[kind] = _Window(now_s, record)
        if window.told < self._lines:
            window.told += 1
            return True
        window.suppressed += 1
        window.last = record
        return False

    def _take_those_over(self, now_s: float) -> list[_Window]:
        kinds = [kind for kind, window in self._windows.items() if now_s - window.began_s >= WINDOW_S]
        windows = [self._windows.pop(kind) for kind in kinds]
        return [window for window in windows if window.suppressed]

    def _tell(self, windows: list[_Window]) -> None:
        # Not `handle`, which would ask this filter again.
        self._handler.acquire()
        try:
            for window in windows:
                self._handler.emit(_summary(window))
        finally:
            self._handler.release()


def _kind(record: logging.LogRecord) -> tuple[str, int, str]:
    words = record.msg["event"] if isinstance(record.msg, Line) else record.msg
    return record.name, record.levelno, str(words)


def _summary(window: _Window) -> logging.LogRecord:
    last = window.last
    words = last.msg["event"] if isinstance(last.msg, Line) else last.getMessage()
    line = Line(event=words, suppressed=window.suppressed, window_s=WINDOW_S)
    return logging.LogRecord(last.name, last.levelno, last.pathname, last.lineno, line, None, None)
