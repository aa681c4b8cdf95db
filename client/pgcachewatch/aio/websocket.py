"""A Link over the network: one WebSocket to `/v1/ws`.

Compression is off: frames are small, and CPU is what a cache wants to save. WebSocket keepalive is off: the session
asks for signs of life itself, and judges by what the lease needs. Waiting for the peer happens in the writer task only.

Bounds: FRAMES_WAITING for a relay that does not read, then the link is aborted, as nothing sent would arrive; the
protocol's frame limit; CLOSE_TIMEOUT_S for a closing handshake.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl as tls
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from pgcachewatch.aio.connection import Link, LinkLost, LinkRefused, OpenLink, Receiver
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol import messages

FRAMES_WAITING = 4_096
CLOSE_TIMEOUT_S = 0.25
STATUS_NOT_A_RELAY = 400


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
            connection = await websocket_connect(
                endpoint(url),
                subprotocols=[Subprotocol(messages.SUBPROTOCOL)],
                compression=None,
                proxy=None if _is_loopback(url) else True,
                open_timeout=None,  # the caller holds the clock
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=messages.RELAY_FRAME_BYTES,
                ssl=(ssl or True) if is_encrypted else None,
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
        if connection.subprotocol != messages.SUBPROTOCOL:
            connection.transport.abort()
            raise LinkRefused(STATUS_NOT_A_RELAY, reason=f"it does not speak {messages.SUBPROTOCOL}")
        return WebsocketLink(connection, receiver)

    return open_link


class WebsocketLink:
    """A Link over an open WebSocket; two tasks, one for each direction."""

    def __init__(self, connection: ClientConnection, receiver: Receiver) -> None:
        self._connection = connection
        self._receiver = receiver
        self._waiting: asyncio.Queue[str] = asyncio.Queue(FRAMES_WAITING)
        self._reader = asyncio.create_task(self._read(), name="pgcachewatch-reader")
        self._writer = asyncio.create_task(self._write(), name="pgcachewatch-writer")

    def send(self, text: str) -> None:
        try:
            self._waiting.put_nowait(text)
        except asyncio.QueueFull:
            self._receiver.lost(LinkLost(None, f"{FRAMES_WAITING} frames wait for a relay that does not read"))
            self.abort()

    def abort(self) -> None:
        self._reader.cancel()
        self._writer.cancel()
        self._connection.transport.abort()

    async def close(self, code: int, reason: str) -> None:
        self._reader.cancel()
        self._writer.cancel()
        await self._connection.close(code, reason)

    async def _read(self) -> None:
        receive, connection = self._receiver.receive, self._connection
        try:
            while True:
                receive(await connection.recv())
        except ConnectionClosed as error:
            closed = error.rcvd
            self._receiver.lost(LinkLost(closed.code, closed.reason) if closed else LinkLost(None, str(error)))

    async def _write(self) -> None:
        try:
            while True:
                await self._connection.send(await self._waiting.get())
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
