"""Handle each new user once it is committed: a worker on a stream of events.

    PGCACHEWATCH_URL=ws://127.0.0.1:8420 PGDATABASE=app python enrich_users.py

A gap in the stream is an item like any other: where events may be missing, the worker looks at the table itself.
"""

import asyncio
import os

import asyncpg

import pgcachewatch

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")


async def enrich_new_users(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch("UPDATE users SET enriched = true WHERE NOT enriched RETURNING id")
    for row in rows:
        print(f"enriched user {row['id']}")


async def main() -> None:
    connection = await asyncpg.connect()
    try:
        async with (
            pgcachewatch.connect(RELAY) as client,
            client.events("users", operations={"insert"}) as events,
        ):
            await enrich_new_users(connection)  # those from before the stream began
            async for event in events:
                if isinstance(event, pgcachewatch.Gap):
                    print(f"events may be missing: {event.reason}")
                await enrich_new_users(connection)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
