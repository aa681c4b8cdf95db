"""`doctor`: each measurement is judged, each finding that is not ok has its remedy."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pgcachewatch_daemon.commands.doctor import Diagnosis, Measurements, diagnose, doctor, measure, render
from pgcachewatch_daemon.core.server_version import ServerVersion
from tests.postgres import Database
from tests.row_triggers import RowTriggers

HEALTHY = Measurements(
    version=ServerVersion(18, 4),
    announced_pid=7, pids=(7, 7), is_in_recovery=False, role="r", may_create=True, has_schema=True,
    watchable=3, tables=3, queue_usage=0.0, commit_waiters=0, prepared=0, skew_s=0.01, round_trip_s=0.001,
    loopback_s=0.001, losing=(),
)  # fmt: skip


def grades(found: Measurements) -> dict[str, str]:
    return {one.subject: one.grade for one in diagnose(found) if one.grade != "ok"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"version": ServerVersion(13, 20)}, {"version": "fail"}),
        ({"version": ServerVersion(15, 15)}, {"version": "warn"}),
        ({"version": ServerVersion(15, 16)}, {}),
        ({"pids": (8, 8)}, {"pooler": "fail"}),
        ({"pids": (7, 8)}, {"pooler": "fail"}),
        ({"is_in_recovery": True, "loopback_s": None}, {"recovery": "fail"}),
        ({"may_create": False, "has_schema": False}, {"privileges": "warn", "triggers": "warn"}),
        ({"may_create": False}, {}),
        ({"watchable": 1}, {"privileges": "warn"}),
        ({"queue_usage": 0.2}, {"queue": "warn"}),
        ({"queue_usage": 0.5}, {"queue": "fail"}),
        ({"commit_waiters": 5}, {"commits": "warn"}),
        ({"prepared": 10, "notifying": 4}, {"two-phase": "warn"}),
        ({"prepared": 10}, {}),
        ({"journal": "1 MB", "oldest_s": 600.0}, {}),
        ({"journal": "1 MB", "oldest_s": 7_200.0}, {"journal": "warn"}),
        ({"journal": "1 MB", "may_read_journal": False}, {"journal": "warn"}),
        ({"journal": "1 MB", "journal_problem": "broken", "may_read_journal": False}, {"journal": "fail"}),
        ({"publications": ("everything",)}, {"published": "warn"}),
        ({"journal_problem": "there is none, and nobody writes to it"}, {}),
        ({"skew_s": -3.0}, {"clock": "warn"}),
        ({"skew_s": 1.2, "round_trip_s": 2.0}, {}),
        ({"loopback_s": None}, {"loopback": "fail"}),
        ({"loopback_s": 0.5}, {"loopback": "warn"}),
        ({"losing": ("public.t",)}, {"triggers": "fail"}),
        ({"has_schema": False}, {"triggers": "warn"}),
    ],
)
def test_each_measurement_is_judged_by_itself(changes: dict[str, object], expected: dict[str, str]) -> None:
    found = replace(HEALTHY, **changes)  # type: ignore[arg-type]  # the fields have as many types

    assert grades(found) == expected
    assert all(bool(one.remedy) == (one.grade != "ok") for one in diagnose(found))
    assert "public.t" in render(diagnose(found)) or not found.losing


def test_a_name_that_would_steer_the_terminal_is_written_out() -> None:
    text = render([Diagnosis("fail", "triggers", "public.a\x1b[2J", "see public.a\x1b[2J")])

    assert text.count("a\\u001b[2J") == 2
    assert "\x1b" not in text


async def test_a_database_that_is_fit_is_exit_code_0(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rows.install("t")

    assert await asyncio.to_thread(doctor, ["--pg-dsn", database.dsn]) == 0

    out = capsys.readouterr().out
    for subject in ("version", "pooler", "recovery", "privileges", "queue", "clock", "loopback", "triggers"):
        assert f"  {subject} " in out


async def test_triggers_that_are_damaged_are_exit_code_1(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = await RowTriggers.open(database)
    await rows.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rows.install("t")
    await rows.writer.execute("ALTER TABLE t DISABLE TRIGGER zz_pgcachewatch_update")

    assert await asyncio.to_thread(doctor, ["--pg-dsn", database.dsn]) == 1

    assert "fail  triggers    not as installed: public.t" in capsys.readouterr().out


async def test_a_journal_is_looked_at_when_tables_write_to_it(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = await RowTriggers.open(database, "journal")
    await rows.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rows.install("t")
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    assert await asyncio.to_thread(doctor, ["--pg-dsn", database.dsn]) == 0
    assert "ok    journal     0.0 MB, at most 1 rows" in capsys.readouterr().out
    await rows.writer.execute("CREATE PUBLICATION everything FOR ALL TABLES")
    await rows.writer.execute("UPDATE pgcachewatch.journal SET at = at - interval '2 hours'")
    assert await asyncio.to_thread(doctor, ["--pg-dsn", database.dsn]) == 0
    out = capsys.readouterr().out
    assert "the oldest written 2.0 h ago" in out
    assert "the journal is part of everything" in out
    await rows.writer.execute("DROP TABLE pgcachewatch.shapes")

    assert await asyncio.to_thread(doctor, ["--pg-dsn", database.dsn]) == 1

    assert "fail  journal     there is no table pgcachewatch.shapes" in capsys.readouterr().out


async def test_what_notifies_is_counted_by_the_tables_modes(database: Database) -> None:
    rows = await RowTriggers.open(database, "journal")
    await rows.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")

    counts = []
    for mode, wake in (("journal", "none"), ("journal", "gated"), ("direct", None)):
        await rows.install("t", mode=mode, wake=wake)
        counts.append((await measure(rows.writer)).notifying > 0)

    assert counts == [False, True, True]


async def test_measuring_leaves_nothing_behind(database: Database) -> None:
    connection = await database.connect()

    found = await measure(connection)

    assert found.loopback_s is not None
    assert not found.has_pooler
    assert await connection.fetch("SELECT pg_listening_channels()") == []


def test_a_database_that_can_not_be_reached_is_a_finding_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    assert doctor(["--pg-host", "127.0.0.1", "--pg-port", str(unused_tcp_port)]) == 1

    out = capsys.readouterr().out
    assert out.startswith("fail  connection")
    assert "->" in out
