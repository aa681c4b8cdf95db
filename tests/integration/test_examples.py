"""The programs of client/examples and the code of README.md run as they stand, against a real relay and PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

import pgcachewatch
from pgcachewatch import models, queries
from pgcachewatch.testing import FakeRelay
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.tidy.tree import ROOT
from tests.waiting import eventually

EXAMPLES = ROOT / "client" / "examples"
README_RELAY = "ws://127.0.0.1:8420"
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITHIN_S = 90.0


@pytest.fixture
async def users(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with a table of users and its trigger, which asyncpg.connect() finds by itself."""
    address = urlsplit(database.dsn)
    for name, value in {
        "PGHOST": address.hostname,
        "PGPORT": str(address.port),
        "PGUSER": address.username,
        "PGPASSWORD": address.password,
        "PGDATABASE": database.name,
    }.items():
        monkeypatch.setenv(name, value or "")
    connection = await asyncpg.connect()
    await connection.execute("CREATE TABLE users (id int PRIMARY KEY, name text, enriched bool DEFAULT false)")
    await connection.execute("INSERT INTO users VALUES (1, 'Grace', false)")
    await connection.execute(queries.create_notify_function(models.DEFAULT_PG_CHANNEL, "notify"))
    await connection.execute(queries.create_after_change_trigger("watch", "users", "notify"))
    yield connection
    await connection.close()


