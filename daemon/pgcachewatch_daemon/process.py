"""What each process of the relay sets up before anything else: its log and its event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable


def log_to_stderr(level: int | str, *, worker: int = 0) -> None:
    """One line per message, `key=value`, in UTC; lines of a worker name it."""
    who = f" worker={worker}" if worker else ""
    formatter = logging.Formatter(f"%(asctime)s.%(msecs)03dZ level=%(levelname)s{who} %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it can be had; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
