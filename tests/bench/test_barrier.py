"""What a barrier costs on loopback, against the least it could: one connection that notifies itself and waits for it.

The path of a barrier: client, relay process, NOTIFY on the relay's own connection, and back. The floor is the middle of
it alone, from this process. The bare relay adds the hop through another process and nothing else, and so shows how
much of the ratio no relay can save. They take turns within one run: whatever else the machine does meets all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import cast

import asyncpg
import pytest

import pgcachewatch
from tests.bench.rounds import Row, report, rounds
from tests.postgres import Database
from tests.relay_process import RelayProcess

ROUNDS = 2_000
UNCOUNTED = 0.1  # the first part of the rounds warms up
LIMIT_S = 120.0  # turns a benchmark that would hang into one that fails

CHANNEL = "bench_floor"
BARE_RELAY = Path(__file__).with_name("bare_relay.py")


class SelfNotifier:
    """A connection that listens to what it says."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        await self._connection.add_listener(CHANNEL, lambda *_: self._heard.set_result(None))

    async def round_trip(self) -> None:
        self._heard = asyncio.get_running_loop().create_future()
        await self._connection.execute(f"NOTIFY {CHANNEL}, 'x'")
        await self._heard


class BareClient(asyncio.Protocol):
    """Says a byte to the bare relay, and waits for its answer."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard.set_result(None)

    async def round_trip(self) -> None:
        self._heard = asyncio.get_running_loop().create_future()
        self._transport.write(b".")
        await self._heard


@contextlib.contextmanager
def bare_relay(dsn: str) -> Iterator[int]:
    """Its port."""
    with subprocess.Popen([sys.executable, str(BARE_RELAY), dsn], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


async def timed_us(act: Callable[[], Awaitable[None]]) -> float:
    started_ns = time.perf_counter_ns()
    await act()
    return (time.perf_counter_ns() - started_ns) / 1_000


def barriers_of(relay: RelayProcess) -> float:
    """How many the relay has answered."""
    lines = relay.get("/metrics")[1].splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("pgcachewatch_barrier_seconds_count"))


@pytest.mark.bench
async def test_a_barrier_costs_a_small_multiple_of_a_notification(database: Database) -> None:
    notifier = SelfNotifier(await database.connect())
    await notifier.start()
    count = rounds(ROUNDS)
    times_us: tuple[list[float], list[float], list[float]] = ([], [], [])
    with RelayProcess(database.dsn) as relay, bare_relay(database.dsn) as port:
        transport, bare = await asyncio.get_running_loop().create_connection(BareClient, "127.0.0.1", port)
        async with pgcachewatch.connect(relay.url) as client, asyncio.timeout(LIMIT_S):
            await client.wait_live()
            for _ in range(count):
                for taken_us, act in zip(times_us, (notifier.round_trip, bare.round_trip, client.barrier), strict=True):
                    taken_us.append(await timed_us(act))
        transport.close()
        answered = barriers_of(relay)
    floor_us, bare_us, barrier_us = (statistics.median(taken_us[int(count * UNCOUNTED) :]) for taken_us in times_us)
    report(
        "barrier on loopback, p50 in us",
        [Row("a relay that does nothing", floor_us, bare_us), Row("barrier", floor_us, barrier_us, target=2)],
    )

    # Each barrier was answered by the relay, none by the one before it.
    assert answered == count
