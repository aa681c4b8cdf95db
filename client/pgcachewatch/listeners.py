"""Listeners: where events enter on the original's paths, straight from PostgreSQL or over a relay.

What arrives flushes caches first and is queued afterwards; see aio/queue.py. When the connection ends, `get()` first
gives what is left. After that it returns None if this program closed the connection, and raises ConnectionFailed if it
was lost. Either way every cache is flushed, and its function runs for each call from then on.

A connection can not prove that it hears everything: one that went silent without closing looks healthy. A relay of this
package can. With PGCACHEWATCH_URL=ws://host:port in the environment a PGEventQueue reads from that relay, instead of
listening on the connection it is given; a relay that needs a token is shown PGCACHEWATCH_TOKEN. A WSEventQueue whose
relay announces the protocol (W-PLAIN-5) opens a second connection to it: caches go by that one, while the queue goes on
giving each payload of the first. Both are then healthy only while freshness is proven, and live no longer than the
connection they were given.

With PGCACHEWATCH_CONSUMER=name and PGCACHEWATCH_CONSUMER_TABLES=users,orders beside it, `get()` of a PGEventQueue gives
the events of that durable consumer: each at least once, acknowledged by the next `get()`, EventsLost where some are
missing. The other ways to read the queue then give nothing; caches are flushed by every event, as ever.

Bound: that of the queue. On the path of an event: step 8, for programs on the original's paths.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pgcachewatch.aio.flight import on_loop
from pgcachewatch.aio.queue import MAX_LATENCY, EventQueue
from pgcachewatch.aio.sensor import Ending, Sensor
from pgcachewatch.errors import Closed, ConfigurationError, ConnectionFailed, PGCacheWatchError
from pgcachewatch.logconfig import logger
from pgcachewatch.models import DEFAULT_PG_CHANNEL, Event, Gap, PGChannel
from pgcachewatch.protocol import messages
from pgcachewatch.strategies import EventQueueProtocol

if TYPE_CHECKING:
    from ssl import SSLContext

    from asyncpg import Connection
    from asyncpg.pool import PoolConnectionProxy
    from websockets.asyncio.client import ClientConnection

    from pgcachewatch.aio.client import Client
    from pgcachewatch.aio.consuming import ConsumerStream

__all__ = ["EventQueue", "EventQueueProtocol", "PGEventQueue", "WSEventQueue"]

RELAY_TIMEOUT_S = 10.0
PROOF_TIMEOUT_S = 3.0  # of a second connection, without which a listener can do
RELAY_VARIABLE = "PGCACHEWATCH_URL"
TOKEN_VARIABLE = "PGCACHEWATCH_TOKEN"  # where that relay needs one
CONSUMER_VARIABLE = "PGCACHEWATCH_CONSUMER"
TABLES_VARIABLE = "PGCACHEWATCH_CONSUMER_TABLES"  # separated by commas
OPEN = 1  # websockets.protocol.State.OPEN, which is an IntEnum
CLOSE_CODES = (1000, 1001)  # what a program closes with; a keepalive that failed uses another code


class _Listener(EventQueue):
    """What both have in common: the client of a relay, if there is one, that proves what is fresh."""

    def __init__(self, max_size: int = 0, max_latency: datetime.timedelta = MAX_LATENCY) -> None:
        super().__init__(max_size, max_latency)
        self._relay: Client | None = None
        self._leave_relay: Callable[[], object] | None = None

    def observe(self, event: object, now_s: float) -> None:
        """What the relay's client hears."""
        raise NotImplementedError

    def end(self, lost: ConnectionFailed | None) -> None:
        super().end(lost)
        if self._leave_relay is not None:
            self._leave_relay()

    async def _hear(
        self,
        url: str,
        channel: PGChannel,
        *,
        timeout_s: float = RELAY_TIMEOUT_S,
        token: str | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        from pgcachewatch.aio.connecting import connect

        client = await connect(
            url, token=token, ssl=ssl, channels=[channel], open_timeout=timeout_s, name=type(self).__name__
        )
        try:
            client.attach(self)
            await client.wait_live(timeout=timeout_s)
        except BaseException:
            await client.aclose()
            raise
        self._relay = client
        # Called once: when the listener ends, or when nobody holds it any more.
        self._leave_relay = leave = weakref.finalize(self, _close, client, asyncio.get_running_loop())
        leave.atexit = False


class PGEventQueue(_Listener):
    """Events of a PostgreSQL database, over a connection of asyncpg that is the caller's.

    It is unhealthy from the moment that the connection is closed, lost, released to its pool or told to stop listening.
    """

    def __init__(self, max_size: int = 0, max_latency: datetime.timedelta = MAX_LATENCY) -> None:
        super().__init__(max_size, max_latency)
        self._sensor: Sensor | None = None
        self._events: ConsumerStream | None = None

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
                await self._hear(url, channel, token=os.environ.get(TOKEN_VARIABLE) or None)
                await self._take_part()
            else:
                await connection.add_listener(channel, inlet)
        except BaseException:
            self.channel = None
            raise
        self._sensor = Sensor(connection, channel, self._ended)
        if not url:
            self._sensor.feel(inlet)

    def connection_healthy(self) -> bool:  # hot path
        """True while events are certain to arrive, as far as the connection can tell."""
        sensor = self._sensor
        if sensor is None or self.has_ended or not sensor.is_open:
            return False
        return self._relay is None or self._relay.connection_healthy()

    async def get(self) -> Event | None:
        if self._events is None:
            return await super().get()
        try:
            return await anext(self._events)
        except (StopAsyncIteration, Closed):
            return await super().get()

    def observe(self, event: object, now_s: float) -> None:
        if self._events is not None:
            self.tell(event)
        elif self._sensor is not None:
            self.arrive(event)

    async def _take_part(self) -> None:
        name = os.environ.get(CONSUMER_VARIABLE)
        if not name or self._relay is None:
            return
        tables = [one.strip() for one in os.environ.get(TABLES_VARIABLE, "").split(",") if one.strip()]
        if not tables:
            raise ConfigurationError(f"{CONSUMER_VARIABLE}={name} can not work without tables: set {TABLES_VARIABLE}")
        stream = self._relay.events(*tables, consumer=name)
        stream.tells_gaps_once = True
        self._events = await stream.__aenter__()

    def _notified(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self.receive(payload if isinstance(payload, str) else str(payload))

    def _ended(self, how: Ending) -> None:
        if how == "deaf" and self._relay is not None:
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


class WSEventQueue(_Listener):
    """Events over the plain path of a relay: `await websockets.connect("ws://host:port/pgpubsub/channel")`."""

    def __init__(self, max_size: int = 0, max_latency: datetime.timedelta = MAX_LATENCY) -> None:
        super().__init__(max_size, max_latency)
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, ws: ClientConnection, channel: PGChannel = DEFAULT_PG_CHANNEL) -> None:
        """Read from `ws`, which must not be read by anybody else. Raises RuntimeError on a second call."""
        self.begin(channel)
        origin = _origin(ws)
        if origin is not None:
            await self._try_to_hear(ws, origin, channel)
        self._connection = ws
        self._reader = asyncio.get_running_loop().create_task(self._read(ws), name=f"listener of {channel}")

    def connection_healthy(self) -> bool:  # hot path
        """True while the WebSocket is open and, where the relay can prove it, what was heard is fresh."""
        connection = self._connection
        if connection is None or self.has_ended or connection.state != OPEN:
            return False
        return self._relay is None or self._relay.connection_healthy()

    def observe(self, event: object, now_s: float) -> None:
        self.tell(event)

    def heard(self, item: Event | Gap) -> None:
        if self._relay is None:
            self.arrive(item)
        else:
            self.keep(item)

    async def _try_to_hear(self, ws: ClientConnection, origin: str, channel: PGChannel) -> None:
        """Without the second connection a listener is what it was in the original: open or not."""
        encrypted = ws.transport.get_extra_info("ssl_object")
        kind, _, token = (ws.request.headers.get("Authorization", "") if ws.request else "").partition(" ")
        try:
            await self._hear(
                origin,
                channel,
                timeout_s=PROOF_TIMEOUT_S,
                token=token if kind.lower() == "bearer" else None,
                ssl=encrypted.context if encrypted else None,
            )
        except PGCacheWatchError as error:
            logger.warning("the listener for %r goes on without proof of freshness: %s", channel, error)
        except BaseException:
            self.channel = None
            raise

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


def _close(client: Client, loop: asyncio.AbstractEventLoop) -> None:
    """Close from any thread. The client's own task, which the loop holds, keeps the one that closes it."""
    on_loop(loop, lambda: loop.create_task(client.aclose()))


def _closed_here(closed: Any) -> bool:  # Any: ConnectionClosed, which is imported only when there is a WebSocket
    """True when this side began to close."""
    if closed.sent is None or closed.rcvd_then_sent:
        return False
    return closed.rcvd is not None or closed.sent.code in CLOSE_CODES


def _origin(ws: ClientConnection) -> str | None:
    """Where the relay of `ws` speaks the protocol; None when it does not say that it does."""
    request, response = ws.request, ws.response
    if request is None or response is None:
        return None
    prefix, is_plain, _ = request.path.partition(messages.PLAIN_PATH_PREFIX)
    if not is_plain or messages.SUBPROTOCOL not in response.headers.get_all(messages.PROTOCOL_HEADER):
        return None
    scheme = "ws" if ws.transport.get_extra_info("ssl_object") is None else "wss"
    return f"{scheme}://{request.headers['Host']}{prefix}"
