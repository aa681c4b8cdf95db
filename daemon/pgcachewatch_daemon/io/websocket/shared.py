"""What all connections of one server have in common, themselves included.

Bounds: of sockets whose handshake is not done there are `handshakes_limit`; above it the oldest is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from pgcachewatch_daemon.core.forwarding import TrustedProxies
from pgcachewatch_daemon.io.websocket.certificates import Certificates
from pgcachewatch_daemon.io.websocket.wire import Application, SocketLimits, SocketStats

if TYPE_CHECKING:
    from pgcachewatch_daemon.io.websocket.connection import Connection

TURN_S = 0.005


class Shared:
    """`clock` is the relay's monotonic clock, in seconds. Without `certificates` connections are plain."""

    def __init__(
        self, application: Application, limits: SocketLimits, clock: Callable[[], float], stats: SocketStats
    ) -> None:
        self.application = application
        self.limits = limits
        self.clock = clock
        self.stats = stats
        self.certificates: Certificates | None = None
        self.proxies = TrustedProxies()
        self.work_clock = time.thread_time  # what others on the machine do is no client's fault
        self.handshake_turns = Turns(clock, rest=0.0)  # an honest one must not be dropped for the wait behind others
        self.frame_turns = Turns(clock, rest=1.0)
        self.costly = 0  # connections that are not read because they cost too much
        self.arrivals = 0
        self.connections: set[Connection] = set()
        self.pending: dict[Connection, None] = {}  # handshakes in the order they began
        self.emptied = asyncio.Event()
        self.emptied.set()
        # Not in the logging tree: the library prints a traceback for each hostile client, an INFO line for each other.
        self.library_logger = logging.Logger("websockets", logging.CRITICAL + 1)

    def arrived(self, connection: Connection) -> None:
        self.arrivals += 1
        connection.number = self.arrivals
        self.connections.add(connection)
        self.emptied.clear()
        self.pending[connection] = None
        if len(self.pending) > self.limits.handshakes_limit:
            # The oldest has had the most time: a flood of silent sockets costs itself, not those who speak.
            oldest = next(iter(self.pending))
            del self.pending[oldest]
            self.stats.evicted_handshakes += 1
            oldest.abort(0)

    def departed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.emptied.set()
        self.pending.pop(connection, None)


class Turns:
    """Work that is long and comes in crowds: TURN_S of it at once, in its order, then `rest` times as long none of it.

    With 1.0 a crowd has half of the relay's time at most, whatever its size and however dear each piece is. With 0.0
    one iteration of the loop is between two slices, in which little happens: what PostgreSQL answers takes several.
    Bound: one piece of work for each connection.
    """

    def __init__(self, clock: Callable[[], float], *, rest: float) -> None:
        self._clock = clock
        self._rest = rest
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_running = False
        self._others_until_s = 0.0

    def take(self, work: Callable[[], None]) -> None:
        """Call it soon. What it raises is the loop's to tell, and the others go on."""
        self._waiting.append(work)
        if not self._is_running:
            self._run_soon()

    def _run_soon(self) -> None:
        self._is_running = True
        loop, wait_s = asyncio.get_running_loop(), self._others_until_s - self._clock()
        if wait_s > 0:
            loop.call_later(wait_s, self._run)
        else:
            loop.call_soon(self._run)

    def _run(self) -> None:
        began_s = self._clock()
        try:
            while self._waiting:
                self._waiting.popleft()()
                if self._clock() >= began_s + TURN_S:
                    break
        finally:
            now_s = self._clock()
            self._others_until_s = now_s + self._rest * (now_s - began_s)
            self._is_running = False
            if self._waiting:
                self._run_soon()
