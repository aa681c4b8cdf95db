"""Listeners: where events enter on the original's paths, straight from PostgreSQL or over a relay.

What arrives flushes caches first and is queued afterwards; see aio/queue.py. When the connection ends, `get()` first
gives what is left. After that it returns None if this program closed the connection, and raises ConnectionFailed if it
was lost. Either way every cache is flushed, and its function runs for each call from then on.

With PGCACHEWATCH_URL=ws://host:port in the environment a PGEventQueue reads from that relay instead of listening on the
connection it is given, whose life still bounds its own. Then what it hears is proven to be fresh. A direct listener can
not do that: a server that went silent without closing looks healthy to it.

Bound: that of the queue. On the path of an event: step 8, for programs on the original's paths.
"""

from __future__ import annotations

import asyncio
import datetime
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from pgcachewatch.aio.queue import MAX_LATENCY, EventQueue
from pgcachewatch.aio.sensor import Ending, Sensor
from pgcachewatch.errors import ConnectionFailed
from pgcachewatch.logconfig import logger
from pgcachewatch.models import DEFAULT_PG_CHANNEL, PGChannel
from pgcachewatch.strategies import EventQueueProtocol

if TYPE_CHECKING:
    from asyncpg import Connection
    from asyncpg.pool import PoolConnectionProxy
    from websockets.asyncio.client import ClientConnection

    from pgcachewatch.aio.client import Client

__all__ = ["EventQueue", "EventQueueProtocol", "PGEventQueue", "WSEventQueue"]

RELAY_TIMEOUT_S = 10.0
RELAY_VARIABLE = "PGCACHEWATCH_URL"
OPEN = 1  # websockets.protocol.State.OPEN, which is an IntEnum
CLOSE_CODES = (1000, 1001)  # what a program closes with; a keepalive that failed uses another code


class PGEventQueue(EventQueue):
    """Events of a PostgreSQL database, over a connection of asyncpg that is the caller's.

    It is unhealthy from the moment that the connection is closed, lost, released to its pool or told to stop listening.
    """

    def __init__(self, max_size: int = 0, max_latency: datetime.timedelta = MAX_LATENCY) -> None:
        super().__init__(max_size, max_latency)
        self._sensor: Sensor | None = None
        self._relay: Client | None = None
        self._closing: asyncio.Task[None] | None = None

    async def connect(
        self, connection: Connection | PoolConnectionProxy, channel: PGChannel = DEFAULT_PG_CHANNEL
    ) -> None:
        """Listen to `channel`. Every event committed after this returned arrives.

        Raises RuntimeError on a second call, and what asyncpg raises when the connection can not be used.
        """
        self.begin(channel)
        url = os.environ.get(RELAY_VARIABLE)
        inlet = partial(self._notified)
        try:
            if url:
                await self._connect_relay(url, channel)
            else:
                await connection.add_listener(channel, inlet)
        except BaseException:
            self.channel = None
            raise
        self._sensor = Sensor(connection, self._ended)
        if not url:
            self._sensor.feel(inlet)

    def connection_healthy(self) -> bool:  # hot path
        """True while events are certain to arrive, as far as the connection can tell."""
        sensor = self._sensor
        if sensor is None or self.has_ended or not sensor.is_open:
            return False
        return self._relay is None or self._relay.connection_healthy()

    def observe(self, event: object, now_s: float) -> None:
        """What the relay's client hears."""
        if self._sensor is not None:
            self.arrive(event)

    async def _connect_relay(self, url: str, channel: PGChannel) -> None:
        from pgcachewatch.aio.client import connect

        client = await connect(url, channels=[channel], name="PGEventQueue")
        try:
            client.attach(self)
            await client.wait_live(timeout=RELAY_TIMEOUT_S)
        except BaseException:
            await client.aclose()
            raise
        self._relay = client

    def _notified(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self.receive(payload if isinstance(payload, str) else str(payload))

    def _ended(self, how: Ending) -> None:
        relay = self._relay
        if how == "deaf" and relay is not None:
            return
        match how:
            case "closed":
                self.end(None)
            case "lost":
                self.end(
                    ConnectionFailed(
                        f"the PostgreSQL connection of the listener for {self.channel!r} was lost; connect a new one"
                    )
                )
            case "deaf":
                self.end(
                    ConnectionFailed(
                        f"the connection was made to stop listening to {self.channel!r}, by UNLISTEN, a reset or its "
                        "release to a pool; give the listener a connection that nothing else uses"
                    )
                )
        if relay is not None and self._closing is None:
            try:
                # Kept, because the loop holds tasks weakly only.
                self._closing = asyncio.get_running_loop().create_task(relay.aclose())
            except RuntimeError:
                pass  # the loop is gone, and the client with it


class WSEventQueue(EventQueue):
    """Events over the plain path of a relay: `await websockets.connect("ws://host:port/pgpubsub/channel")`."""

    def __init__(self, max_size: int = 0, max_latency: datetime.timedelta = MAX_LATENCY) -> None:
        super().__init__(max_size, max_latency)
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, ws: ClientConnection, channel: PGChannel = DEFAULT_PG_CHANNEL) -> None:
        """Read from `ws`, which must not be read by anybody else. Raises RuntimeError on a second call."""
        self.begin(channel)
        self._connection = ws
        self._reader = asyncio.get_running_loop().create_task(self._read(ws), name=f"listener of {channel}")

    def connection_healthy(self) -> bool:  # hot path
        """True while the WebSocket is open. It says nothing about the relay's own connection to PostgreSQL."""
        connection = self._connection
        return connection is not None and not self.has_ended and connection.state == OPEN

    async def _read(self, ws: ClientConnection) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                self.receive(await ws.recv())
        except ConnectionClosed as closed:
            self.end(None if _closed_here(closed) else self._failure(str(closed)))
        except asyncio.CancelledError:
            self.end(None)
            raise
        except Exception as error:
            logger.error("reading events of %s failed", self.channel, exc_info=error)
            self.end(self._failure(repr(error)))

    def _failure(self, why: str) -> ConnectionFailed:
        return ConnectionFailed(
            f"the connection to the relay for channel {self.channel!r} was lost ({why}); connect a new listener"
        )


def _closed_here(closed: Any) -> bool:  # Any: ConnectionClosed, which is imported only when there is a WebSocket
    """True when this side began to close."""
    if closed.sent is None or closed.rcvd_then_sent:
        return False
    return closed.rcvd is not None or closed.sent.code in CLOSE_CODES
