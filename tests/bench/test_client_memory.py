"""What an entry costs beside its value: key, entry, its place in the order, and where its row leads to it.

Each kind of function is filled in a process of its own: once for what the process grew by, pages and padding included,
once more for what Python counts. The latter is the same each time, and asserted. Values are one object.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
import tracemalloc
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pgcachewatch import Row
from pgcachewatch.aio.caching import CacheKeywords
from pgcachewatch.aio.client import Client
from pgcachewatch.aio.connecting import connect_over
from pgcachewatch.testing import URL, FakeRelay
from tests.bench.rounds import IS_MEASURING

ENTRIES = 100_000 if IS_MEASURING else 10_000
WARM_UP = 1_000
TARGET_BYTES = 300
LEASE_S = 3_600.0
TIMEOUT_S = 300
ROOT = Path(__file__).parents[2]
STATM = Path("/proc/self/statm")
VALUE = object()

# Each kind: its dependencies, and its keys by their number.
KINDS: dict[str, tuple[CacheKeywords, Callable[[int], object]]] = {
    "tables, int": ({"tables": ["users"]}, lambda number: number),
    "rows and tables, int": ({"rows": Row("users", id="key"), "tables": ["prices"]}, lambda number: number),
    "rows, text of a uuid": ({"rows": Row("users", id="key")}, lambda number: str(uuid.UUID(int=number))),
}


async def filled(kind: str) -> dict[str, float]:
    """Bytes an entry: what the process grew by, and what Python counts."""
    dependencies, key_of = KINDS[kind]
    relay = FakeRelay()
    connecting = connect_over(
        [URL], open_link=relay.open_link, clock=time.monotonic, chance=lambda: 0.0, staleness=LEASE_S
    )
    async with connecting as client:
        warm = declared(client, dependencies)
        first, second = declared(client, dependencies), declared(client, dependencies)
        await client.wait_live()
        await fill(warm, key_of, WARM_UP)
        grown_by = await growth(resident_bytes, fill(first, key_of, ENTRIES))
        tracemalloc.start()
        counted = await growth(lambda: tracemalloc.get_traced_memory()[0], fill(second, key_of, ENTRIES))
        tracemalloc.stop()
        assert first.cache_info().currsize == second.cache_info().currsize == ENTRIES
    return {"grown_by": grown_by / ENTRIES, "counted": counted / ENTRIES}


def declared(client: Client, dependencies: CacheKeywords) -> Any:  # Any: a cached function
    async def get(key: int | str) -> object:
        return VALUE

    options: CacheKeywords = {**dependencies, "maxsize": ENTRIES}
    return client.cache(**options)(get)


async def fill(function: Any, key_of: Callable[[int], object], count: int) -> None:
    for number in range(WARM_UP, WARM_UP + count):
        await function(key_of(number))
    await asyncio.sleep(0)


async def growth(measured: Callable[[], int], filling: Awaitable[None]) -> int:
    gc.collect()
    before = measured()
    await filling
    gc.collect()
    return measured() - before


def resident_bytes() -> int:
    """Of this process; 0 where the kernel does not tell."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if STATM.exists() else 0


@pytest.mark.bench
@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_costs_at_most_300_bytes_beside_its_value(kind: str) -> None:
    command = [sys.executable, "-W", "error", "-m", "tests.bench.test_client_memory", kind]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)

    assert done.returncode == 0, done.stderr
    bytes_of = json.loads(done.stdout)
    sys.stdout.write(
        f"\n{kind:<24} {ENTRIES:>7,} entries: {bytes_of['grown_by']:.0f} bytes of the process an entry, "
        f"{bytes_of['counted']:.0f} counted by Python; target {TARGET_BYTES}\n"
    )
    assert bytes_of["counted"] <= TARGET_BYTES


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(filled(sys.argv[1]))))
