"""Compression that is shared: agreed upon in the handshake, and nobody is told anything else because of it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from pgcachewatch_daemon.relay import Relay
from tests.postgres import Database
from tests.raw_client import Client, Message, notify, options, payload, running

KEYS = [f"a key of some length, number {number}" for number in range(50)]


class ArrayClient(Client):
    """A Client that takes arrays, as PROTOCOL.md wants it (W-FRAME-1), and knows what came in one frame."""

    def __init__(self, relay: Relay, **offer: Any) -> None:  # Any: options of the library's factory
        super().__init__(relay, compression=None, extensions=[ClientPerMessageDeflateFactory(**offer)])
        self.frames: list[int] = []
        self._waiting: deque[Message] = deque()

    @property
    def agreed(self) -> str | None:
        assert self.socket.response is not None
        return self.socket.response.headers.get("Sec-WebSocket-Extensions")

    async def take(self) -> Message:
        while not self._waiting:
            content = json.loads(await self.socket.recv())
            messages = content if isinstance(content, list) else [content]
            self.frames.append(len(messages))
            self._waiting.extend(messages)
        return self._waiting.popleft()


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[Relay]:
    async with running(options(database.dsn, compression="shared")) as relay:
        yield relay


async def test_a_client_that_offers_compression_is_told_the_same_as_one_that_does_not(
    relay: Relay, database: Database
) -> None:
    async with ArrayClient(relay) as deflated, Client(relay, compression=None) as plain:
        assert deflated.agreed is not None
        assert {each.strip() for each in deflated.agreed.split(";")} == {
            "permessage-deflate",
            "server_no_context_takeover",
            "client_no_context_takeover",
        }
        for client in (deflated, plain):
            await client.hello()
            await client.until("subok")
        await notify(database, payload("users", *KEYS))
        told, same = await deflated.until("ev"), await plain.until("ev")
        assert told["i"] == same["i"]
        assert [item[2] for item in told["i"]] == KEYS
        await deflated.say(t="barrier", id=7)
        await deflated.until("barrierok", id=7)
    assert max(deflated.frames) > 1, "what was written in one go came as one array"


async def test_an_event_goes_out_compressed(relay: Relay, database: Database) -> None:
    async with ArrayClient(relay) as client:
        await client.hello()
        await client.until("mark")
        before_bytes = relay._socket_stats.bytes
        await notify(database, payload("users", *KEYS))
        event = await client.until("ev")
        assert relay._socket_stats.bytes - before_bytes < len(json.dumps(event)) / 3


async def test_a_client_that_wants_a_smaller_window_is_told_without_compression(relay: Relay) -> None:
    async with ArrayClient(relay, server_max_window_bits=10) as client:
        assert client.agreed is None
        await client.hello()
        await client.until("mark")


@pytest.mark.rule("W-LIMIT-1")
async def test_a_bomb_closes_4308(relay: Relay) -> None:
    async with ArrayClient(relay) as client:
        assert client.agreed is not None
        async with asyncio.timeout(10):
            await client.socket.send(" " * 30_000_000)
            assert await client.close_code() == 4308


async def test_a_relay_that_was_not_told_to_compress_declines(database: Database) -> None:
    async with running(options(database.dsn)) as relay, ArrayClient(relay) as client:
        assert client.agreed is None
        await client.hello()


async def test_the_plain_path_is_never_compressed(relay: Relay) -> None:
    async with connect(f"{relay.url}/pgpubsub/c1", compression="deflate", proxy=None) as client:
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers
