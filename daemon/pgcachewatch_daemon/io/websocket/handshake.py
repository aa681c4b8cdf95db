"""The HTTP that a connection begins with: the websockets library reads the request and judges it as a handshake.

A Handshake is fed what the socket gave and returns the request, or the answer to what is none. It holds no socket, and
is dropped with all that the library keeps for it once the upgrade is done: a frame costs an object of its own far less.

Invariants. The library sees the request and nothing behind it; what came with it is `rest`, for who reads frames. No
input raises. Bounds: the library's, 8 KiB a line and 128 headers, and HEAD_BYTES in all, since what one may send is
kept for each socket that has not finished; beyond them the answer is 414 or 431.
"""

from __future__ import annotations

import http
import logging
from collections.abc import Collection, Mapping, Sequence

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter, Subprotocol

METHOD_BYTES = 16  # enough of a request line to see its method when the rest can not be parsed
HTTP_METHODS = (b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"CONNECT", b"TRACE")
HEAD_BYTES = 32_768
END = b"\r\n\r\n"


class Handshake:
    """One request and its answer. `logger` is the library's.

    >>> handshake = Handshake(logging.getLogger("websockets"))
    >>> handshake.feed(b"GET /readyz HTTP/1.1\\r\\nHost: x\\r")
    >>> handshake.feed(b"\\n\\r\\nmore").path, handshake.rest
    ('/readyz', b'more')
    """

    __slots__ = ("_accepted", "_end", "_first_bytes", "_protocol", "_request", "_size_bytes", "rest")

    def __init__(self, logger: logging.Logger) -> None:
        self._protocol = _Protocol(logger=logger)
        self._first_bytes = b""
        self._size_bytes = 0
        self._end = b""  # of what was fed, as far as it may begin the empty line
        self._request: Request | None = None
        self._accepted: Response | None = None
        self.rest = b""

    @property
    def has_begun(self) -> bool:
        return bool(self._first_bytes)

    def feed(self, data: bytes) -> Request | Response | None:
        """The request, or the answer to what is none; None while there is more to come. Not to be fed after either."""
        self._first_bytes += data[: METHOD_BYTES - len(self._first_bytes)]
        seen = self._end + data
        found = seen.find(END)
        if found >= 0:
            # A frame behind the request is none of the library's: it would read it before anybody upgraded.
            length = found + len(END) - len(self._end)
            data, self.rest = data[:length], data[length:]
        self._end = seen[1 - len(END) :]
        self._size_bytes += len(data)
        if self._size_bytes > HEAD_BYTES:
            return self.answer(431, {}, f"a request has at most {HEAD_BYTES} bytes of headers\n".encode())
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._request = event
                return event
        return None if self._protocol.handshake_exc is None else self._refusal()

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> Response:
        """An answer that ends the connection. To a HEAD request it has the headers only."""
        fields = Headers({"Connection": "close", "Content-Length": str(len(body)), **headers})
        is_head = self._request is not None and self._request.method == "HEAD"
        return Response(status, http.HTTPStatus(status).phrase, fields, b"" if is_head else body)

    def accept(self, subprotocol: str | None, windows: Collection[int] = ()) -> Response:
        """101 when the request is a sound WebSocket handshake; otherwise the refusal, 400, 405, 426 or 505.

        `windows`: the sizes, in bits, that messages can be compressed with, each message by itself and in both
        directions; what else a client offers is declined.
        """
        assert self._request is not None, "there is no request yet"
        if subprotocol is not None:
            self._protocol.available_subprotocols = [Subprotocol(subprotocol)]
        if windows:
            self._protocol.available_extensions = [_Deflate(windows)]
        response = self._protocol.accept(self._request)
        if response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._accepted = response
        return response

    @property
    def window_bits(self) -> int:
        """What `accept` agreed upon for messages to the client; 0 when nothing is compressed."""
        agreed = self._protocol.extensions
        return next((each.local_max_window_bits for each in agreed if isinstance(each, PerMessageDeflate)), 0)

    def complete(self, headers: Mapping[str, str]) -> bytes:
        """The bytes of the 101 that `accept` gave, with `headers` in it; empty when it gave none."""
        if self._accepted is None:
            return b""
        self._accepted.headers.update(headers)
        answer = self._accepted.serialize()
        # The library's parser holds the protocol it belongs to: ended here, both go at once, and not with the garbage.
        self._protocol.parser.close()
        return answer

    def _refusal(self) -> Response:
        """The answer that the library made to what it could not parse, or the one it did not make."""
        if self._protocol.sent is not None:
            return self._protocol.sent
        if self._first_bytes.partition(b" ")[0] in HTTP_METHODS:
            return self.answer(405, {"Allow": "GET, HEAD"}, b"this server answers GET and HEAD; a body is not read\n")
        return self.answer(400, {}, b"this is not an HTTP/1.1 request this server can read\n")


class _Protocol(ServerProtocol):
    """The library's, with one subprotocol or none, which remembers the answer it made by itself."""

    sent: Response | None = None

    def send_response(self, response: Response) -> None:
        self.sent = response
        super().send_response(response)

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        if not self.available_subprotocols:
            return None
        wanted = self.available_subprotocols[0]
        if wanted in subprotocols:
            return wanted
        raise NegotiationError(f"offer the subprotocol {wanted!r}, not {', '.join(subprotocols) or 'none'}")


class _Deflate(ServerPerMessageDeflateFactory):
    """Compression without a context, so that one compressed message serves many clients (RFC 7692 section 7.1.1)."""

    def __init__(self, windows: Collection[int]) -> None:
        super().__init__(server_no_context_takeover=True, client_no_context_takeover=True)
        self._windows = windows

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        answer, agreed = super().process_request_params(params, accepted_extensions)
        if agreed.local_max_window_bits not in self._windows:
            raise NegotiationError(f"no window of {agreed.local_max_window_bits} bits")  # the library declines by it
        return answer, agreed
