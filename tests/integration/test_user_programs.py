"""The user's two programs, exactly as written, against a real PostgreSQL: direct, and through the relay.

The programs are the code blocks of the seed document. They are loaded as they stand; only names they define
themselves (the function that processes a new user) are replaced, to see that they are called.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from pgcachewatch import models, queries
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.waiting import eventually

EXAMPLES = Path(__file__).resolve().parents[2] / "client" / "examples"
WITHIN_S = 90.0
# Of the code blocks in the seed document: a formatter or a helpful hand must not touch them.
DIGESTS = {
    "enrich_users_original": "ee70468293180cc3bf6b6c4c483be31e87bd95ca449b572ca421ded5ffbbf948",
    "fastapi_original": "c0c9eea95a4989512b9802f529e825d31cee96be3fe5981468b40bc57488068c",
}


@pytest.fixture(params=["direct", "through the relay"])
def environment(request: pytest.FixtureRequest, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """libpq variables for `asyncpg.connect()`, and for the second lane the one variable that names the relay."""
    address = urlsplit(database.dsn)
    for name, value in {
        "PGHOST": address.hostname,
        "PGPORT": str(address.port),
        "PGUSER": address.username,
        "PGPASSWORD": address.password,
        "PGDATABASE": database.name,
    }.items():
        monkeypatch.setenv(name, value or "")
    with ExitStack() as stack:
        if request.param != "direct":
            relay = stack.enter_context(RelayProcess(database.dsn))
            monkeypatch.setenv("PGCACHEWATCH_URL", relay.url)
        yield


@pytest.fixture
async def connection(environment: None, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection with a `users` table that the original trigger watches."""
    connection = await asyncpg.connect(database.dsn)
    await connection.execute("CREATE TABLE users (id int PRIMARY KEY, name text)")
    await connection.execute(queries.create_notify_function(models.DEFAULT_PG_CHANNEL, "notify"))
    await connection.execute(queries.create_after_change_trigger("watch", "users", "notify"))
    yield connection
    await connection.close()


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"user_program_{name}", EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


async def test_the_enrichment_program_handles_each_new_user_and_nothing_else(
    connection: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    program = load("enrich_users_original")
    handled = asyncio.Semaphore(0)

    async def process_new_user_event() -> None:
        handled.release()

    vars(program)["process_new_user_event"] = process_new_user_event
    running = asyncio.create_task(program.listen_for_new_users())
    async with asyncio.timeout(WITHIN_S):
        await eventually(lambda: "Listening for new user events" in capsys.readouterr().out)
        for number in range(3):
            await connection.execute("INSERT INTO users VALUES ($1, 'new')", number)
            await connection.execute("UPDATE users SET name = 'other' WHERE id = $1", number)
            await handled.acquire()
    assert handled.locked()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_enrichment_program_ends_with_an_error_when_its_database_is_lost(
    connection: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    program = load("enrich_users_original")
    running = asyncio.create_task(program.listen_for_new_users())
    async with asyncio.timeout(WITHIN_S):
        await eventually(lambda: "Listening for new user events" in capsys.readouterr().out)
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with pytest.raises(Exception, match=r"lost|closed|terminat"):
            await running


async def test_the_fastapi_program_caches_until_an_update(connection: asyncpg.Connection) -> None:
    await connection.execute("INSERT INTO users VALUES (1, 'Ada')")
    program = load("fastapi_original")
    transport = httpx.ASGITransport(app=program.APP)
    async with (
        program.APP.router.lifespan_context(program.APP),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
        asyncio.timeout(WITHIN_S),
    ):
        info = program.cached_query.cache_info

        async def get() -> int:
            answer = await client.get("/data", params={"user_id": 1})
            assert answer.json() == {"data": "query result"}
            return int(info().misses)

        async def hits() -> bool:
            return await get() > 0 and bool(info().hits)

        async def misses_again() -> bool:
            return bool(await get() > before)

        await eventually(hits)  # a cache that is not live yet runs the function
        before = info().misses
        await connection.execute("INSERT INTO users VALUES (2, 'Bob')")
        await connection.execute("UPDATE users SET name = 'Eve' WHERE id = 1")
        await eventually(misses_again)
        assert info().misses == before + 1


@pytest.mark.parametrize(("name", "digest"), DIGESTS.items())
def test_the_programs_stand_as_the_seed_document_wrote_them(name: str, digest: str) -> None:
    assert hashlib.sha256((EXAMPLES / f"{name}.py").read_bytes()).hexdigest() == digest
