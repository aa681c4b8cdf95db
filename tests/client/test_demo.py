"""The demo's own judgement: what its oracle takes for stale, what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import re
import types

import pytest

import pgcachewatch
from pgcachewatch import demo
from pgcachewatch.demo import ROWS, SAMPLES, STALENESS_S, TABLE, WRITE_EVERY_S, Demo, Oracle, Shown
from pgcachewatch.testing import FakeRelay
from tests.client.virtual_time import virtual_time

LASTS_S = 10.0
ROW = 7
NOW_S = 1_000.0


# --- the oracle


def test_a_version_is_due_from_the_staleness_bound_after_its_commit_returned() -> None:
    oracle = Oracle()
    oracle.committed(ROW, 1, NOW_S)
    oracle.committed(ROW, 2, NOW_S + 10)

    starts_s = [0, STALENESS_S - 0.001, STALENESS_S, 10 + STALENESS_S - 0.001, 10 + STALENESS_S]

    assert [oracle.due(ROW, NOW_S + start_s) for start_s in starts_s] == [0, 0, 1, 1, 2]


def test_rows_are_judged_apart() -> None:
    oracle = Oracle()
    oracle.committed(ROW, 5, NOW_S)

    oracle.check(ROW + 1, 0, NOW_S + 60)

    assert oracle.stale == 0


def test_a_read_older_than_the_bound_is_counted_and_ends_the_demo() -> None:
    oracle = Oracle()
    oracle.committed(ROW, 5, NOW_S)
    oracle.check(ROW, 4, NOW_S + STALENESS_S - 0.001)
    oracle.check(ROW, 5, NOW_S + 60)
    oracle.check(ROW, 6, NOW_S + 60)
    assert oracle.stale == 0

    with pytest.raises(AssertionError, match="stale hit: row 7 has version 4, at least 5 was due"):
        oracle.check(ROW, 4, NOW_S + STALENESS_S)

    assert oracle.stale == 1


def test_what_the_oracle_remembers_is_bounded_and_the_newest_is_kept() -> None:
    oracle = Oracle()
    for version in range(SAMPLES + 10):
        oracle.committed(ROW, version, NOW_S)

    assert len(oracle.commits[ROW]) == SAMPLES
    assert oracle.due(ROW, NOW_S + 60) == SAMPLES + 9


# --- what is printed


def test_a_line_says_how_long_ago_the_demo_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "time", types.SimpleNamespace(monotonic=lambda: NOW_S + 12.34))

    Shown(started_s=NOW_S).line("cache is LIVE")

    assert capsys.readouterr().out == "   12.3 s  cache is LIVE\n"


# --- the whole of it, on a database and a relay in memory


class Table:
    """Stands where the demo's Database is. The relay hears of each change, unless there is none."""

    def __init__(self, relay: FakeRelay | None) -> None:
        self.reachable = range(1_000_000)  # which of the attempts to use it succeed
        self.reads = 0
        self.statements: list[str] = []
        self._relay = relay
        self._attempts = itertools.count()
        self._versions: collections.Counter[int] = collections.Counter()

    async def use(self) -> Table:
        if next(self._attempts) not in self.reachable:
            raise ConnectionRefusedError("nobody listens")
        return self

    async def execute(self, statement: str) -> None:
        self.statements.append(statement)

    async def fetchval(self, statement: str, row: int) -> int:
        if statement.startswith("UPDATE"):
            self._versions[row] += 1
            if self._relay is not None:
                self._relay.emit(TABLE)
        else:
            self.reads += 1
        return self._versions[row]

    async def close(self) -> None:
        self.statements.append("closed")


async def run(table: Table, relay: FakeRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo for LASTS_S of virtual time."""
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(demo, "Database", lambda dsn: table)
    monkeypatch.setattr(demo, "time", types.SimpleNamespace(monotonic=loop.time))
    monkeypatch.setattr(pgcachewatch, "connect", relay.connect)
    running = asyncio.create_task(Demo("postgresql://", "ws://relay", started_s=loop.time()).run())
    await asyncio.wait([running], timeout=LASTS_S)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


@virtual_time
async def test_it_shows_hits_and_each_invalidation_and_closes_its_connections(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = FakeRelay()
    table = Table(relay)

    await run(table, relay, monkeypatch)

    output = capsys.readouterr().out
    assert output.count("invalidated 0.0 ms after commit") == LASTS_S / WRITE_EVERY_S
    # The table as a whole is invalidated, so each write costs a run for each row that is read.
    hits, misses = counts(output)
    assert hits > misses > ROWS
    assert "stale hits 0" in output
    assert table.statements[-2:] == ["closed", "closed"]


@virtual_time
async def test_a_relay_that_tells_of_no_change_is_found_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        await run(Table(relay=None), FakeRelay(), monkeypatch)

    (error,) = raised.value.exceptions
    assert isinstance(error, AssertionError)
    assert "stale hit" in str(error)
    assert "stale hits 0" in capsys.readouterr().out


@virtual_time
async def test_a_database_that_comes_late_and_goes_is_waited_for_and_its_failures_are_no_misses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = FakeRelay()
    table = Table(relay)
    table.reachable = range(5, 100)

    await run(table, relay, monkeypatch)

    output = capsys.readouterr().out
    assert output.count("nobody listens; trying again") > 5
    assert output.index("trying again") < output.index("cache is LIVE") < output.rindex("trying again")
    assert counts(output)[1] == table.reads


def counts(output: str) -> tuple[int, int]:
    """Hits and misses, as last reported."""
    hits, misses = re.findall(r"([\d,]+) hits, ([\d,]+) misses", output)[-1]
    return int(hits.replace(",", "")), int(misses.replace(",", ""))


# --- the command line


def test_without_a_database_the_command_line_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PGCACHEWATCH_DSN", raising=False)

    with pytest.raises(SystemExit) as raised:
        demo.main(["--relay", "ws://127.0.0.1:1"])

    assert raised.value.code == 2
    assert "PGCACHEWATCH_DSN" in capsys.readouterr().err
