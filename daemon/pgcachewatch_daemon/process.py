"""What each process of the relay sets up before anything else: its log and its event loop."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import sys
from collections.abc import Callable
from typing import Literal, TextIO

from pgcachewatch_daemon.lines import LineFormatter
from pgcachewatch_daemon.repeats import Repeats

LogFormat = Literal["auto", "text", "json"]


class Lines(logging.StreamHandler[TextIO]):
    """To standard error, without what repeats itself. Python closes it when the process ends."""

    def __init__(self) -> None:
        super().__init__()
        self._repeats = Repeats(self)
        self.addFilter(self._repeats)

    def close(self) -> None:
        self._repeats.end()
        super().close()


def log_to_stderr(level: int | str, *, worker: int = 0, log_format: LogFormat = "auto") -> None:
    """One line per message, in UTC; lines of a worker name it.

    `auto`: `key=value` where a person reads, which is on a terminal, and JSON where a machine collects.
    """
    is_json = not sys.stderr.isatty() if log_format == "auto" else log_format == "json"
    handler = Lines()
    handler.setFormatter(LineFormatter(is_json=is_json, worker=worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def leave_a_trace() -> None:
    """A crash in native code, and the SIGABRT of a watchdog, leave on standard error where each thread was."""
    faulthandler.enable()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it can be had; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
