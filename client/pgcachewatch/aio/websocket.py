"""A Link over the network: one WebSocket to `/v1/ws`.

Compression is off: frames are small, and CPU is what a cache wants to save. WebSocket keepalive is off: the session
asks for signs of life itself, and judges by what the lease needs. All frames that one read brought are handed on in the
step in which they were read, and a frame is written in the step in which it was sent: each further turn of the loop
would be a part of what a barrier and an invalidation take. Waiting for a peer that does not read happens in the writer
task only. The library makes the handshake, closes, and judges what is not plain; plain frames do not reach it.

Bounds: FRAMES_WAITING for a relay that does not read, then the link is aborted, as nothing sent would arrive; the
protocol's frame limit; CLOSE_TIMEOUT_S for a closing handshake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl as tls
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event, State
from websockets.typing import Subprotocol

from pgcachewatch.aio.connection import Link, LinkLost, LinkRefused, OpenLink, Receiver
from pgcachewatch.aio.frames import FrameReader
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol import messages

FRAMES_WAITING = 4_096
CLOSE_TIMEOUT_S = 0.25
STATUS_NOT_A_RELAY = 400
END_OF_HEAD = b"\r\n\r\n"


def endpoint(url: str) -> str:
    """The address to connect to. A path is kept as a prefix, for relays behind a reverse proxy.

    >>> endpoint("ws://127.0.0.1:8420")
    'ws://127.0.0.1:8420/v1/ws'
    >>> endpoint("wss://example.com/cache/")
    'wss://example.com/cache/v1/ws'
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        # The text is cut at the query, which is where people put the secrets that do not belong there.
        raise ConfigurationError(
            f"relay url {url.split('?')[0]!r} can not work: write it as ws://host:port or wss://host:port "
            "(a token goes to token=, never into the url)"
        )
    path = parts.path.rstrip("/")
    if not path.endswith(messages.PATH):
        path += messages.PATH
    return f"{parts.scheme}://{parts.netloc}{path}"


def websocket_links(*, ssl: tls.SSLContext | None = None) -> OpenLink:
    """An OpenLink over websockets. `ssl` is used for wss:// urls, instead of the system's default context."""

    async def open_link(url: str, receiver: Receiver) -> Link:
        is_encrypted = url.startswith("wss:")
        try:
            connection = await _Connect(
                endpoint(url),
                subprotocols=[Subprotocol(messages.SUBPROTOCOL)],
                compression=None,
                proxy=None if _is_loopback(url) else True,
                open_timeout=None,  # the caller holds the clock
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=messages.RELAY_FRAME_BYTES,
                ssl=(ssl or True) if is_encrypted else None,
                create_connection=_Connection,
            )
        except InvalidStatus as error:
            response = error.response
            raise LinkRefused(
                response.status_code,
                reason=response.reason_phrase,
                retry_after_s=_seconds(response.headers.get("Retry-After")),
            ) from error
        except (InvalidHandshake, InvalidURI) as error:
            raise ConnectionError(f"no WebSocket handshake: {error}") from error
        assert isinstance(connection, _Connection), "what create_connection was given"
        if connection.subprotocol != messages.SUBPROTOCOL:
            connection.transport.abort()
            raise LinkRefused(STATUS_NOT_A_RELAY, reason=f"it does not speak {messages.SUBPROTOCOL}")
        return WebsocketLink(connection, receiver)

    return open_link


class _Connect(websocket_connect):
    """Follows a redirect of the same host, as from ws to wss, and none to another.

    The library takes its own headers from a stranger, but not the token of the hello.
    """

    def process_redirect(self, exc: Exception) -> Exception | str:
        found = super().process_redirect(exc)
        if isinstance(found, str) and urlsplit(found).hostname != urlsplit(self.uri).hostname:
            return exc
        return found


