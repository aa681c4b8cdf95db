"""The roles of the runbook, as its SQL makes them, in a database where nobody may do anything by default."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgcachewatch_daemon.commands.install import install, uninstall
from pgcachewatch_daemon.commands.status import status
from pgcachewatch_daemon.io.catalogue import CatalogueOptions
from pgcachewatch_daemon.sql import journal
from pgcachewatch_daemon.sql.journal_tables import TABLES
from tests.postgres import Database
from tests.raw_client import CHANNEL, Client, options, running
from tests.tidy.tree import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.every_server

RUNBOOK = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sql\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
RELAY, JOURNAL, MEMBER, GRANTED = BLOCKS
PASSWORD = "change me"
ROLES = ("pgcachewatch_relay", "pgcachewatch_installer", "app_owner", "app_user", "journal_owner")


@dataclass
class Estate:
    """A database `app` with its owner, its user, and a table in the schema `shop`; roles by their runbook's names."""

    database: Database
    owner: asyncpg.Connection

    def name(self, role: str) -> str:
        return f"{role}_{self.database.name}"[:63]

    def dsn(self, role: str) -> str:
        parts = urlsplit(self.database.dsn)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{self.name(role)}:{PASSWORD.replace(' ', '%20')}@{place}").geturl()

    async def run(self, sql: str) -> None:
        """The runbook's SQL, with the names of this test."""
        for role in ROLES:
            sql = re.sub(rf"\b{role}\b", self.name(role), sql)
        await self.owner.execute(re.sub(r"\bDATABASE app\b", f"DATABASE {self.database.name}", sql))

    async def command(self, command: object, role: str, *arguments: str) -> int:
        assert callable(command)
        code: int = await asyncio.to_thread(command, [*arguments, "--pg-dsn", self.dsn(role)])
        return code


