"""A port served by the shell with a small application behind it, and clients of it, well-behaved and not."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from pgcachewatch_daemon.io.websocket import (
    Connection,
    HttpRequest,
    SocketLimits,
    TlsOptions,
    WebSocketServer,
    text_frame,
)

WITHOUT_TLS = TlsOptions()
SUBPROTOCOL = "pgcachewatch.v1"
REQUEST = (
    b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@dataclass
class Echo:
    """An application that echoes, and does what the path says."""

    clock: Callable[[], float]
    received_frames: list[str | bytes] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    ended: list[Connection] = field(default_factory=list)
    backlog: deque[bytes] = field(default_factory=deque)  # the simplest outbox, of all connections
    certificates: list[str] = field(default_factory=list)  # of whoever sent a request
    drains: int = 0
    fills: int = 0
    hello_s: float = 0.0

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        self.certificates.append(connection.peer_certificate_name)
        match request.path:
            case "/answer":
                connection.answer(200, {"Content-Type": "text/plain"}, b"hello\n")
            case "/stranger":
                connection.answer(403, {"Content-Type": "text/plain"}, b"not you\n")
            case "/later":
                self.connections.append(connection)
            case "/fail":
                raise RuntimeError("planted")
            case _ if connection.check_upgrade(SUBPROTOCOL if request.path == "/v1" else None):
                self.connections.append(connection)
                connection.upgrade(too_big=(4308, "frame limit: 65536 bytes") if request.path == "/v1" else None)
                if self.hello_s:
                    connection.expect_by(self.clock() + self.hello_s)

    def received(self, connection: Connection, frame: str | bytes) -> None:
        self.received_frames.append(frame)
        if frame == "fail":
            raise RuntimeError("planted")
        if isinstance(frame, str):
            self.say(connection, frame)

    def say(self, connection: Connection, text: str) -> None:
        self.backlog.append(text_frame(text))
        self.write(connection)

    def write(self, connection: Connection) -> None:
        while self.backlog and connection.is_live and not connection.is_full:
            connection.send(self.backlog.popleft())

    def expired(self, connection: Connection) -> None:
        connection.close(4101, "no hello")

    def drained(self, connection: Connection) -> None:
        self.drains += 1
        self.write(connection)

    def filled(self, connection: Connection) -> None:
        self.fills += 1

    def gone(self, connection: Connection) -> None:
        self.ended.append(connection)


@dataclass
class Site:
    server: WebSocketServer
    application: Echo
    scheme: str = "ws"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server.port}"

    async def raw(self, *parts: bytes, end: bool = False) -> bytes:
        """Send bytes as they are, and read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        for part in parts:
            writer.write(part)
        if end:
            writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def serving(
    *, tls: TlsOptions = WITHOUT_TLS, trusted_proxies: Sequence[str] = (), **limits: float
) -> AsyncIterator[Site]:
    loop = asyncio.get_running_loop()
    application = Echo(loop.time)
    server = WebSocketServer(
        application,
        SocketLimits(**limits),  # type: ignore[arg-type]  # ints and floats
        clock=loop.time,
        tls=tls,
        trusted_proxies=trusted_proxies,
    )
    await server.start("127.0.0.1", 0)
    try:
        yield Site(server, application, "wss" if tls.is_on else "ws")
    finally:
        await server.close()


def v1(url: str, **options: object) -> connect:
    return connect(url + "/v1", subprotocols=[Subprotocol(SUBPROTOCOL)], proxy=None, **options)  # type: ignore[arg-type]


async def closed(client: ClientConnection) -> tuple[int, str]:
    """Read until the close; code and reason."""
    await client.wait_closed()
    close = client.protocol.close_rcvd
    assert close is not None, "closed without a close frame"
    return close.code, close.reason


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:80]
    return int(answer[9:12])


async def handshake(site: Site, receive_buffer: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A WebSocket client that does nothing by itself."""
    client = socket.socket()
    if receive_buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.setblocking(False)
    await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", site.server.port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1_024)
    writer.write(REQUEST)
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer
