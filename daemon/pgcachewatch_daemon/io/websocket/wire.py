"""What the parts of this shell share: limits, counts, and the application's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pgcachewatch_daemon.io.websocket.connection import Connection


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
    tls_failures: int = 0
    tls_not_after_s: float = 0.0  # of the certificate in use, in seconds since 1970; 0 without TLS


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