class _Connection(ClientConnection):
    """Hands data to `take`, texts and the library's frames, and keeps what came before there was one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # Any: those of ClientConnection
        super().__init__(*args, **kwargs)
        self.take: Callable[[list[str] | Frame], None] | None = None
        self.early: list[list[str] | Frame] = []
        self._frames = FrameReader(limit_bytes=messages.RELAY_FRAME_BYTES)
        self._tail = b""  # of what came of the response's head
        self._is_shaken = False

    def data_received(self, data: bytes) -> None:  # hot path
        if not self._is_shaken:
            data = self._shake(data)
        for part in self._frames.feed(data):
            if isinstance(part, bytes):
                super().data_received(part)
            elif self.protocol.state is State.OPEN:
                self._hand_on(part)
            # Otherwise it came behind a close frame, or after ours, and nobody is there to read it.

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._hand_on(event)
        else:
            super().process_event(event)

    def _shake(self, data: bytes) -> bytes:
        """Hand the response to the library, and return what came behind it: no frame may be cut between the two.

        What a refusal has behind its head is the library's, too.
        """
        seen = self._tail + data
        end = seen.find(END_OF_HEAD)
        self._tail = seen[1 - len(END_OF_HEAD) :]
        behind = len(seen) - end - len(END_OF_HEAD) if end >= 0 else 0
        head, rest = data[: len(data) - behind], data[len(data) - behind :]
        super().data_received(head)
        self._is_shaken = self.protocol.state is State.OPEN
        if rest and not self._is_shaken:
            super().data_received(rest)
        return rest if self._is_shaken else b""

    def _hand_on(self, data: list[str] | Frame) -> None:
        if self.take is not None:
            self.take(data)
        else:
            self.early.append(data)


class WebsocketLink:
    """A Link over an open WebSocket; one task waits for its end, one for a peer that does not read."""

    def __init__(self, connection: _Connection, receiver: Receiver) -> None:
        self._connection = connection
        self._receiver = receiver
        self._parts: list[bytes] = []  # of a frame that comes in several
        self._is_text = True
        self._is_over = False
        self._is_writing = False
        self._waiting: asyncio.Queue[str] = asyncio.Queue(FRAMES_WAITING)
        self._reader = asyncio.create_task(self._read(), name="pgcachewatch-reader")
        self._writer = asyncio.create_task(self._write(), name="pgcachewatch-writer")
        connection.take = self._take
        early, connection.early = connection.early, []
        for data in early:
            asyncio.get_running_loop().call_soon(self._take, data)

    def send(self, text: str) -> None:
        if self._is_over:
            return
        connection = self._connection
        is_idle = not self._is_writing and self._waiting.empty()
        if is_idle and connection.protocol.state is State.OPEN and not connection.transport.get_write_buffer_size():
            connection.protocol.send_text(text.encode())
            connection.send_data()
            return
        try:
            self._waiting.put_nowait(text)
        except asyncio.QueueFull:
            self._receiver.lost(LinkLost(None, f"{FRAMES_WAITING} frames wait for a relay that does not read"))
            self.abort()

    def abort(self) -> None:
        self._is_over = True
        self._reader.cancel()
        self._writer.cancel()
        self._connection.transport.abort()

    async def close(self, code: int, reason: str) -> None:
        self._is_over = True
        self._reader.cancel()
        self._writer.cancel()
        await self._connection.close(code, reason)

    def _take(self, data: list[str] | Frame) -> None:  # hot path
        if self._is_over:
            return
        if isinstance(data, list):
            self._receiver.receive_many(data)
        else:
            self._take_frame(data)

    def _take_frame(self, frame: Frame) -> None:
        """One that is not plain."""
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        data = bytes(frame.data)
        if self._parts or not frame.fin:
            # The library has checked order and size.
            self._parts.append(data)
            if not frame.fin:
                return
            data, self._parts = b"".join(self._parts), []
        try:
            self._receiver.receive(data.decode() if self._is_text else data)
        except UnicodeDecodeError:
            self._receiver.receive(data)  # as what it is: bytes, which the session refuses

    async def _read(self) -> None:
        await self._connection.wait_closed()
        error = self._connection.protocol.close_exc
        closed = error.rcvd
        self._receiver.lost(LinkLost(closed.code, closed.reason) if closed else LinkLost(None, str(error)))

    async def _write(self) -> None:
        try:
            while True:
                text = await self._waiting.get()
                self._is_writing = True
                await self._connection.send(text)
                self._is_writing = False
        except ConnectionClosed:
            pass  # the reader tells, with the code


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _seconds(retry_after: str | None) -> float:
    """Retry-After in seconds. Its other form, a date, is a wall clock's and is not used."""
    return float(retry_after) if retry_after is not None and retry_after.isascii() and retry_after.isdigit() else 0.0
