"""Step 7 of an event's path: HTTP and WebSocket on one port. See `connection` for what it promises."""

from pgcachewatch_daemon.io.websocket.certificates import TlsOptions
from pgcachewatch_daemon.io.websocket.connection import Connection
from pgcachewatch_daemon.io.websocket.frames import text_frame
from pgcachewatch_daemon.io.websocket.server import WebSocketServer
from pgcachewatch_daemon.io.websocket.wire import (
    Application,
    HttpRequest,
    SocketLimits,
    SocketStats,
)

__all__ = [
    "Application",
    "Connection",
    "HttpRequest",
    "SocketLimits",
    "SocketStats",
    "TlsOptions",
    "WebSocketServer",
    "text_frame",
]
