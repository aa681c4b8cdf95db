"""A program that takes events of a consumer and records each in the table `handled`, to be killed at any moment.

    python -m tests.integration.taker URL DSN CONSUMER

It never looks at the table itself but where it is told of a gap: whatever it records otherwise, an event has told it.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg

import pgcachewatch

HANDLED = """
CREATE TABLE handled (consumer text, user_id int, event text, tries int, at timestamptz DEFAULT clock_timestamp());
CREATE TABLE told_gaps (consumer text, reason text, since timestamptz)
"""


async def main(url: str, dsn: str, consumer: str) -> None:
    async def rescan(gap: pgcachewatch.Gap) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction():
                await connection.execute("INSERT INTO told_gaps VALUES ($1, $2, $3)", consumer, gap.reason, gap.since)
                await connection.execute(
                    "INSERT INTO handled SELECT $1, id, 'gap', 1 FROM users AS u WHERE NOT EXISTS "
                    "(SELECT FROM handled AS h WHERE h.user_id = u.id AND h.consumer = $1)",
                    consumer,
                )
        finally:
            await connection.close()

    async with (
        pgcachewatch.connect(url) as client,
        client.events("users", operations={"insert"}, consumer=consumer, on_gap=rescan) as events,
    ):
        connection = await asyncpg.connect(dsn)
        async for event in events:
            for key in event.keys or ():
                await connection.execute(
                    "INSERT INTO handled VALUES ($1, $2, $3, $4)", consumer, int(key), event.id, event.tries
                )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
