"""The tables of a run: how one is watched, and what the checked one holds."""

from __future__ import annotations

import asyncpg

from pgcachewatch_daemon.commands.database import run_steps
from pgcachewatch_daemon.io.catalogue import fetch_catalogue
from pgcachewatch_daemon.sql.capture import Mode
from pgcachewatch_daemon.sql.coverage import Settings
from pgcachewatch_daemon.sql.plan import choose_tables, install_plan
from tests.checker.plan import CHANNEL, TABLE


async def watch(connection: asyncpg.Connection[asyncpg.Record], table: str, mode: Mode) -> None:
    """As `pgcachewatch install` does it."""
    catalogue = await fetch_catalogue(connection)
    (chosen,) = choose_tables(catalogue, [table]).tables
    steps = install_plan(catalogue, [chosen], Settings(mode=mode), default_channel=CHANNEL)
    await run_steps(connection, steps, is_single=True)


async def versions_in(dsn: str) -> dict[int, int]:
    """By key: what the database holds now."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(f"SELECT key, version FROM {TABLE}")
    finally:
        await connection.close()
    return {row["key"]: row["version"] for row in rows}