@pytest.fixture
async def estate(database: Database) -> AsyncIterator[Estate]:
    estate = Estate(database, await database.connect())
    await estate.run(
        f"REVOKE ALL ON DATABASE app FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
        f"CREATE ROLE app_owner NOLOGIN; CREATE ROLE app_user LOGIN PASSWORD '{PASSWORD}';"
        "GRANT CONNECT ON DATABASE app TO app_user; CREATE SCHEMA shop AUTHORIZATION app_owner;"
        "SET ROLE app_owner; CREATE TABLE shop.orders (id int PRIMARY KEY, v int);"
        "INSERT INTO shop.orders VALUES (1, 0);"
        "GRANT USAGE ON SCHEMA shop TO app_user; GRANT SELECT, UPDATE ON shop.orders TO app_user; RESET ROLE"
    )
    try:
        yield estate
    finally:
        for role in ROLES:
            if await estate.owner.fetchval("SELECT to_regrole($1) IS NOT NULL", f'"{estate.name(role)}"'):
                await estate.run(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@asynccontextmanager
async def writing(estate: Estate) -> AsyncIterator[asyncpg.Connection]:
    """A user who can write to the table and knows nothing of us."""
    writer = await asyncpg.connect(estate.dsn("app_user"))
    try:
        yield writer
    finally:
        await writer.close()


async def test_a_role_that_can_do_nothing_but_connect_runs_the_whole_relay(estate: Estate) -> None:
    await estate.run(RELAY)
    await estate.run(MEMBER)
    installer = "pgcachewatch_installer"
    assert await estate.command(install, installer, "shop.orders", "--commit", "--columns", "v") == 0
    relay_options = options(estate.dsn("pgcachewatch_relay"), catalogue=CatalogueOptions(interval_s=0.05))

    async with running(relay_options) as relay, Client(relay) as client, writing(estate) as writer:
        await eventually(lambda: relay._watcher.stats.looks["ok"] > 0)
        await client.hello({"t": "sub", "id": 1, "table": "orders", "schema": "shop", "columns": ["id"]})
        assert (await client.until("subok"))["types"] == ["int4"]
        assert relay._inspection.stats.gaps == 0
        await writer.execute("UPDATE shop.orders SET v = 1 WHERE id = 1")
        assert [1, "u", "1"] in (await client.until("ev"))["i"]
        async with writer.transaction():
            await writer.execute("UPDATE shop.orders SET v = 2 WHERE id = 1")
            await writer.execute("SELECT pg_notify('pgcachewatch_token', $1)", "0" * 32)
        await client.say(t="barrier", id=1, token="0" * 32)
        await client.until("barrierok", id=1)
        await estate.owner.execute("ALTER TABLE shop.orders DISABLE TRIGGER ALL")
        assert (await client.until("ev", i=[[1, "*", None]]))["i"] == [[1, "*", None]]
        assert relay._watcher.stats.looks["failed"] == 0


@pytest.mark.parametrize("grants", [MEMBER, MEMBER.rpartition("GRANT")[0] + GRANTED], ids=["member", "trigger"])
async def test_the_installer_installs_with_either_grant_and_uninstalls_with_none(
    estate: Estate, grants: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await estate.run(grants)
    installer = "pgcachewatch_installer"
    assert await estate.command(install, installer, "shop.orders", "--commit", "--channel-name", CHANNEL) == 0
    assert await estate.command(status, installer) == 0
    async with writing(estate) as writer:
        await writer.execute("UPDATE shop.orders SET v = 1 WHERE id = 1")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await writer.execute("SELECT pgcachewatch.ascii('x')")
    await estate.run(
        "REVOKE app_owner FROM pgcachewatch_installer; REVOKE ALL ON shop.orders FROM pgcachewatch_installer;"
        "REVOKE ALL ON SCHEMA shop FROM pgcachewatch_installer;"
        "REVOKE CREATE ON DATABASE app FROM pgcachewatch_installer"
    )

    assert await estate.command(uninstall, installer, "--commit") == 0

    left = await estate.owner.fetchval(
        "SELECT (SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%pgcachewatch%')"
        " + (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgcachewatch')"
    )
    assert left == 0


async def relay_at_work(estate: Estate) -> None:
    """All that a relay does with a journal, with the rights of its role."""
    relay = await asyncpg.connect(estate.dsn("pgcachewatch_relay"))
    try:
        assert await relay.fetchval(journal.is_there_sql())
        first, second = [await relay.fetchval(journal.epoch_sql()) for _ in range(2)]
        assert first == second
        assert await relay.fetchval(journal.starts_sql()) >= 1
        _, xmax, running = (await relay.fetchval("SELECT pg_current_snapshot()::text")).split(":")
        async with writing(estate) as writer:
            await writer.execute("UPDATE shop.orders SET v = v + 1 WHERE id = 1")
        header, *rows = await relay.fetch(journal.poll_sql(), xmax, running.split(",") if running else [])
        assert [(row["table_schema"], row["table_name"], row["keys"]) for row in rows] == [("shop", "orders", ["1"])]
        assert (await relay.fetch(journal.history_sql(), 10))[-1]["keys"] == ["1"]
        assert await relay.fetchval(journal.take_lock_sql())
        assert await relay.fetchval(journal.give_up_lock_sql())
        assert await relay.fetchval(journal.is_free_sql())
        assert await relay.fetchval(journal.own_xid_sql())
        await relay.execute(journal.notify_sql())
        measured = await relay.fetchrow(journal.measure_sql())
        assert measured is not None
        assert measured["rows"] >= 1
        assert await relay.fetchval(journal.prune_sql(), header["snapshot"], 100) >= 1
        assert await relay.fetchval(journal.epoch_sql()) == first
        name = secrets.token_hex(4)
        await relay.execute("INSERT INTO pgcachewatch.consumers (name) VALUES ($1)", name)
        await relay.execute("UPDATE pgcachewatch.consumers SET position = '' WHERE name = $1", name)
        await relay.execute("DELETE FROM pgcachewatch.consumers WHERE name = $1", name)
        for forged in (
            "INSERT INTO pgcachewatch.journal (shape, rel, op) VALUES (1, 1, 'u')",
            "UPDATE pgcachewatch.journal SET keys = NULL",
            "TRUNCATE pgcachewatch.journal",
            "UPDATE pgcachewatch.epoch SET id = ''",
            "DELETE FROM pgcachewatch.epoch",
            "DELETE FROM pgcachewatch.shapes",
            "DELETE FROM pgcachewatch.journal_state",
            "SELECT * FROM shop.orders",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await relay.execute(forged)
    finally:
        await relay.close()


@pytest.mark.parametrize("is_by_hand", [False, True], ids=["option", "runbook"])
async def test_a_relay_reads_and_prunes_the_journal_with_what_it_is_granted_and_can_do_nothing_else(
    estate: Estate, is_by_hand: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    await estate.run(RELAY)
    await estate.run(MEMBER)
    role = [] if is_by_hand else ["--relay-role", estate.name("pgcachewatch_relay")]
    installer = "pgcachewatch_installer"
    assert await estate.command(install, installer, "shop.orders", "--mode", "journal", *role, "--commit") == 0
    assert await estate.command(status, installer) == 0
    if is_by_hand:
        await estate.run(JOURNAL)

    await relay_at_work(estate)

    async with writing(estate) as writer:
        for table in TABLES:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(f"SELECT * FROM pgcachewatch.{table}")
    assert await estate.command(uninstall, installer, "--commit") == 0
    assert await estate.owner.fetchval("SELECT to_regnamespace('pgcachewatch') IS NULL")


async def test_the_journal_can_belong_to_a_role_that_can_not_log_in_and_is_mended_by_whoever_may(
    estate: Estate, capsys: pytest.CaptureFixture[str]
) -> None:
    await estate.run(RELAY)
    await estate.run(f"{MEMBER}; CREATE ROLE journal_owner NOLOGIN; GRANT journal_owner TO pgcachewatch_installer")
    await estate.run("GRANT CREATE ON DATABASE app TO journal_owner")
    owner, installer = estate.name("journal_owner"), "pgcachewatch_installer"
    arguments = ["--mode", "journal", "--owner", owner, "--relay-role", estate.name("pgcachewatch_relay"), "--commit"]
    assert await estate.command(install, installer, "shop.orders", *arguments) == 0

    owners = await estate.owner.fetch(
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'pgcachewatch'::regnamespace"
    )
    assert [each[0].strip('"') for each in owners] == [owner]
    await relay_at_work(estate)
    await estate.owner.execute("DROP TABLE pgcachewatch.journal")
    assert await estate.command(status, installer) == 1
    repair = ["--repair", "--owner", owner, "--relay-role", estate.name("pgcachewatch_relay"), "--commit"]
    assert await estate.command(install, installer, *repair) == 0
    await relay_at_work(estate)


async def test_a_role_without_a_grant_is_told_what_it_lacks(estate: Estate, capsys: pytest.CaptureFixture[str]) -> None:
    await estate.run(RELAY)

    with pytest.raises(SystemExit):
        await estate.command(install, "pgcachewatch_relay", "shop.orders", "--commit")

    assert "neither owned by this role nor with the TRIGGER privilege" in capsys.readouterr().err
