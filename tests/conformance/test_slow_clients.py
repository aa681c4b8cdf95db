"""Clients that do not read: what they cost, how they end, and that they come back without a loss."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.conformance.neighbour import Neighbour
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, Message, payload
from tests.relay_process import RelayProcess
from tests.waiting import eventually

EVENTS = 500
LONG_KEY = "k" * 500


def relay_of(database: Database, **settings: str) -> RelayProcess:
    """One whose kernel and transport hold next to nothing for a client."""
    small = {"send_buffer_bytes": "16384", "heartbeat_s": "0.05"}
    return RelayProcess(database.dsn, port=0, **small, **settings)


@asynccontextmanager
async def one_that_does_not_read(relay: RelayProcess, **sub: Any) -> AsyncIterator[Client]:
    """Welcomed, and then asleep until `wake`; its kernel holds next to nothing for it."""
    own = socket.socket()
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    own.setblocking(False)
    await asyncio.get_running_loop().sock_connect(own, ("127.0.0.1", relay.port))
    async with Client(relay, sock=own, max_queue=1) as client:
        await client.hello({"t": "sub", "id": 1, "table": "users", **sub})
        await client.until("mark")
        client.socket.transport.pause_reading()
        yield client
        client.socket.transport.abort()  # asleep it would not see its own close


def wake(client: Client) -> None:
    client.socket.transport.resume_reading()


async def change_many(database: Database) -> list[str]:
    """Keys of the events, in order."""
    keys = [f"{number}-{LONG_KEY}" for number in range(EVENTS)]
    connection = await database.connect()
    await connection.executemany("SELECT pg_notify($1, $2)", [(CHANNEL, payload("users", key)) for key in keys])
    return keys


def figure(relay: RelayProcess, name: str) -> float:
    lines = relay.get("/metrics")[1].splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"pgcachewatch_{name}")), 0.0)


@pytest.mark.rule("W-SLOW-3")
async def test_a_client_that_takes_no_byte_is_cut_4102_and_its_neighbour_hears_all(database: Database) -> None:
    with relay_of(database, write_stall_s="0.3") as relay:
        async with Neighbour(relay, database) as neighbour, Client(relay) as reading:
            await neighbour.settle()
            await reading.hello({"t": "sub", "id": 1, "table": "users"})
            async with one_that_does_not_read(relay):
                for key in await change_many(database):
                    await reading.until("ev", i=[[1, "u", key]])
                await eventually(lambda: figure(relay, 'disconnects_total{code="4102"}') == 1)
                await neighbour.still_hears()


@pytest.mark.rule("W-SLOW-1")
async def test_a_slow_client_is_told_of_each_change_by_key_or_as_a_whole(database: Database) -> None:
    with relay_of(database, outbox_bytes="16384") as relay:
        async with Neighbour(relay, database) as neighbour, one_that_does_not_read(relay) as slow:
            await neighbour.settle()
            keys = await change_many(database)
            await neighbour.still_hears()
            wake(slow)
            await slow.say(t="barrier", id=1)
            await slow.until("barrierok", id=1)
            items = [item for message in slow.seen if message["t"] == "ev" for item in message["i"]]
            assert len(items) < EVENTS, "it was slow"
            assert [1, "*", None] in items or {key for _, _, key in items} == set(keys)


@pytest.mark.rule("W-SLOW-2")
async def test_a_slow_stream_is_closed_4103_and_resumes_without_a_loss(database: Database) -> None:
    # The events are 328 kB. Kernel (48), one write (half an outbox) and an outbox must not hold them all, and two
    # outboxes must hold what was missed.
    with relay_of(database, outbox_bytes="150000") as relay:
        async with Neighbour(relay, database) as neighbour, one_that_does_not_read(relay, mode="stream") as slow:
            await neighbour.settle()
            keys = await change_many(database)
            await neighbour.still_hears()
            wake(slow)
            with pytest.raises(ConnectionClosed) as caught:
                await slow.until("something that is never said")
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 4103
            async with Client(relay) as again:
                again.cursor = slow.cursor
                resume: Message = {"e": slow.epoch, "s": slow.cursor}
                welcome = await again.hello({"t": "sub", "id": 1, "table": "users", "mode": "stream"}, resume=resume)
                assert welcome["resumed"] is True
                await again.until("mark")
            assert len(heard(slow)) < EVENTS, "it was slow"
            assert heard(slow) + heard(again) == keys


def heard(client: Client) -> list[str]:
    """Keys of a stream, in the order of arrival."""
    return [item[3]["keys"][0] for message in client.seen if message["t"] == "ev" for item in message["i"]]
