"""Cached queries with asyncpg and nothing else, declared where other functions are.

    PGCACHEWATCH_URL=ws://127.0.0.1:8420 PGDATABASE=app python asyncpg_rows.py

The pool is an argument like any other, and left out of the key: it does not tell two calls apart.
"""

import asyncio
import os

import asyncpg

import pgcachewatch

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")

cache = pgcachewatch.Cache(maxsize=10_000)


@cache(rows=pgcachewatch.Row("users", id="user_id"), ignore=["pool"])
async def name_of(pool: asyncpg.Pool, user_id: int) -> str | None:
    return await pool.fetchval("SELECT name FROM users WHERE id = $1", user_id)


async def rename(pool: asyncpg.Pool, client: pgcachewatch.Client, user_id: int, name: str) -> None:
    await pool.execute("UPDATE users SET name = $2 WHERE id = $1", user_id, name)
    await client.barrier()  # from here on every hit in this process has the new name


async def main() -> None:
    async with asyncpg.create_pool(min_size=1) as pool, pgcachewatch.connect(RELAY) as client:
        with cache.bound(client):
            await client.wait_live()
            for name in ("Ada", "Barbara"):
                await rename(pool, client, 1, name)
                print(f"user 1 is {await name_of(pool, 1)}")  # runs the query
                print(f"user 1 is {await name_of(pool, 1)}")  # a hit: no query, no network


if __name__ == "__main__":
    asyncio.run(main())
