"""Cached SELECTs with SQLAlchemy: the tables come from the statement, so there is nothing to declare.

    PGCACHEWATCH_URL=ws://127.0.0.1:8420 DATABASE_URL=postgresql+asyncpg://localhost/app python sqlalchemy_reads.py

A session that has written reads by itself until it commits; after the barrier the whole process sees what it wrote.
"""

import asyncio
import os

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import pgcachewatch
from pgcachewatch.contrib.sqlalchemy import CachedReads

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")
DATABASE = os.environ.get("DATABASE_URL", "postgresql+asyncpg://localhost/app")

cache = pgcachewatch.Cache(maxsize=10_000)
engine = create_async_engine(DATABASE)
reads = CachedReads(engine, cache)


class Model(DeclarativeBase):
    pass


class User(Model):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def name_of(session: AsyncSession, user_id: int) -> str | None:
    rows = await reads.rows(select(User.name).where(User.id == user_id), session)
    return rows[0].name if rows else None


async def rename(client: pgcachewatch.Client, user_id: int, name: str) -> None:
    async with AsyncSession(engine) as session, session.begin():
        user = await session.get_one(User, user_id)
        user.name = name
        assert await name_of(session, user_id) == name  # not committed, and not for others
    await client.barrier()


async def main() -> None:
    try:
        async with pgcachewatch.connect(RELAY) as client:
            with cache.bound(client):
                await client.wait_live()
                for name in ("Ada", "Barbara"):
                    await rename(client, 1, name)
                    async with AsyncSession(engine) as session:
                        print(f"user 1 is {await name_of(session, 1)}")  # runs the query
                        print(f"user 1 is {await name_of(session, 1)}")  # a hit: no query, no connection
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
