"""What the parts of this shell share: limits, counts, the application's side, and the protocol below a connection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from websockets.exceptions import NegotiationError
from websockets.frames import CloseCode, Frame, Opcode
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

if TYPE_CHECKING:
    from pgcachewatch_daemon.io.websocket.connection import Connection

REASON_BYTES = 120  # a close frame's reason has at most 123 bytes
FINAL_TEXT = 0x81  # RFC 6455 section 5.2: FIN and opcode 1
SHORT_BYTES = 125  # up to here the length is in the second byte


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Bounds of one connection, and of sockets that are none yet. `send_buffer_bytes` 0: the kernel's own."""

    frame_bytes: int = 65_536
    send_buffer_bytes: int = 0
    handshakes_limit: int = 1_000
    handshake_s: float = 10.0
    write_stall_s: float = 10.0
    ping_after_s: float = 20.0
    pong_s: float = 20.0
    close_s: float = 2.0


@dataclass(slots=True)
class SocketStats:
    """Plain counts, read when somebody asks for metrics."""

    writes: int = 0
    frames: int = 0
    bytes: int = 0
    write_stalls: int = 0
    refusals: Counter[int] = field(default_factory=Counter)  # by HTTP status
    disconnects: Counter[int] = field(default_factory=Counter)  # by close code
    evicted_handshakes: int = 0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What the application decides upon. `path` is as sent, `headers` have lower-case names."""

    method: str
    path: str
    headers: Mapping[str, str]
    peer: str


class Application(Protocol):
    """What the relay does with connections. Calls are synchronous; an exception ends that one connection with 4100."""

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        """Answer, upgrade, or keep the connection and do either later."""

    def received(self, connection: Connection, frame: str | bytes) -> None:
        """A whole message: text, or bytes for a binary one."""

    def expired(self, connection: Connection) -> None:
        """The deadline set with `expect_by` has passed."""

    def filled(self, connection: Connection) -> None:
        """The socket took not all of what was written: nothing more is to be written until `drained`."""

    def drained(self, connection: Connection) -> None:
        """The socket has room again: write what waited."""

    def gone(self, connection: Connection) -> None:
        """Called once for each connection that was `requested`: nothing more will be read or written."""


def text_frame(text: str) -> bytes:  # hot path
    """A text as the bytes that go on the wire: framed once, shared by all who are to get it.

    >>> text_frame("{}")
    b'\\x81\\x02{}'
    """
    data = text.encode()
    if len(data) <= SHORT_BYTES:
        return bytes((FINAL_TEXT, len(data))) + data  # as the library does it, at a fifth of the cost
    return Frame(Opcode.TEXT, data).serialize(mask=False)


class WireProtocol(ServerProtocol):
    """The library's protocol, with one subprotocol or none, and a close of our own for an oversized frame."""

    too_big: tuple[int, str] | None = None

    def fail(self, code: CloseCode | int, reason: str = "") -> None:
        if code == CloseCode.MESSAGE_TOO_BIG and self.too_big is not None:
            code, reason = self.too_big
        super().fail(code, shorten(reason))

    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        if not self.available_subprotocols:
            return None
        wanted = self.available_subprotocols[0]
        if wanted in subprotocols:
            return wanted
        raise NegotiationError(f"offer the subprotocol {wanted!r}, not {', '.join(subprotocols) or 'none'}")


def shorten(reason: str) -> str:
    return reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")