@pytest.fixture
def relay(users: asyncpg.Connection, database: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    with RelayProcess(database.dsn) as process:
        monkeypatch.setenv("PGCACHEWATCH_URL", process.url)
        yield process


def load(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def readme(containing: str) -> str:
    """The README's block of code that contains this text."""
    blocks = [block for block in CODE.findall((ROOT / "README.md").read_text(encoding="utf-8")) if containing in block]
    assert len(blocks) == 1, containing
    return textwrap.dedent(blocks[0])


async def test_the_enrichment_worker_handles_users_from_before_and_after_it_started(
    users: asyncpg.Connection, relay: RelayProcess, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = await RowTriggers.open(database)
    await users.execute("DROP TRIGGER watch ON users")
    await rig.install("users", mode="journal", channel=models.DEFAULT_PG_CHANNEL)
    worker = asyncio.create_task(load("enrich_users").main())
    printed: list[str] = []

    def has_enriched(user: int) -> Callable[[], bool]:
        def look() -> bool:
            printed.extend(capsys.readouterr().out.splitlines())
            return f"enriched user {user}" in printed

        return look

    async with asyncio.timeout(WITHIN_S):
        await eventually(has_enriched(1))
        for user in (2, 3):
            await users.execute("INSERT INTO users VALUES ($1, 'new')", user)
            await eventually(has_enriched(user))
    assert printed.count("enriched user 2") == 1
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


async def test_the_fastapi_application_shows_a_rename_at_once(users: asyncpg.Connection, relay: RelayProcess) -> None:
    program = load("fastapi_app")
    async with (
        asyncio.timeout(WITHIN_S),
        program.app.router.lifespan_context(program.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=program.app), base_url="http://app") as client,
    ):
        cached = program.app.state.name_of

        async def is_hit() -> bool:
            assert (await client.get("/users/1")).json() == {"name": "Grace"}
            return bool(cached.cache_info().hits)

        await eventually(is_hit)
        for name in ("Ada", "Barbara", "Frances"):
            await client.put("/users/1", params={"name": name})
            assert (await client.get("/users/1")).json() == {"name": name}
        assert (await client.get("/users/9")).status_code == 404


async def test_the_cached_endpoints_show_a_rename_at_once(users: asyncpg.Connection, relay: RelayProcess) -> None:
    program = load("fastapi_rows")
    async with (
        asyncio.timeout(WITHIN_S),
        program.app.router.lifespan_context(program.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=program.app), base_url="http://app") as client,
    ):
        for name in ("Ada", "Barbara", "Frances"):
            assert (await client.put("/users/1", params={"name": name})).status_code == 200
            assert (await client.get("/users/1")).json() == {"name": name}

        async def is_hit() -> bool:
            assert (await client.get("/users/1")).json() == {"name": "Frances"}
            return bool(program.get_user.cache_info().hits)

        await eventually(is_hit)
        assert (await client.get("/users/9")).status_code == 404


@pytest.mark.parametrize("name", ["asyncpg_rows", "sqlalchemy_reads"])
async def test_the_programs_that_rename_read_the_new_name_at_once(
    name: str,
    users: asyncpg.Connection,
    relay: RelayProcess,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.dsn.replace("postgresql://", "postgresql+asyncpg://", 1))
    async with asyncio.timeout(WITHIN_S):
        await load(name).main()

    assert capsys.readouterr().out.splitlines() == ["user 1 is Ada"] * 2 + ["user 1 is Barbara"] * 2
    assert await users.fetchval("SELECT name FROM users WHERE id = 1") == "Barbara"


async def test_the_django_program_reads_what_it_wrote(users: asyncpg.Connection, relay: RelayProcess) -> None:
    # In a process of its own: the settings of Django are those of a process.
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", EXAMPLES / "django_rows.py"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        printed, logged = await program.communicate()

    assert printed.decode().splitlines() == ["user 1 is Ada"] * 2 + ["user 1 is Barbara"] * 2, logged.decode()
    assert await users.fetchval("SELECT name FROM users WHERE id = 1") == "Barbara"


async def test_the_five_minutes_of_the_readme(
    users: asyncpg.Connection, relay: RelayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    code = readme("asyncio.run(main())").replace(README_RELAY, relay.url).replace("asyncio.run(main())", "")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    tour = asyncio.create_task(names["main"]())

    async def has_printed_an_insert() -> bool:
        await users.execute("INSERT INTO users (id) SELECT max(id) + 1 FROM users")
        return bool(re.match(r"insert users \d", capsys.readouterr().out))

    async with asyncio.timeout(WITHIN_S):
        await eventually(has_printed_an_insert)
    assert await users.fetchval("SELECT name FROM users WHERE id = 1") == "Ada"
    tour.cancel()
    await asyncio.gather(tour, return_exceptions=True)


async def test_the_strategies_of_the_readme() -> None:
    relay = FakeRelay()
    async with relay.connect() as client:
        names: dict[str, Any] = {"client": client}
        exec(compile(readme("Greedy(client"), "README.md", "exec"), names)


def test_the_threads_of_the_readme(relay: RelayProcess) -> None:
    names: dict[str, Any] = {"pgcachewatch": pgcachewatch, "Product": dict}
    exec(compile(readme("sync.connect").replace(README_RELAY, relay.url), "README.md", "exec"), names)
    client, featured = names["relay"], names["featured"]
    client.wait_live(WITHIN_S)
    assert [featured(), featured(limit=10)] == [None, None]
    assert featured.cache_info().hits == 1
    client.close()


async def test_the_test_of_the_readme() -> None:
    runs = 0

    async def read_price(book: str) -> int:
        nonlocal runs
        runs += 1
        return runs

    names: dict[str, Any] = {"read_price": read_price}
    exec(compile(readme("fake_relay"), "README.md", "exec"), names)
    test: Callable[[FakeRelay], Awaitable[None]] = names["test_price_is_read_again_after_an_update"]
    await test(FakeRelay())
    assert runs == 2


async def test_the_row_code_of_the_readme_drops_what_it_says(
    users: asyncpg.Connection, relay: RelayProcess, database: Database
) -> None:
    await users.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, tenant_id int);"
        "CREATE TABLE prices (id int); CREATE TABLE dishes (id int)"
    )
    await users.execute("DROP TRIGGER watch ON users")  # each statement would drop the whole table
    rig = await RowTriggers.open(database)
    await rig.install("users", "orders", "prices", "dishes", columns=("tenant_id",), channel=models.DEFAULT_PG_CHANNEL)
    async with asyncpg.create_pool() as pool, pgcachewatch.connect(relay.url) as client, asyncio.timeout(WITHIN_S):
        names: dict[str, Any] = {"User": object, "Order": object, "Menu": object, "client": client, "pool": pool}
        body = textwrap.indent(readme("client.token(connection)"), "    ")
        code = f"async def program():\n{body}\n    return get_user, orders_of, newest_order, menu\n"
        exec(compile("from __future__ import annotations\n" + code, "README.md", "exec"), names)
        get_user, orders_of, newest_order, menu = await names["program"]()
        await client.wait_live()
        assert (
            await get_user(5) is await get_user(6) is await orders_of(1) is await orders_of(2) is await menu() is None
        )

        await users.execute("INSERT INTO users VALUES (5, 'Ada'); INSERT INTO orders VALUES (1, 2)")
        await client.barrier()

        assert [get_user.cache_contains(5), get_user.cache_contains(6)] == [False, True]
        assert [orders_of.cache_contains(1), orders_of.cache_contains(2)] == [True, False]
        assert not menu.cache_contains()
        assert client.invalidate("menu") == 1
        assert newest_order.cache_parameters()["ttl"] == "10m"
