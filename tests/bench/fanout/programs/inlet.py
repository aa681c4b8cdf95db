"""The inlet of the small servers: a port that takes a line for each event, and hands on what one read has brought.

Each server prints its port and the inlet's when both listen; the bench ends it when the run is over.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable


class LineInlet(asyncio.Protocol):
    """Calls `publish` with each whole line, without its end."""

    def __init__(self, publish: Callable[[bytes], None]) -> None:
        self._publish = publish
        self._begun = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._begun = (self._begun + data).split(b"\n")
        for line in lines:
            self._publish(line)


async def open_inlet(publish: Callable[[bytes], None], *, port: int) -> asyncio.Server:
    """Listen, and say so: `port` is where clients come."""
    server = await asyncio.get_running_loop().create_server(lambda: LineInlet(publish), "127.0.0.1", 0)
    sys.stdout.write(f"{port} {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    return server
