"""A connection inside of TLS: the same Connection, whose bytes are sealed on the way out and opened on the way in.

`TlsLayer` is one connection's TLS without a socket; `SecuredConnection` runs it over its own plain transport. So a
client that is slow is full at the same moment as any other and its memory is bounded by the same rule, its handshake is
among those that are counted and timed, and who speaks plain HTTP is told so. asyncio's own TLS has none of that.

A handshake takes half a millisecond of the relay's only thread. They are done in turns (`Shared.handshake_turns`), so
that a flood of them delays itself and not the events.

Bounds. A write is taken as a whole: what the kernel does not take of it is the transport's, sealed for this client
alone. Not opened yet: one record (16 KiB); before the handshake is done, one read.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from functools import partial
from typing import Any

from websockets.frames import CloseCode

from pgcachewatch_daemon.io.websocket.connection import CLOSING, GONE, TLS_RECORD, Connection
from pgcachewatch_daemon.io.websocket.pauses import TURN
from pgcachewatch_daemon.io.websocket.shared import Shared
from pgcachewatch_daemon.lines import line_logger

READ_BYTES = 65_536

logger = line_logger(__name__)


class TlsLayer:
    """The relay's end of one TLS connection.

    `open` takes what came from the wire and returns what the client said, `seal` is the way back. What TLS itself has
    to say gathers in between: `pending` is to be written after each call, also after one that raised SSLError, which
    ends the connection.
    """

    __slots__ = ("_incoming", "_object", "_outgoing", "has_begun", "is_ended", "is_established")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.has_begun = False
        self.is_established = False
        self.is_ended = False  # the client says that it will say nothing more

    def open(self, data: bytes) -> bytes:
        """What the client said; empty while there is no whole record. Raises ssl.SSLError for what is not sound."""
        self.has_begun = True
        self._incoming.write(data)
        parts: list[bytes] = []
        try:
            if not self.is_established:
                self._object.do_handshake()
                self.is_established = True
            while part := self._object.read(READ_BYTES):
                parts.append(part)
            self.is_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seal(self, data: bytes) -> bytes:
        """The records that carry `data`, behind what TLS had to say."""
        left = memoryview(data)
        while left:
            left = left[self._object.write(left) :]  # one record at a time
        return self._outgoing.read()

    def pending(self) -> bytes:
        """What TLS has to say by itself: its part of the handshake, an alert."""
        return self._outgoing.read()

    def end(self) -> bytes:
        """Say that nothing more will come."""
        if self.is_established:
            with contextlib.suppress(ssl.SSLError):  # it wants the client's own end, for which nobody waits
                self._object.unwrap()
        return self._outgoing.read()

    @property
    def client_name(self) -> str:
        """The common name of the client's certificate, or else its first alternative name; empty without one."""
        return certificate_name(self._object.getpeercert())


class SecuredConnection(Connection):
    """One socket that speaks TLS; see Connection for everything else."""

    __slots__ = ("_client_name", "_tls")

    def __init__(self, shared: Shared, context: ssl.SSLContext) -> None:
        super().__init__(shared)
        self._tls: TlsLayer | None = TlsLayer(context)  # None: the client speaks plainly, or nothing any more
        self._client_name = ""

    @property
    def peer_certificate_name(self) -> str:
        return self._client_name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write = self._through_transport

    def connection_lost(self, exc: Exception | None) -> None:
        tls, self._tls = self._tls, None
        if tls is not None and tls.has_begun and not tls.is_established:
            self._shared.stats.tls_failures += 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        tls = self._tls
        if tls is None:
            super().data_received(data)
        elif tls.is_established:
            self._open(tls, data)
        elif tls.has_begun or data[0] == TLS_RECORD:
            self._pause(TURN)
            self._shared.handshake_turns.take(partial(self._shake, tls, data))
        else:
            self._tls = None
            logger.info("plain request on a port that speaks TLS", conn=self.number, peer=self.peer)
            self.answer(400, {}, b"this port speaks TLS: connect to wss:// or https://\n")

    def _shake(self, tls: TlsLayer, data: bytes) -> None:
        """It is this connection's turn to go on with its handshake."""
        self._resume(TURN)
        if self._stage in (CLOSING, GONE):
            return
        self._open(tls, data)

    def _open(self, tls: TlsLayer, data: bytes) -> None:
        was_established = tls.is_established
        try:
            plain = tls.open(data)
        except ssl.SSLError as error:
            self._tls_failed(tls, error.reason or type(error).__name__)
            return
        self._put_raw(tls.pending())
        if tls.is_established and not was_established:
            self._client_name = tls.client_name  # before the request, which may have come with the handshake's end
        if plain:
            super().data_received(plain)
        if tls.is_ended:
            self._half_close()
            if self._transport is not None:
                self._transport.close()

    def _tls_failed(self, tls: TlsLayer, why: str) -> None:
        self._shared.stats.tls_failures += 1
        logger.info("tls connection failed", conn=self.number, peer=self.peer, reason=why)
        self._put_raw(tls.pending())  # the alert that says why
        self._half_close()
        self._closing(CloseCode.ABNORMAL_CLOSURE)

    def _handshake_expired(self) -> None:
        if self._tls is None or self._tls.is_established:
            super()._handshake_expired()
        else:
            self.abort(0)  # there is no way yet to say why

    def _put(self, data: bytes) -> None:
        self._put_raw(data if self._tls is None else self._tls.seal(data))

    def _put_raw(self, data: bytes) -> None:
        if data and self._transport is not None and not self._transport.is_closing():
            super()._put(data)

    def _half_close(self) -> None:
        if self._tls is not None:
            self._put_raw(self._tls.end())
            self._tls = self._reader = None  # what still comes is of no interest
        super()._half_close()


def certificate_name(certificate: Any) -> str:  # Any: nested tuples that typeshed does not describe
    """
    >>> certificate_name({"subject": ((("commonName", "app"),),), "subjectAltName": (("DNS", "app.internal"),)})
    'app'
    >>> certificate_name({"subject": (), "subjectAltName": (("DNS", "app.internal"),)})
    'app.internal'
    """
    if not certificate:
        return ""
    for part in certificate.get("subject", ()):
        for kind, value in part:
            if kind == "commonName":
                return str(value)
    return next((str(value) for _, value in certificate.get("subjectAltName", ())), "")
