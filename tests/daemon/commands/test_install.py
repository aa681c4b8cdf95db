"""`install` and `uninstall` as a person types them: what is printed, what is changed, and how it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncpg
import pytest

from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch_daemon.commands.install import install, uninstall
from pgcachewatch_daemon.sql.drift import findings
from tests.postgres import Database
from tests.row_triggers import RowTriggers


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE users (id int PRIMARY KEY, tenant_id int); CREATE TABLE kv (k text)")
    return rig


async def typed(rows: RowTriggers, command: Callable[[list[str]], int], *arguments: str) -> int:
    """In a thread: a command has an event loop of its own."""
    return await asyncio.to_thread(command, [*arguments, "--pg-dsn", rows.database.dsn])


async def triggers(connection: asyncpg.Connection) -> int:
    count = await connection.fetchval("SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'zz_pgcachewatch%'")
    assert isinstance(count, int)
    return count


async def test_install_prints_sql_that_psql_runs_and_changes_nothing_without_commit(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await typed(rows, install, "users") == 0

    out, err = capsys.readouterr()
    assert await triggers(rows.writer) == 0
    assert "--commit" in err
    await rows.writer.execute(out)
    assert await triggers(rows.writer) == 4
    assert findings(await rows.catalogue()) == []


async def test_install_with_commit_watches_and_is_done_when_repeated(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await typed(rows, install, "users", "kv", "--commit") == 0
    assert await triggers(rows.writer) == 8
    capsys.readouterr()

    assert await typed(rows, install, "users", "kv", "--commit") == 0

    out, err = capsys.readouterr()
    assert out == ""
    assert "Nothing is to be done" in err


async def test_the_channel_is_the_relays_own_unless_another_is_named(rows: RowTriggers) -> None:
    await typed(rows, install, "users", "--commit")
    heard = asyncio.Event()
    await rows.writer.add_listener(DEFAULT_PG_CHANNEL, lambda *_: heard.set())

    await rows.writer.execute("INSERT INTO users VALUES (1)")

    async with asyncio.timeout(30):
        await heard.wait()


async def test_columns_and_max_keys_are_taken(rows: RowTriggers) -> None:
    await typed(
        rows, install, "users", "--columns", "tenant_id", "--max-keys", "2", "--channel-name", "ch_rows", "--commit"
    )

    assert await rows.told("INSERT INTO users VALUES (1, 7)", "INSERT INTO users VALUES (2, 7), (3, 8)") == [
        ("insert", "users", {"1", "tenant_id=7"}),
        ("insert", "users", None),
    ]


async def test_all_watches_every_table_and_says_what_it_skipped(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    await rows.writer.execute("CREATE VIEW w AS SELECT 1")

    assert await typed(rows, install, "--all", "--commit") == 0

    assert await triggers(rows.writer) == 8
    assert "skipped public.w: a view" in capsys.readouterr().err


async def test_repair_mends_what_is_installed_and_nothing_else(rows: RowTriggers) -> None:
    await typed(rows, install, "users", "--commit", "--channel-name", "ch_rows")
    await rows.writer.execute("DROP TRIGGER zz_pgcachewatch_insert ON users")

    assert await typed(rows, install, "--repair", "--commit", "--single-transaction") == 0

    assert await triggers(rows.writer) == 4
    assert await rows.told("INSERT INTO users VALUES (1)") == [("insert", "users", {"1"})]


async def test_uninstall_takes_one_table_one_channel_or_everything(rows: RowTriggers) -> None:
    await rows.writer.execute("CREATE TABLE third (id int)")
    await typed(rows, install, "users", "third", "--commit")
    await typed(rows, install, "kv", "--channel-name", "other", "--commit")

    assert await typed(rows, uninstall, "third", "--commit") == 0
    assert await triggers(rows.writer) == 8
    assert await typed(rows, uninstall, "--channel-name", "other", "--commit") == 0
    assert await triggers(rows.writer) == 4
    assert await typed(rows, uninstall) == 0
    assert await triggers(rows.writer) == 4
    assert await typed(rows, uninstall, "--commit") == 0
    assert await triggers(rows.writer) == 0
    assert await rows.writer.fetchval("SELECT to_regnamespace('pgcachewatch') IS NULL")


async def test_a_dry_run_in_journal_mode_prints_sql_that_psql_runs(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await typed(rows, install, "users", "--mode", "journal", "--wake", "none") == 0

    out, _ = capsys.readouterr()
    assert await triggers(rows.writer) == 0
    await rows.writer.execute(out)
    assert await triggers(rows.writer) == 4
    assert findings(await rows.catalogue()) == []
    await rows.writer.execute("INSERT INTO users VALUES (1)")
    assert [row["keys"] for row in await rows.rows()] == [["1"]]


async def test_a_mode_is_kept_until_another_is_asked_for(rows: RowTriggers, capsys: pytest.CaptureFixture[str]) -> None:
    await typed(rows, install, "users", "--mode", "journal", "--fail-open", "--commit")
    capsys.readouterr()
    for arguments in (["users"], ["users", "--mode", "row"], ["users", "--mode", "journal"], ["--repair"]):
        await typed(rows, install, *arguments)
        assert capsys.readouterr().out == "", arguments
    await typed(rows, install, "users", "--no-fail-open", "--commit")
    said = {
        one.settings["is_fail_open"] for one in (await rows.catalogue()).functions.values() if "mode" in one.settings
    }
    assert said == {False}
    await typed(rows, install, "users", "--mode", "direct", "--commit")

    assert not [one for one in (await rows.catalogue()).functions.values() if "mode" in one.settings]


async def test_uninstalling_everything_takes_the_journal(rows: RowTriggers) -> None:
    await typed(rows, install, "users", "kv", "--mode", "journal", "--commit")
    await rows.writer.execute("INSERT INTO users VALUES (1)")

    assert await typed(rows, uninstall, "--commit") == 0

    assert await rows.writer.fetchval("SELECT to_regnamespace('pgcachewatch') IS NULL")


async def test_one_name_that_can_not_work_changes_nothing_at_all(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        await typed(rows, install, "users", "user", "--commit")

    assert ended.value.code == 2
    assert "did you mean public.users" in capsys.readouterr().err
    assert await triggers(rows.writer) == 0


async def test_hostile_names_do_no_harm(rows: RowTriggers) -> None:
    await rows.writer.execute('CREATE TABLE "a""; drop table kv; --\n" (id int PRIMARY KEY)')

    assert await typed(rows, install, '"a""; drop table kv; --\n"', "--commit") == 0
    assert await triggers(rows.writer) == 4
    assert await typed(rows, uninstall, "--commit") == 0
    assert await triggers(rows.writer) == 0
    assert await rows.writer.fetchval("SELECT to_regclass('kv')") == "kv"


async def test_a_column_that_does_not_exist_says_what_is_close(
    rows: RowTriggers, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        await typed(rows, install, "users", "--columns", "tenant", "--commit")

    assert "did you mean tenant_id" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["t", "--all"],
        ["--all", "--repair"],
        ["t", "--max-keys", "0"],
        ["t", "--mode", "table"],
        ["t", "--mode", "other"],
        ["users", "--wake", "none"],
        ["users", "--fail-open"],
        ["users", "--mode", "journal", "--wake", "none", "--fail-open"],
        ["users", "--relay-role", "nobody"],
        ["t", "--channel-name", "c" * 64],
        ["a.b.c"],
    ],
)
async def test_a_command_line_that_can_not_work_is_exit_code_2(rows: RowTriggers, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        await typed(rows, install, *arguments)

    assert ended.value.code == 2


async def test_a_role_without_rights_is_told_in_one_line(rows: RowTriggers, capsys: pytest.CaptureFixture[str]) -> None:
    role = f"nobody_{rows.database.name}"
    await rows.writer.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT TRIGGER ON users TO {role}")
    try:
        arguments = ["users", "--commit", "--pg-user", role, "--pg-password", "x", "--pg-dsn", rows.database.dsn]
        assert await asyncio.to_thread(install, arguments) == 1
        err = capsys.readouterr().err
        assert "permission denied" in err
        assert "nothing was changed" in err
        assert err.count("\n") == 1
    finally:
        await rows.writer.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_database_that_can_not_be_reached_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    assert install(["t", "--pg-host", "127.0.0.1", "--pg-port", str(unused_tcp_port)]) == 1

    err = capsys.readouterr().err
    assert "no connection to PostgreSQL" in err
    assert err.count("\n") == 1


def test_help_shows_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("PGDSN", "postgresql://u:hunter3@h/d")

    with pytest.raises(SystemExit):
        install(["--help"])

    assert "hunter" not in capsys.readouterr().out
