"""The load on the original library, by its own interpreter: `python -m tests.bench.original_hits DSN READS`.

Prints, for each distribution, how often the function ran. After each update it waits until its listener has the event.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import asyncpg

from pgcachewatch import decorators, listeners, strategies
from tests.bench.workload import DISTRIBUTIONS, Distribution, operations


async def runs_of(connection: Any, listener: Any, distribution: Distribution, reads: int) -> int:
    """Any: the original's classes are not those that are checked here."""
    runs = 0

    @decorators.cache(strategy=strategies.Greedy(listener))
    async def read(row: int) -> int:
        nonlocal runs
        runs += 1
        return int(await connection.fetchval("SELECT version FROM hits WHERE id = $1", row))

    for is_update, row in operations(distribution, reads):
        if is_update:
            await connection.execute("UPDATE hits SET version = version + 1 WHERE id = $1", row)
            while listener.qsize() == 0:  # noqa: ASYNC110  # the original announces nothing
                await asyncio.sleep(0.0001)
        else:
            await read(row)
    return runs


async def main(dsn: str, reads: int) -> dict[str, int]:
    connection, listening = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    listener = listeners.PGEventQueue()
    await listener.connect(listening)
    runs: dict[str, int] = {each: await runs_of(connection, listener, each, reads) for each in DISTRIBUTIONS}
    await listening.close()
    await connection.close()
    return runs


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
