"""Tells the service manager, systemd, that the relay listens, that it still turns, and that it is ending.

A unit of Type=notify names a socket in NOTIFY_SOCKET and, with WatchdogSec, in WATCHDOG_USEC how long it waits for a
sign of life before it ends the process (sd_notify(3), sd_watchdog_enabled(3)). Signs come from the event loop itself,
so a loop that hangs gives none. Without these variables nobody is there to be told, and nothing runs.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping

from pgcachewatch_daemon.lines import line_logger

BEATS_PER_LIMIT = 3  # one may be late, and one be lost

logger = line_logger(__name__)


class Supervisor:
    """Whoever started this process and wants to hear of it. `environment` is read once."""

    def __init__(self, environment: Mapping[str, str], *, pid: int) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        limit = environment.get("WATCHDOG_USEC", "")
        is_meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._beat_s = int(limit) / 1e6 / BEATS_PER_LIMIT if limit.isdecimal() and is_meant else 0.0
        self._timer: asyncio.TimerHandle | None = None

    def ready(self) -> None:
        """The port is open. From now on signs of life are given."""
        self._tell("READY=1")
        if self._address and self._beat_s:
            self._beat()

    def stopping(self) -> None:
        """The end has begun; a drain goes on giving signs of life."""
        self._tell("STOPPING=1")

    def close(self) -> None:
        """No more signs; harmless when called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._tell("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self._beat_s, self._beat)

    def _tell(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto(state.encode(), self._address)
        except OSError as error:
            # Not the relay's failure: the manager will do what it does with a service that is silent.
            logger.warning("service manager can not be told", state=state, error=str(error))
