"""Links between clients and relays, in memory, with the faults that links have.

Each direction is a queue in order and without loss while the link lasts, as TCP is. A link may be slow, may stall in
one direction, may be cut with both ends told, or may go dark: nothing passes and nobody is told. Each direction holds
a bounded number of frames; beyond it the sender sees a full socket.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pgcachewatch.aio.connection import LinkLost, Receiver

DELAY_S = (0.0001, 0.01)
SOCKET_FRAMES = 32  # in flight in one direction, before the sender's socket is full


class Direction:
    """One way of a link."""

    def __init__(self, arrive: Callable[[str], None], drained: Callable[[], None], chance: random.Random) -> None:
        self._arrive = arrive
        self._drained = drained
        self._chance = chance
        self.frames: list[str] = []
        self._is_moving = False
        self.is_stalled = False
        self.is_open = True
        self.slowness = 1.0

    @property
    def is_full(self) -> bool:
        return len(self.frames) >= SOCKET_FRAMES

    def send(self, frame: str) -> None:
        if self.is_open:
            self.frames.append(frame)
            self.move()

    def move(self) -> None:
        """Let the next frame travel, unless one does or the direction is stalled."""
        if self.frames and not self._is_moving and not self.is_stalled and self.is_open:
            self._is_moving = True
            delay_s = self._chance.uniform(*DELAY_S) * self.slowness
            asyncio.get_running_loop().call_later(delay_s, self._travelled)

    def _travelled(self) -> None:
        self._is_moving = False
        if not self.is_open or self.is_stalled:
            return
        was_full = self.is_full
        self._arrive(self.frames.pop(0))
        if was_full:
            self._drained()
        self.move()


class ClientEnd:
    """A Link, as aio/connection wants it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def send(self, text: str) -> None:
        self._wire.up.send(text)

    def abort(self) -> None:
        self._wire.cut(tell_client=False, tell_relay=True)

    async def close(self, code: int, reason: str) -> None:
        self._wire.cut(tell_client=False, tell_relay=True)


class RelayEnd:
    """What the relay's shell writes to: `is_full` is its socket buffer."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @property
    def is_full(self) -> bool:
        return self._wire.down.is_full

    def send(self, text: str) -> None:
        self._wire.down.send(text)

    def close(self, code: int) -> None:
        """An orderly close: what was sent still arrives, then the client is told."""
        self._wire.close_after_sent(code)


class Wire:
    """One link: two directions and the two who are told when it ends."""

    def __init__(self, client: Receiver, chance: random.Random) -> None:
        self.relay_receives: Callable[[str], None] = lambda frame: None
        self.relay_drained: Callable[[], None] = lambda: None
        self.relay_lost: Callable[[], None] = lambda: None
        self._client = client
        self.up = Direction(lambda frame: self.relay_receives(frame), lambda: None, chance)
        self.down = Direction(self._to_client, lambda: self.relay_drained(), chance)
        self.is_open = True

    def _to_client(self, frame: str) -> None:
        if frame.startswith("\0close "):
            self.cut(tell_client=True, tell_relay=True, code=int(frame.removeprefix("\0close ")))
        else:
            self._client.receive(frame)

    def close_after_sent(self, code: int) -> None:
        self.down.send(f"\0close {code}")

    def cut(self, *, tell_client: bool, tell_relay: bool, code: int | None = None) -> None:
        """The link ends; an end that is not told learns nothing."""
        if not self.is_open:
            return
        self.is_open = self.up.is_open = self.down.is_open = False
        loop = asyncio.get_running_loop()
        if tell_client:
            loop.call_soon(self._client.lost, LinkLost(code))
        if tell_relay:
            loop.call_soon(self.relay_lost)

    def stall(self, *, up: bool, down: bool) -> None:
        self.up.is_stalled, self.down.is_stalled = up, down
        self.up.move()
        self.down.move()
