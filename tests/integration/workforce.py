"""A relay with workers in front of a real PostgreSQL, and clients at each of its workers.

The primary runs in the test's process, so that a test can see which worker has how many clients; the workers are real
processes on a real port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pgcachewatch_daemon.relay import RelayOptions
from pgcachewatch_daemon.workers.primary import PrimaryRelay
from tests.raw_client import Addressed, Client, get

WORKERS = 2
CLIENTS = 10  # that all of them are at one worker has a chance of 1 in 500: more are opened then
WITHIN_S = 180.0  # a test that would hang fails instead


@asynccontextmanager
async def running(relay_options: RelayOptions, *, is_spread: bool | None = None) -> AsyncIterator[PrimaryRelay]:
    async with asyncio.timeout(WITHIN_S), PrimaryRelay(relay_options, is_spread=is_spread) as relay:
        await relay.ready()
        yield relay


def client_of(relay: Addressed) -> Client:
    """One that takes in whatever comes: a test may not look at each of them for a while."""
    return Client(relay, max_queue=None)


async def clients_by_worker(relay: PrimaryRelay) -> list[float]:
    """How many clients of the protocol each worker has."""
    await relay._scrapes.ask()
    counts = []
    for each in relay._staff.serving:
        reading = each.readings["clients"]
        assert isinstance(reading, Mapping)
        counts.append(reading[("v1",)])
    return counts


@asynccontextmanager
async def everywhere(relay: PrimaryRelay) -> AsyncIterator[list[Client]]:
    """Clients that said hello, some of them at each worker."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        while len(clients) < CLIENTS or 0 in await clients_by_worker(relay):
            clients.append(await stack.enter_async_context(client_of(relay)))
            await clients[-1].hello()
        yield clients


async def metric(relay: PrimaryRelay, name: str) -> float:
    """The sum of all lines of a metric, as /metrics shows it."""
    lines = (await get(relay, "/metrics")).text.splitlines()
    values = [float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name]
    assert values, name
    return sum(values)


def children(pid: int) -> list[int]:
    """The processes that it has started and that run."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # nobody has asked yet for the code it ended with
