"""A published client of the original (PyPI pgcachewatch 0.4.2, websockets 13) on our relay's plain path."""

from __future__ import annotations

import asyncio
import json
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.original import OriginalUnavailable, original_python
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers

NOTIFICATIONS = 10_000
CHANNEL = "ch_pgcachewatch_table_change"

# The original's own classes, in the original's own environment; it reports on standard output.
PROGRAM = textwrap.dedent(
    """
    import asyncio, json, logging, sys
    import asyncpg, websockets
    from pgcachewatch import decorators, listeners, strategies

    logging.disable(logging.CRITICAL)
    url, dsn, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    PAYLOAD = "json_build_object('operation', 'update', 'table', 't' || i, 'sent_at', now())::text"

    async def main():
        connection = await asyncpg.connect(dsn)
        ws = await websockets.connect(url)
        listener = listeners.WSEventQueue()
        await listener.connect(ws)
        # At once: what was sent right after the handshake is what the original's own relay lost.
        await connection.execute(
            f"SELECT pg_notify('ch_pgcachewatch_table_change', {PAYLOAD}) FROM generate_series(1, {count}) i"
        )
        tables = [(await asyncio.wait_for(listener.get(), 60)).table for _ in range(count)]
        strategy = strategies.Greedy(listener)
        runs = 0

        @decorators.cache(strategy=strategy)
        async def cached():
            nonlocal runs
            runs += 1
            return runs

        await cached(), await cached()
        before = runs
        await connection.execute(f"SELECT pg_notify('ch_pgcachewatch_table_change', {PAYLOAD}) FROM (SELECT 1 AS i) _")
        while listener.qsize() == 0:
            await asyncio.sleep(0.005)
        await cached()
        print(json.dumps({"tables": tables, "before": before, "after": runs, "healthy": listener.connection_healthy()}))
        await ws.close()
        await connection.close()

    asyncio.run(main())
    """
)


# Reads what our triggers send, and what the relay sends when they are gone.
READER = textwrap.dedent(
    """
    import asyncio, json, logging, sys
    import asyncpg, websockets
    from pgcachewatch import listeners

    logging.disable(logging.CRITICAL)
    url, dsn = sys.argv[1:]

    async def main():
        connection = await asyncpg.connect(dsn)
        ws = await websockets.connect(url)
        listener = listeners.WSEventQueue()
        await listener.connect(ws)
        seen = []
        for statement in (
            "INSERT INTO users SELECT i, 7 FROM generate_series(1, 3) i",
            "UPDATE users SET tenant_id = 8",
            "TRUNCATE users",
            "ALTER TABLE users DISABLE TRIGGER ALL",
        ):
            await connection.execute(statement)
            event = await asyncio.wait_for(listener.get(), 60)
            seen.append([event.operation, event.table])
        print(json.dumps(seen))
        await ws.close()
        await connection.close()

    asyncio.run(main())
    """
)


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[RelayProcess]:
    with RelayProcess(database.dsn) as process:
        yield process


@pytest.fixture(scope="module")
def python_of_the_original() -> Path:
    try:
        return original_python()
    except OriginalUnavailable as reason:
        pytest.skip(str(reason))


async def test_a_published_client_loses_none_of_ten_thousand(
    relay: RelayProcess, database: Database, python_of_the_original: Path
) -> None:
    process = await asyncio.create_subprocess_exec(
        python_of_the_original,
        "-c",
        PROGRAM,
        f"{relay.url}/pgpubsub/{CHANNEL}",
        database.dsn,
        str(NOTIFICATIONS),
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    seen = json.loads(output)
    assert seen["tables"] == [f"t{number}" for number in range(1, NOTIFICATIONS + 1)]
    assert (seen["before"], seen["after"], seen["healthy"]) == (1, 2, True)


async def test_a_published_client_reads_row_triggers_and_what_the_relay_says_when_they_are_gone(
    database: Database, python_of_the_original: Path
) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute("CREATE TABLE users (id int PRIMARY KEY, tenant_id int)")
    await rows.install("users", columns=("tenant_id",), channel=CHANNEL)
    with RelayProcess(database.dsn, drift_check_s="0.05") as relay:
        process = await asyncio.create_subprocess_exec(
            python_of_the_original,
            "-c",
            READER,
            f"{relay.url}/pgpubsub/{CHANNEL}",
            database.dsn,
            stdout=asyncio.subprocess.PIPE,
            stderr=sys.stderr,
        )
        output, _ = await process.communicate()

    assert process.returncode == 0
    told = json.loads(output)
    assert {table for _, table in told} == {"users"}
    assert told[:2] == [["insert", "users"], ["update", "users"]]
    assert told[-1] == ["update", "users"]
