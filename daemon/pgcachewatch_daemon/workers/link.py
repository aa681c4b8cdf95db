"""One end of the socket between the primary and a worker.

What is said is gathered and written once per iteration of the loop, or at once when asked to. Neither end ever waits
for the other: a link that holds more than its limit of unread bytes is cut, and its worker replaced, because nothing
may be left out of what is said and nobody else may be kept waiting.

Bounds: `limit_bytes` of unread bytes, beyond what was written `is_bulk`, until that has left; messages gathered, by the
caller, which writes when it has many.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import cast

from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.workers.framing import Decoder, LinkBroken, encode
from pgcachewatch_daemon.workers.messages import Message

LIMIT_BYTES = 64 * 1024 * 1024

logger = line_logger(__name__)


class Link(asyncio.Protocol):
    """Use `connect`. `received` is called with what was read, `lost` once, when nothing more can be."""

    def __init__(
        self,
        received: Callable[[list[Message]], None],
        lost: Callable[[], None],
        *,
        limit_bytes: int = LIMIT_BYTES,
    ) -> None:
        self._received = received
        self._told_lost = lost
        self._limit_bytes = limit_bytes
        self._bulk_bytes = 0
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._gathered: list[Message] = []
        self._is_scheduled = False

    @classmethod
    async def connect(
        cls,
        end: socket.socket,
        received: Callable[[list[Message]], None],
        lost: Callable[[], None],
        *,
        limit_bytes: int = LIMIT_BYTES,
    ) -> Link:
        """Take over one end of a pair of stream sockets."""
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        link = cls(received, lost, limit_bytes=limit_bytes)
        await loop.create_unix_connection(lambda: link, sock=end)
        return link

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def say(self, *messages: Message) -> None:
        """In this iteration of the loop, behind what was said before."""
        self._gathered += messages
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush_scheduled)

    def flush(self) -> None:
        """Write what was said and not written yet."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._write(encode(gathered))

    def write(self, frames: Sequence[bytes], *, is_bulk: bool = False) -> None:
        """Frames that are encoded already, behind what was said before. `is_bulk`: they do not count as a backlog."""
        self.flush()
        for frame in frames:
            if is_bulk:
                self._bulk_bytes += len(frame)
            self._write(frame)

    def cut(self) -> None:
        """End it at once; `lost` is told."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """End it once what was said is written."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def _flush_scheduled(self) -> None:
        self._is_scheduled = False
        self.flush()

    def _write(self, frame: bytes) -> None:
        if not self.is_open:
            self._gathered.clear()
            return
        assert self._transport is not None
        self._transport.write(frame)
        unread_bytes = self._transport.get_write_buffer_size()
        if unread_bytes > self._limit_bytes + self._bulk_bytes:
            logger.error("link cut, the other end does not read", unread_bytes=unread_bytes)
            self.cut()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # to hear when everything has left

    def resume_writing(self) -> None:
        self._bulk_bytes = 0

    def data_received(self, data: bytes) -> None:
        try:
            self._received(self._decoder.feed(data))
        except LinkBroken as error:
            logger.error("link broken", error=str(error))
            self.cut()
        except Exception:
            # The top of what the other end can reach: nothing it says may be left out, so the link ends.
            logger.exception("link failed")
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._told_lost()
