"""What README.md shows of frameworks runs as it stands, against a real relay and PostgreSQL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

import asyncpg
import httpx
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import pgcachewatch
from tests.integration.test_examples import README_RELAY, WITHIN_S, readme, relay, users
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.waiting import eventually

__all__ = ["relay", "users"]  # fixtures, for the tests below

DJANGO = """
import os
import django
from django.conf import settings
names = dict(NAME="PGDATABASE", USER="PGUSER", PASSWORD="PGPASSWORD", HOST="PGHOST", PORT="PGPORT")
values = {name: os.environ[variable] for name, variable in names.items()}
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **values}})
django.setup()
from django.db import connection, models, transaction
import pgcachewatch
class User(models.Model):
    name = models.TextField()
    class Meta:
        app_label = "app"
        db_table = "users"
cache = pgcachewatch.Cache()
"""
USE_OF_DJANGO = """
with pgcachewatch.sync.connect(os.environ["PGCACHEWATCH_URL"]) as relay, cache.bound(relay):
    relay.wait_live()
    for name in ("Ada", "Barbara"):
        rename(1, name)
        print(name_of(1), name_of(1))
connection.close()
"""


class Model(DeclarativeBase):
    """All mapped classes."""


class User(Model):
    """A user."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


async def connection() -> AsyncIterator[asyncpg.Connection]:
    found = await asyncpg.connect()
    yield found
    await found.close()


async def test_the_fastapi_of_the_readme(users: asyncpg.Connection, relay: RelayProcess) -> None:
    cache = pgcachewatch.Cache()
    names: dict[str, Any] = {
        "FastAPI": FastAPI,
        "cache": cache,
        "Database": Annotated[asyncpg.Connection, Depends(connection)],
    }
    exec(compile(readme("endpoint(cache").replace(README_RELAY, relay.url), "README.md", "exec"), names)
    async with (
        asyncio.timeout(WITHIN_S),
        names["app"].router.lifespan_context(names["app"]),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=names["app"]), base_url="http://app") as browser,
    ):

        async def is_hit() -> bool:
            assert (await browser.get("/users/1")).json() == "Grace"
            return bool(names["get_user"].cache_info().hits)

        await eventually(is_hit)
        for name in ("Ada", "Barbara"):
            await browser.put("/users/1", params={"name": name})
            assert (await browser.get("/users/1")).json() == name


async def test_the_sqlalchemy_of_the_readme(users: asyncpg.Connection, relay: RelayProcess, database: Database) -> None:
    cache = pgcachewatch.Cache()
    engine = create_async_engine(database.dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    names: dict[str, Any] = {"engine": engine, "cache": cache, "AsyncSession": AsyncSession, "select": select}
    names["User"] = User
    exec(compile(readme("CachedReads(engine"), "README.md", "exec"), names)
    name_of = names["name_of"]
    try:
        async with (
            asyncio.timeout(WITHIN_S),
            pgcachewatch.connect(relay.url) as client,
            AsyncSession(engine) as session,
        ):
            with cache.bound(client):
                assert await name_of(1, session) == "Grace"
                await client.wait_live()
                assert await name_of(1, session) == "Grace"
                await session.execute(update(User).values(name="Ada"))
                assert await name_of(1, session) == "Ada"
                await session.commit()
                await client.barrier()
                assert await name_of(1, session) == "Ada"
    finally:
        await engine.dispose()


async def test_the_django_of_the_readme(users: asyncpg.Connection, relay: RelayProcess) -> None:
    # In a process of its own: the settings of Django are those of a process.
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", DJANGO + readme("contrib.django") + USE_OF_DJANGO),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        printed, logged = await program.communicate()

    assert printed.decode().splitlines() == ["Ada Ada", "Barbara Barbara"], logged.decode()


@pytest.mark.parametrize("framework", ["fastapi", "sqlalchemy", "django"])
def test_the_package_loads_no_framework(framework: str) -> None:
    program = f"import sys, pgcachewatch; pgcachewatch.Cache(); sys.exit({framework!r} in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
