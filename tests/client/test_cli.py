"""`install` and `uninstall` as a user types them: what is printed, what is changed, and how it fails."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import EntryPoint
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgcachewatch import cli
from pgcachewatch.__main__ import main as program
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


def test_asyncpg_missing_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    assert program(["uninstall", "--mode", "table"]) == 1

    assert "pgcachewatch[postgres]" in capsys.readouterr().err


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert program([]) == 0

    out = capsys.readouterr().out
    for name in ("install", "uninstall", "serve", "demo"):
        assert f"  {name} " in out


def announced(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)


def told(arguments: list[str]) -> int:
    """Stands for the daemon's command."""
    sys.stdout.write(f"rows {arguments}")
    return 0


THEIRS = EntryPoint("install", f"{__name__}:told", "pgcachewatch.commands")


@pytest.mark.parametrize(
    ("arguments", "is_row_mode"),
    [
        (["users"], True),
        (["users", "--mode", "row"], True),
        (["users", "--mode=row", "--commit"], True),
        (["users", "--mode", "table"], False),
        (["--mode=table", "users"], False),
        (["users", "--trigger-name", "tg"], False),
        (["users", "--function-name=fn"], False),
        (["users", "--trig", "tg"], False),
    ],
)
def test_install_tells_rows_apart_unless_the_original_is_asked_for(
    arguments: list[str], is_row_mode: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda self: told)
    announced(monkeypatch, THEIRS)

    assert program(["install", *arguments]) == 0

    out = capsys.readouterr().out
    assert out == f"rows {arguments}" if is_row_mode else "FOR EACH STATEMENT EXECUTE FUNCTION" in out


@pytest.mark.parametrize("found", [(), (EntryPoint("install", "no_such_module:x", "pgcachewatch.commands"),)])
def test_without_the_daemon_install_is_the_originals_and_says_so(
    found: tuple[EntryPoint, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announced(monkeypatch, *found)

    assert program(["install", "users"]) == 0

    out, err = capsys.readouterr()
    assert "FOR EACH STATEMENT EXECUTE FUNCTION" in out
    assert "without the daemon package only table-level triggers" in err
    assert program(["install", "users", "--mode", "row"]) == 1
    assert "pip install 'pgcachewatch[daemon]'" in capsys.readouterr().err


def test_every_command_of_the_daemon_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert program([]) == 0

    out = capsys.readouterr().out
    for line in ("watch tables: put triggers on each that tell which rows changed", "every table: watched or not"):
        assert line in out
    assert "  doctor " in out


def test_a_command_nobody_has_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["brew"]) == 2
    assert "'brew'" in capsys.readouterr().err


def test_without_the_daemon_its_commands_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())

    assert program(["serve"]) == 1

    err = capsys.readouterr().err
    assert "pip install 'pgcachewatch[daemon]'" in err
    assert err.count("\n") == 1


def test_a_command_that_can_not_be_loaded_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("serve", "pgcachewatch_no_such_module:serve", "pgcachewatch.commands")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (broken,))

    assert program(["serve"]) == 1
    assert "pip install 'pgcachewatch[daemon]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "example.com:8420"], "is no address of a relay"),
        (["status", "--json", "ws://x:port"], "is no address of a relay"),
        (["tail", "http://"], "is no address of a relay"),
    ],
)
def test_what_names_a_relay_goes_to_the_client(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("pgcachewatch")
    before = logger.level

    assert program(arguments) == 2
    assert said in capsys.readouterr().err
    assert logger.level == before, "who calls it from a program keeps the log"


def test_status_of_a_database_goes_to_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program(["status", "--help"])
    assert "--pg-dsn" in capsys.readouterr().out


def test_the_list_of_commands_has_those_for_relays(capsys: pytest.CaptureFixture[str]) -> None:
    assert program(["--help"]) == 0
    assert {"tail", "status URL", "status"} <= {line[2:14].strip() for line in capsys.readouterr().out.splitlines()}
