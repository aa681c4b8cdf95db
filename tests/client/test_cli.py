"""`install` and `uninstall` as a user types them: what is printed, what is changed, and how it fails."""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgcachewatch import cli
from tests.postgres import Database


async def triggers(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await connection.fetch(cli.queries.fetch_trigger_names(""))
    return sorted({(row["schema"], row["table"]) for row in rows})


async def test_install_prints_sql_and_changes_nothing_without_commit(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE users (id int)")

    assert await cli.main(["install", "users", "--pg-dsn", database.dsn]) == 0

    out, err = capsys.readouterr()
    assert 'ON "users"' in out
    assert "--commit" in err
    assert await triggers(connection) == []


async def test_install_and_uninstall_as_a_program_of_the_original_calls_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE sysconf (id int)")
    address = urlsplit(database.dsn)
    for name, value in {
        "PGHOST": address.hostname,
        "PGPORT": str(address.port),
        "PGUSER": address.username,
        "PGPASSWORD": address.password,
        "PGDATABASE": database.name,
    }.items():
        monkeypatch.setenv(name, value or "")

    monkeypatch.setattr(sys, "argv", ["pgcachewatch", "install", "sysconf", "--commit"])
    await cli.main()
    found = cli.queries.fetch_trigger_names(cli.cliparser().trigger_name)
    assert len(await connection.fetch(found)) == 3

    monkeypatch.setattr(sys, "argv", ["pgcachewatch", "uninstall", "--commit"])
    await cli.main()
    assert await connection.fetch(found) == []
    assert await connection.fetchval("SELECT count(*) FROM pg_proc WHERE proname LIKE 'fn_pgcachewatch%'") == 0


async def test_uninstall_finds_the_tables_of_its_channel_in_every_schema_and_no_others(database: Database) -> None:
    connection = await database.connect()
    await connection.execute("CREATE SCHEMA s2; CREATE TABLE kv (id int); CREATE TABLE s2.kv (id int)")
    base = ["--pg-dsn", database.dsn, "--commit"]
    await cli.main(["install", "kv", "s2.kv", "--channel-name", "ch", *base])
    await cli.main(["install", "kv", "--channel-name", "ch2", *base])

    assert await cli.main(["uninstall", "--channel-name", "ch", *base]) == 0

    rows = await connection.fetch(cli.queries.fetch_trigger_names("tg_"))
    assert {row["trigger_name"] for row in rows} == {"tg_pgcachewatch_table_change_ch2"}


async def test_install_may_be_repeated(database: Database) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE kv (id int)")

    for _ in range(2):
        assert await cli.main(["install", "kv", "kv", "--pg-dsn", database.dsn, "--commit"]) == 0

    assert await triggers(connection) == [("public", "kv")]


async def test_hostile_table_names_do_no_harm(database: Database) -> None:
    connection = await database.connect()
    hostile = 'a"; drop table x; --'
    await connection.execute('CREATE TABLE x (id int); CREATE TABLE "a""; drop table x; --" (id int)')

    assert await cli.main(["install", hostile, "--pg-dsn", database.dsn, "--commit"]) == 0
    assert await triggers(connection) == [("public", hostile)]
    assert await cli.main(["uninstall", "--pg-dsn", database.dsn, "--commit"]) == 0
    assert await triggers(connection) == []
    assert await connection.fetchval("SELECT to_regclass('x')") == "x"


async def test_one_table_that_does_not_exist_changes_nothing_at_all(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE kv (id int)")

    assert await cli.main(["install", "kv", "missing", "--pg-dsn", database.dsn, "--commit"]) == 1

    err = capsys.readouterr().err
    assert '"missing" does not exist' in err
    assert err.count("\n") == 1
    assert await triggers(connection) == []


async def test_a_database_that_can_not_be_reached_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    assert await cli.main(["uninstall", "--pg-host", "127.0.0.1", "--pg-port", str(unused_tcp_port)]) == 1

    err = capsys.readouterr().err
    assert "no connection to PostgreSQL" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["install"], ["install", "a.b.c"], ["install", "t", "--channel-name", "c" * 40], ["remove"]]
)
async def test_a_command_line_that_can_not_work_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        await cli.main(arguments)

    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_shows_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("PGDSN", "postgresql://u:hunter3@h/d")

    with pytest.raises(SystemExit):
        cli.cliparser(["install", "--help"])

    assert "hunter" not in capsys.readouterr().out
