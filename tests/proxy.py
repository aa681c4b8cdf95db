"""A TCP proxy that can misbehave as networks do: stall, cut, or swallow everything while looking healthy.

    async with Proxy("127.0.0.1", server_port) as proxy:
        ...connect to proxy.port...
        proxy.black_hole()

Each mode holds for the connections there are and for new ones, until `forward`. What a stall held back is delivered
then, in order; a connection that was black-holed stays dead, since bytes of it are missing. A `filter_factory` gives,
for each connection, a function over the bytes that come from the server: to drop or rewrite messages.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit

CHUNK_BYTES = 65_536

Filter = Callable[[bytes], bytes]
Direction = Literal["up", "down"]  # to the server, from the server
BOTH: tuple[Direction, ...] = ("up", "down")


def port_of(dsn: str) -> int:
    """The port a DSN names."""
    port = urlsplit(dsn).port
    assert port is not None, "the tests' servers have one"
    return port


def through(proxy: Proxy, dsn: str) -> str:
    """The same DSN, by way of the proxy."""
    parts = urlsplit(dsn)
    return parts._replace(netloc=parts.netloc.rpartition(":")[0] + f":{proxy.port}").geturl()


class Mode(enum.Enum):
    FORWARD = "forward"
    STALL = "stall"
    BLACK_HOLE = "black_hole"
    REFUSE = "refuse"


class _Link:
    """One connection through the proxy: two sockets and the two tasks that copy between them."""

    def __init__(self, down: asyncio.StreamWriter, up: asyncio.StreamWriter) -> None:
        self.writers = (down, up)
        self.is_dead = False

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Forwards to one address; `port` is known once entered."""

    def __init__(self, host: str, port: int, *, filter_factory: Callable[[], Filter] | None = None) -> None:
        self._target = (host, port)
        self._filter_factory = filter_factory
        self._mode = Mode.FORWARD
        self._moving: dict[Direction, asyncio.Event] = {direction: asyncio.Event() for direction in BOTH}
        self._set(Mode.FORWARD)
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.accepted = 0

    @property
    def connections(self) -> int:
        """Connections that are open at this moment."""
        return len(self._links)

    def forward(self) -> None:
        """Behave again."""
        self._set(Mode.FORWARD)

    def stall(self, *directions: Direction) -> None:
        """Move no byte, in these directions or in both; nothing is lost, senders meet full buffers."""
        self._set(Mode.STALL, stalled=directions or BOTH)

    def black_hole(self) -> None:
        """Take every byte and deliver none. No error, no end: a half-open connection."""
        for link in self._links:
            link.is_dead = True
        self._set(Mode.BLACK_HOLE)

    def refuse(self) -> None:
        """Hang up on new connections at once; those there are go on."""
        self._set(Mode.REFUSE)

    def cut(self) -> None:
        """Reset every connection there is; the mode stays."""
        for link in tuple(self._links):
            link.cut()

    def cut_dead(self) -> None:
        """Reset what was black-holed, as the keepalives of its two ends do after a while; new ones are forwarded."""
        for link in tuple(self._links):
            if link.is_dead:
                link.cut()

    def _set(self, mode: Mode, *, stalled: tuple[Direction, ...] = ()) -> None:
        self._mode = mode
        for direction, moving in self._moving.items():
            if direction in stalled:
                moving.clear()
            else:
                moving.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            if self._mode is not Mode.REFUSE:
                await self._serve(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # the other side went away, or the test is over: either way this connection ends
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*self._target)
        link = _Link(writer, up_writer)
        link.is_dead = self._mode is Mode.BLACK_HOLE
        self._links.add(link)
        edit = self._filter_factory() if self._filter_factory is not None else None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(link, reader, up_writer, "up"))
                group.create_task(self._copy(link, up_reader, writer, "down", edit))
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            link.cut()

    async def _copy(
        self,
        link: _Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Direction,
        edit: Filter | None = None,
    ) -> None:
        moving = self._moving[direction]
        while data := await reader.read(CHUNK_BYTES):
            await moving.wait()
            if link.is_dead:
                continue
            writer.write(edit(data) if edit is not None else data)
            await writer.drain()
        if not link.is_dead and writer.can_write_eof():
            await moving.wait()
            writer.write_eof()
