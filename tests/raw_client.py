"""A relay in the test's own process, and a client of it that keeps the chain and nothing else.

The client speaks JSON over a socket and asserts, at each `ev` and `mark`, that it follows its predecessor: a test that
uses it checks the chain without saying so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, Protocol, Self

import asyncpg
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.relay import Relay, RelayOptions
from tests.postgres import Database
from tests.waiting import LIMIT_S

CHANNEL = "ch_pgcachewatch_table_change"
SOURCE = SourceOptions(heartbeat_s=0.05, idle_heartbeat_s=0.05, reconnect_min_s=0.01, reconnect_max_s=0.05)
QUIET = replace(SOURCE, heartbeat_s=3600.0, idle_heartbeat_s=3600.0)
Message = dict[str, Any]  # JSON


def options(dsn: str, source: SourceOptions = SOURCE, **changes: Any) -> RelayOptions:  # Any: RelayOptions' own
    return replace(RelayOptions(port=0, node="test", drain_jitter_s=0.0), source=replace(source, dsn=dsn), **changes)


@asynccontextmanager
async def running(relay_options: RelayOptions) -> AsyncIterator[Relay]:
    async with Relay(relay_options) as relay:
        await relay.ready()
        yield relay


class Addressed(Protocol):
    """A relay, in this process or in one of its own."""

    @property
    def url(self) -> str: ...
    @property
    def port(self) -> int: ...


class Client:
    """A client of /v1/ws that keeps the chain and nothing else."""

    def __init__(self, relay: Addressed, **extra: Any) -> None:  # Any: options of websockets' connect
        subprotocols = [Subprotocol("pgcachewatch.v1")]
        self._connection = connect(relay.url + "/v1/ws", subprotocols=subprotocols, proxy=None, **extra)
        self.socket: ClientConnection
        self.epoch = ""
        self.cursor = 0
        self.seen: list[Message] = []

    async def __aenter__(self) -> Self:
        self.socket = await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, error, trace)

    async def say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def hello(self, *subs: Message, resume: Message | None = None) -> Message:
        optional = {"resume": resume} if resume else {}
        await self.say(t="hello", v=1, subs=list(subs) or [{"t": "sub", "id": 1}], **optional)
        return await self.until("welcome")

    async def take(self) -> Message:
        """The next message, as it came."""
        message: Message = json.loads(await self.socket.recv())
        return message

    async def next(self) -> Message:
        message = await self.take()
        self.seen.append(message)
        match message["t"]:
            case "welcome":
                self.epoch = message["e"]
                if not message["resumed"]:
                    self.cursor = message["s"]
            case "reset":
                self.epoch, self.cursor = message["e"], message["s"]
            case "ev" | "mark":
                assert message["p"] == self.cursor, f"the chain broke at {message}, cursor {self.cursor}"
                self.cursor = message["s"]
        return message

    async def until(self, kind: str, **fields: Any) -> Message:
        async with asyncio.timeout(LIMIT_S):
            while True:
                message = await self.next()
                if message["t"] == kind and all(message.get(name) == value for name, value in fields.items()):
                    return message

    async def close_code(self) -> int:
        await self.socket.wait_closed()
        close = self.socket.protocol.close_rcvd
        assert close is not None, "closed without a close frame"
        return close.code


def legacy_connect(url: str, **extra: Any) -> Any:  # Any: the class of a module that is deprecated and untyped
    """The client of published programs (websockets up to 13), as far as the installed version still has it."""
    from websockets.legacy.client import connect as connect_to

    return connect_to(url, **extra)


def payload(table: str = "users", *keys: str, operation: str = "update") -> str:
    event: Message = {"operation": operation, "table": table, "sent_at": "2030-01-01T00:00:00Z", "schema": "public"}
    return json.dumps(event | ({"keys": list(keys)} if keys else {}))


async def notify(database: Database, text: str, channel: str = CHANNEL) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute("SELECT pg_notify($1, $2)", channel, text)
    finally:
        await connection.close()


async def kill_listener(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'pgcachewatch relay' AND datname = current_database()"
        )
    finally:
        await connection.close()


def http_client() -> httpx.AsyncClient:
    """Of no proxy, and with a patience that says nothing about speed: httpx's own is 5 seconds."""
    return httpx.AsyncClient(trust_env=False, timeout=LIMIT_S)


async def get(relay: Addressed, path: str, method: str = "GET", accept: str = "*/*") -> httpx.Response:
    async with http_client() as client:
        return await client.request(method, f"http://127.0.0.1:{relay.port}{path}", headers={"Accept": accept})


async def refused(url: str, **extra: Any) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, proxy=None, **extra)
    return caught.value.response.status_code
