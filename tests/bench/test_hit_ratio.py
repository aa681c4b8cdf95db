"""What rows are worth: one load on the original library and on ours, by table and by row, with a real relay.

The load is the same for all, and each waits for an update to arrive before it goes on; so the figures do not depend on
the machine, and are asserted.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pgcachewatch
from pgcachewatch import Row, queries
from pgcachewatch.aio.caching import CacheKeywords
from pgcachewatch.models import DEFAULT_PG_CHANNEL
from tests.bench.rounds import IS_MEASURING
from tests.bench.workload import DISTRIBUTIONS, ROWS, Distribution, operations
from tests.original import ROOT, OriginalUnavailable, original_python
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import CHANNEL, RowTriggers
from tests.waiting import LIMIT_S

READS = 100_000 if IS_MEASURING else 3_000
TIMEOUT_S = 900

Runs = dict[Distribution, int]


async def prepared(database: Database) -> RowTriggers:
    """A table with both triggers, each on a channel of its own."""
    rig = await RowTriggers.open(database)
    await rig.writer.execute(
        "CREATE TABLE hits (id int PRIMARY KEY, version int NOT NULL DEFAULT 0);"
        f"INSERT INTO hits SELECT generate_series(1, {ROWS}); SET statement_timeout = 0"
    )
    await rig.writer.execute(queries.create_notify_function(DEFAULT_PG_CHANNEL, "notify"))
    await rig.writer.execute(queries.create_after_change_trigger("watch", "hits", "notify"))
    await rig.install("hits")
    return rig


def original(dsn: str) -> Runs:
    """How often the function ran behind the original. Skips the test when it can not be had."""
    try:
        python = original_python()
    except OriginalUnavailable as reason:
        pytest.skip(str(reason))
    command: list[str | Path] = [python, "-m", "tests.bench.original_hits", dsn, str(READS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    runs: Runs = json.loads(done.stdout)
    return runs


async def ours(rig: RowTriggers, dependency: CacheKeywords) -> Runs:
    """The same behind our client, with a relay process between."""
    runs: Runs = {"zipf": 0, "uniform": 0}
    with RelayProcess(rig.database.dsn, channel=CHANNEL) as relay:
        # A lease that ended while the machine was busy would have rows read that no update asks for.
        async with pgcachewatch.connect(relay.url, channels=(CHANNEL,), staleness=LIMIT_S) as client:
            for distribution in DISTRIBUTIONS:

                @client.cache(**dependency)
                async def read(row: int, of: Distribution = distribution) -> int:
                    runs[of] += 1
                    return int(await rig.writer.fetchval("SELECT version FROM hits WHERE id = $1", row))

                await client.wait_live()
                for is_update, row in operations(distribution, READS):
                    if is_update:
                        await rig.writer.execute("UPDATE hits SET version = version + 1 WHERE id = $1", row)
                        await client.barrier(timeout=LIMIT_S)
                    else:
                        await read(row)
    return runs


@pytest.mark.bench
async def test_rows_save_most_of_the_reads_that_a_whole_flush_costs(database: Database) -> None:
    rig = await prepared(database)

    found = {
        "original": await asyncio.to_thread(original, database.dsn),
        "by table": await ours(rig, {"tables": ["hits"], "maxsize": ROWS}),
        "by row": await ours(rig, {"rows": Row("hits", id="row"), "maxsize": ROWS}),
    }

    sys.stdout.write(f"\n{READS:,} reads of {ROWS:,} rows, an update each 100 reads\n")
    for distribution in DISTRIBUTIONS:
        for name, runs in found.items():
            fewer = found["original"][distribution] / runs[distribution]
            hits = 1 - runs[distribution] / READS
            sys.stdout.write(
                f"  {distribution:<8} {name:<9} {hits:>6.1%} hits  {runs[distribution]:>6,} database reads"
                f"  {fewer:>5.1f}x fewer\n"
            )
    for distribution in DISTRIBUTIONS:
        # Each update costs the row's entry at most, and each row is read once to begin with.
        assert found["by row"][distribution] <= ROWS + READS / 100
        assert found["by row"][distribution] < found["by table"][distribution]
