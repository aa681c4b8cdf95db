"""`connect`: from what a program says of relays to a client that is welcomed by one.

    async with pgcachewatch.connect("ws://127.0.0.1:8420") as client: ...

What can not work is refused at once, before anything is opened. Bound: `open_timeout` for the first welcome, each relay
with a share of it.
"""

from __future__ import annotations

import datetime
import random
import ssl as tls
import time
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any, get_args

from pgcachewatch.aio.caching import OnDisconnect, check
from pgcachewatch.aio.client import Client
from pgcachewatch.aio.connection import Connection, ConnectionSettings, OpenLink
from pgcachewatch.aio.renewal import Token
from pgcachewatch.aio.watch import Watch
from pgcachewatch.aio.websocket import endpoint, websocket_links
from pgcachewatch.core.backoff import Backoff
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch.protocol import messages

DEFAULT_STALENESS_S = 2.0
DEFAULT_OPEN_TIMEOUT_S = 10.0
DEFAULT_EVENT_BUFFER = 10_000
ATTEMPT_TIMEOUT_S = 5.0  # of one attempt to connect, to the welcome
ATTEMPT_TIMEOUT_LEAST_S = 0.5


def connect(
    url: str | Sequence[str],
    *,
    token: Token | None = None,
    ssl: tls.SSLContext | None = None,
    channels: Sequence[str] = (DEFAULT_PG_CHANNEL,),
    staleness: float | datetime.timedelta = DEFAULT_STALENESS_S,
    on_disconnect: OnDisconnect = "share",
    event_buffer: int = DEFAULT_EVENT_BUFFER,
    open_timeout: float = DEFAULT_OPEN_TIMEOUT_S,
    reconnect: Backoff | None = None,
    name: str | None = None,
) -> Connecting:
    """Connect to a relay: `async with connect(url) as client`, or `client = await connect(url)` and later `aclose()`.

    `url` is `ws://host:port` or `wss://`, or several relays of one database, of which the first that answers is used.
    `token` is sent in the hello. A function, or a coroutine function, is asked for one before each connection, and for
    the next one before the relay ends the old, which costs no entry of a cache; a plain function runs in a thread.
    `staleness` is the bound of every hit, in seconds: one that can not be proven that fresh does as `on_disconnect`
    says. "share": run the function, one run for all who call it at the same time; "bypass": a run for each call;
    "stale": serve what is there; "raise": NotFresh.
    `open_timeout` bounds the wait for the first welcome; 0 does not wait, and the client starts cold.

    Raises ConfigurationError at once for arguments that can not work, ConnectionFailed when no relay welcomed the
    client in time, Refused when each refused for good.
    """
    urls = [url] if isinstance(url, str) else list(url)
    for one in urls:
        endpoint(one)
    return connect_over(
        urls,
        open_link=websocket_links(ssl=ssl),
        token=token,
        channels=channels,
        staleness=staleness,
        on_disconnect=on_disconnect,
        event_buffer=event_buffer,
        open_timeout=open_timeout,
        reconnect=reconnect,
        name=name,
    )


def connect_over(
    urls: Sequence[str],
    *,
    open_link: OpenLink,
    clock: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
    token: Token | None = None,
    channels: Sequence[str] = (DEFAULT_PG_CHANNEL,),
    staleness: float | datetime.timedelta = DEFAULT_STALENESS_S,
    on_disconnect: OnDisconnect = "share",
    event_buffer: int = DEFAULT_EVENT_BUFFER,
    open_timeout: float = DEFAULT_OPEN_TIMEOUT_S,
    reconnect: Backoff | None = None,
    name: str | None = None,
) -> Connecting:
    """As `connect`, over any transport and with any clock: for tests and simulations."""
    staleness_s = staleness.total_seconds() if isinstance(staleness, datetime.timedelta) else float(staleness)
    check(bool(urls), "url", urls, "give at least one relay")
    check(0 < staleness_s < float("inf"), "staleness", staleness, "give seconds above 0")
    check(
        on_disconnect in get_args(OnDisconnect), "on_disconnect", on_disconnect, f"use one of {get_args(OnDisconnect)}"
    )
    check(event_buffer >= 1, "event_buffer", event_buffer, "give the number of events to keep, 1 or more")
    check(open_timeout >= 0, "open_timeout", open_timeout, "give seconds, or 0 to start without waiting")
    check(not isinstance(channels, str) and bool(channels), "channels", channels, "give a sequence of channel names")
    if name is not None:
        check(len(name) <= messages.NAME_LENGTH, "name", name, f"use at most {messages.NAME_LENGTH} characters")
    share_s = open_timeout / len(urls) or ATTEMPT_TIMEOUT_S  # so that each relay has its turn before time runs out
    settings = ConnectionSettings(
        urls=tuple(urls),
        staleness_s=staleness_s,
        attempt_timeout_s=min(ATTEMPT_TIMEOUT_S, max(ATTEMPT_TIMEOUT_LEAST_S, share_s)),
        backoff=reconnect or Backoff(),
        token=token,
        name=name,
    )

    def build() -> Client:
        watch = Watch(staleness_s=staleness_s, clock=clock)
        connection = Connection(settings, watch, open_link=open_link, clock=clock, chance=chance)
        watch.attach(connection)
        return Client(
            watch,
            connection,
            clock=clock,
            channels=tuple(channels),
            on_disconnect=on_disconnect,
            event_buffer=event_buffer,
        )

    return Connecting(build, open_timeout)


class Connecting:
    """What `connect` returns: await it, or enter it with `async with`. Once."""

    def __init__(self, build: Callable[[], Client], open_timeout_s: float) -> None:
        self._build = build
        self._open_timeout_s = open_timeout_s
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:  # Any: what a coroutine yields to the loop
        return self._open().__await__()

    async def __aenter__(self) -> Client:
        return await self._open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _open(self) -> Client:
        if self._client is not None:
            raise ConfigurationError("connect(...) was used twice; call it again for a second client")
        client = self._client = self._build()
        await client.open(timeout_s=self._open_timeout_s)
        return client
