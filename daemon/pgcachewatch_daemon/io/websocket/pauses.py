"""When a connection is not read: each reason begins and ends by itself, and the socket is read while there is none.

What comes in large pieces is handled in turns (`Shared.frame_turns`), one after the other, and all of it together has
half of the relay's time at most.
Whoever sends so much at once that handling it takes COSTLY_S of processor time is not read for COSTLY_PAUSES times as
long, times the number of those who do that. So a flood has a tenth of the relay's time, until so many take part that
COSTLY_PAUSE_S ends their pauses sooner; what it sends waits in the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pgcachewatch_daemon.io.websocket.shared import Shared

# Why a connection is not read: bits.
FULL, ASKED, COSTLY, TURN, RESTING = 1, 2, 4, 8, 16

MEASURED_BYTES = 4_096  # a read below that is not large
COSTLY_S = 0.001
COSTLY_PAUSES = 9
COSTLY_PAUSE_S = 5.0  # the silence that this makes must not be taken for the client's


class PausedReading(asyncio.Protocol):
    """The part of a Connection that says whether its socket is read."""

    __slots__ = ("_pauses", "_shared", "_transport")

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._transport: asyncio.Transport | None = None
        self._pauses = 0

    def _pause(self, why: int) -> None:
        if not self._pauses and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._pauses |= why

    def _resume(self, why: int) -> None:
        if not self._pauses & why:
            return
        self._pauses &= ~why
        if not self._pauses and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def rest(self, cost_s: float, then: Callable[[], None]) -> None:
        """What this client asked for has cost so much, and there is more of it: call `then` once others had their turn.

        It is called also when the client is gone meanwhile.
        """
        self._pause(RESTING)
        asyncio.get_running_loop().call_later(self._costs(cost_s), self._go_on, then)

    def _go_on(self, then: Callable[[], None]) -> None:
        self._shared.costly -= 1
        self._resume(RESTING)
        then()

    def _costs(self, cost_s: float) -> float:
        """One more is costly; for how long."""
        self._shared.costly += 1
        return min(COSTLY_PAUSE_S, cost_s * COSTLY_PAUSES * self._shared.costly)

    def _spread(self, cost_s: float) -> None:
        """Handling this client's last bytes took so long: let others have their turn."""
        if cost_s >= COSTLY_S and not self._pauses & COSTLY:
            self._pause(COSTLY)
            asyncio.get_running_loop().call_later(self._costs(cost_s), self._rested)

    def _rested(self) -> None:
        if self._pauses & COSTLY:
            self._shared.costly -= 1
            self._resume(COSTLY)
