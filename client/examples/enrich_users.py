"""Handle each new user, whoever is killed meanwhile: a worker on a durable consumer.

    pgcachewatch install --mode journal users --commit
    PGCACHEWATCH_URL=ws://127.0.0.1:8420 PGDATABASE=app python enrich_users.py

Run as many of these as you like, each under a supervisor that starts it again when it ends: they share the users. The
relay gives each user's event until this program has acknowledged it, by asking for the next one; so a user may come
twice, after a kill, and is enriched once. Where the journal could not keep what happened, `look_for_all` is called.
"""

import asyncio
import os

import asyncpg

import pgcachewatch

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")
ENRICH = "UPDATE users SET enriched = true WHERE id = ANY($1) AND NOT enriched RETURNING id"
ENRICH_ALL = "UPDATE users SET enriched = true WHERE NOT enriched RETURNING id"


async def main() -> None:
    connection = await asyncpg.connect()

    async def look_for_all(gap: pgcachewatch.Gap | None) -> None:
        for row in await connection.fetch(ENRICH_ALL):
            print(f"enriched user {row['id']}", flush=True)

    try:
        async with (
            pgcachewatch.connect(RELAY) as client,
            client.events("users", operations={"insert"}, consumer="enrich-users", on_gap=look_for_all) as events,
        ):
            if await connection.fetchval("SELECT count(*) = 0 FROM users WHERE enriched"):
                await look_for_all(None)  # the first time: those from before there was a consumer
            async for event in events:
                if event.keys is None:  # one statement inserted more users than an event names
                    await look_for_all(None)
                    continue
                for row in await connection.fetch(ENRICH, [int(key) for key in event.keys]):
                    print(f"enriched user {row['id']}", flush=True)
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main())
