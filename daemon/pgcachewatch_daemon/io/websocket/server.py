"""The listening socket, and the clockwork that ends what takes too long.

One timer serves all connections: it looks at each of them at an eighth of the shortest limit, at most once a second,
so that an idle connection costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from functools import partial

from websockets.frames import CloseCode

from pgcachewatch_daemon.core.forwarding import TrustedProxies
from pgcachewatch_daemon.io.websocket.certificates import Certificates, TlsOptions
from pgcachewatch_daemon.io.websocket.connection import Connection
from pgcachewatch_daemon.io.websocket.shared import Shared
from pgcachewatch_daemon.io.websocket.tls import SecuredConnection
from pgcachewatch_daemon.io.websocket.wire import Application, SocketLimits, SocketStats
from pgcachewatch_daemon.lines import line_logger

BACKLOG = 4_096  # what most systems allow; who finds it full tries again a second later
# What the kernel holds of a client that is not read, and what one read brings at most: clients say little. Each socket
# has it from the one it was accepted from; left alone, the kernel would let it grow to megabytes.
RECEIVE_BUFFER_BYTES = 32_768  # the kernel doubles it
SWEEPS_PER_WAIT = 8  # a deadline is noticed at the latest after an eighth of the shortest wait
SWEEP_MAX_S = 1.0
INTERNAL_ERROR = 4100

WITHOUT_TLS = TlsOptions()

logger = line_logger(__name__)


class WebSocketServer:
    """The listening socket and its connections. `clock` is the relay's monotonic clock, in seconds.

    Raises ConfigurationError for TLS files that do not work, and ValueError for proxies that are no networks.
    """

    def __init__(
        self,
        application: Application,
        limits: SocketLimits,
        *,
        clock: Callable[[], float],
        stats: SocketStats | None = None,
        tls: TlsOptions = WITHOUT_TLS,
        trusted_proxies: Sequence[str] = (),
    ) -> None:
        self._shared = Shared(application, limits, clock, stats or SocketStats())
        self.prepare(tls, trusted_proxies)()
        self._servers: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self.port = 0

    @property
    def stats(self) -> SocketStats:
        return self._shared.stats

    @property
    def limits(self) -> SocketLimits:
        """Replaced while running, for all connections; the send buffer is that of new ones."""
        return self._shared.limits

    @limits.setter
    def limits(self, limits: SocketLimits) -> None:
        self._shared.limits = limits

    @property
    def connections(self) -> Collection[Connection]:
        """Every open socket, also those that only ask for /metrics."""
        return self._shared.connections

    def prepare(self, tls: TlsOptions, trusted_proxies: Sequence[str]) -> Callable[[], None]:
        """What makes new connections go by these; those that are open go on as they began.

        Raises as the constructor does, and then nothing has changed.
        """
        return partial(self._take, Certificates(tls) if tls.files else None, TrustedProxies(trusted_proxies))

    def _take(self, certificates: Certificates | None, proxies: TrustedProxies) -> None:
        self._shared.certificates, self._shared.proxies = certificates, proxies
        self.stats.tls_not_after_s = 0.0 if certificates is None else certificates.not_after_s

    async def start(self, host: str, port: int, *, reuse_port: bool = False) -> None:
        """Listen. Raises OSError when the address can not be had; `port` 0 takes a free one.

        `reuse_port`: beside other processes that do the same; the kernel gives each its part of the connections.
        """
        loop = asyncio.get_running_loop()
        # None and not False: uvloop and asyncio leave the option alone then, also where there is none.
        shared = True if reuse_port else None
        server = await loop.create_server(self._connection, host, port, backlog=BACKLOG, reuse_port=shared)
        self._began(server)

    async def start_on(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from sockets that are bound already, and that other processes may accept from too."""
        loop = asyncio.get_running_loop()
        for each in sockets:
            self._began(await loop.create_server(self._connection, sock=each, backlog=BACKLOG))

    def _connection(self) -> Connection:
        certificates = self._shared.certificates
        return (
            Connection(self._shared) if certificates is None else SecuredConnection(self._shared, certificates.context)
        )

    def _began(self, server: asyncio.Server) -> None:
        for each in server.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._servers.append(server)
        self.port = int(server.sockets[0].getsockname()[1])
        if self._sweeper is None:
            self._sweep()

    async def until_empty(self, timeout_s: float) -> bool:
        """Wait for each connection to end by itself; False when some are still there after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._shared.emptied.wait()
        except TimeoutError:
            return False
        return True

    def stop_listening(self) -> None:
        """Leave new connections to others; those there are go on."""
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Stop listening, cut what is left, and wait until each socket is closed."""
        if not self._servers:
            return
        self.stop_listening()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in tuple(self.connections):
            connection.abort(CloseCode.GOING_AWAY)
        await self._shared.emptied.wait()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()

    def _sweep(self) -> None:
        limits = self._shared.limits
        shortest_s = min(limits.handshake_s, limits.write_stall_s, limits.ping_after_s, limits.pong_s)
        now_s = self._shared.clock()
        if self._shared.certificates is not None:
            self._shared.certificates.look()
            self.stats.tls_not_after_s = self._shared.certificates.not_after_s
        for connection in tuple(self.connections):
            try:
                connection.check(now_s)
            except Exception:
                logger.exception("connection failed", conn=connection.number, peer=connection.peer)
                connection.abort(INTERNAL_ERROR)
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(min(SWEEP_MAX_S, shortest_s / SWEEPS_PER_WAIT), self._sweep)
