"""What the parts of this shell share: limits, counts, and the application's side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pgcachewatch_daemon.io.websocket.connection import Connection

# Ends that are nobody's fault: done, away, no reason given, the network, and those the relay plans.
EVERYDAY_CODES = frozenset({1000, 1001, 1005, 1006, 1012, 3000, 4000, 4104, 4200})
# Somebody may have set up a client wrongly, and who looks after the relay is who will be asked.
TOLD_REFUSALS = frozenset({401, 403})
# What a log says beside the number: never the reason of a close itself, which may repeat what was sent.
MEANINGS: Mapping[int, str] = {
    1000: "done",
    1001: "going away",
    1002: "broke the WebSocket protocol",
    1003: "unsupported data",
    1005: "gave no reason",
    1006: "connection lost",
    1007: "text that is not UTF-8",
    1008: "against a policy of the client",
    1009: "frame too big",
    1010: "missed an extension",
    1011: "internal error of the client",
    1012: "client restarts",
    3000: "a code of the client's own",
    4000: "relay drains",
    4100: "internal error of the relay",
    4101: "no hello in time",
    4102: "took no byte in time",
    4103: "stream queue full",
    4104: "PostgreSQL lost",
    4105: "too many at once",
    4106: "no pong in time",
    4200: "token expired",
    4201: "token revoked",
    4300: "broke the protocol",
    4301: "token missing or unknown",
    4303: "token does not allow it",
    4306: "subprotocol missing",
    4308: "limit exceeded",
}


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
