"""The catalogue is read beside the event path: as often as it should be, and no fault of it goes further."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import asyncpg
import pytest

from pgcachewatch_daemon.io import catalogue as module
from pgcachewatch_daemon.io.catalogue import CatalogueOptions, CatalogueWatcher, fetch_catalogue, hasten_spacing_s
from pgcachewatch_daemon.sql.catalogue import Catalogue
from tests.postgres import Database
from tests.proxy import Proxy, port_of, through
from tests.waiting import eventually

SLOW = CatalogueOptions(interval_s=3600.0)
FAST = CatalogueOptions(interval_s=0.01)


def as_it_is(catalogue: Catalogue) -> Catalogue:
    return catalogue


@asynccontextmanager
async def watching(
    dsn: str, options: CatalogueOptions, *, judge: Callable[[Catalogue], Catalogue] = as_it_is
) -> AsyncIterator[tuple[CatalogueWatcher[Catalogue], list[Catalogue]]]:
    told: list[Catalogue] = []
    watcher = CatalogueWatcher(
        replace(options, dsn=dsn), judge=judge, tell=lambda verdict, _: told.append(verdict), clock=time.monotonic
    )
    watcher.start()
    try:
        yield watcher, told
    finally:
        await watcher.close()


async def test_the_catalogue_has_every_table_whatever_their_number(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FETCH", 2)
    connection = await database.connect()
    await connection.execute("; ".join(f"CREATE TABLE t{number} (id int PRIMARY KEY)" for number in range(5)))
    found = await fetch_catalogue(connection, statement_timeout_s=30.0)
    assert [one.name for one in found.relations.values()] == [f"t{number}" for number in range(5)]
    assert await connection.fetchval("SHOW statement_timeout") == "0", "no setting outlives the look"


async def test_a_look_comes_with_the_source_and_then_from_time_to_time(database: Database) -> None:
    async with watching(database.dsn, FAST) as (watcher, told):
        watcher.source_up()
        await eventually(lambda: len(told) >= 3)
        assert watcher.stats.looks["failed"] == 0


async def test_a_look_that_is_asked_for_does_not_wait_for_its_turn(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASTEN_SPACING_S", 0.0)
    async with watching(database.dsn, SLOW) as (watcher, told):
        watcher.source_up()
        await eventually(lambda: len(told) == 1)
        await (await database.connect()).execute("CREATE TABLE fresh (id int)")
        watcher.hasten()
        await eventually(lambda: len(told) == 2)
        assert [one.name for one in told[-1].relations.values()] == ["fresh"]


@pytest.mark.parametrize(
    ("took_s", "interval_s", "spacing_s"),
    [
        pytest.param(0.02, 60.0, 1.0, id="a short one: once a second"),
        pytest.param(2.0, 60.0, 18.0, id="a long one: a tenth of the time"),
        pytest.param(20.0, 60.0, 60.0, id="never later than without being asked"),
        pytest.param(2.0, 0.5, 0.5, id="nor where the interval is short"),
    ],
)
def test_looks_that_are_asked_for_take_a_bounded_share_of_the_time(
    took_s: float, interval_s: float, spacing_s: float
) -> None:
    assert hasten_spacing_s(took_s, interval_s) == spacing_s


async def test_nobody_looks_while_the_source_is_lost(database: Database) -> None:
    async with watching(database.dsn, FAST) as (watcher, told):
        watcher.source_up()
        await eventually(lambda: len(told) >= 1)
        watcher.source_lost()
        await eventually(lambda: watcher._task is not None and not watcher._may_look.is_set())
        connection = await database.connect()
        await eventually(lambda: has_no_session(connection))
        count = len(told)
        watcher.source_up()
        await eventually(lambda: len(told) > count)


async def has_no_session(connection: asyncpg.Connection) -> bool:
    found = await connection.fetchval(
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE application_name = 'pgcachewatch drift check' AND datname = current_database()"
    )
    return bool(found == 0)


async def test_a_look_leaves_no_session_behind(database: Database) -> None:
    async with watching(database.dsn, SLOW) as (watcher, told):
        watcher.source_up()
        await eventually(lambda: len(told) == 1)
        connection = await database.connect()
        await eventually(lambda: has_no_session(connection))


async def test_a_database_that_can_not_be_reached_is_one_line_and_tried_again(
    unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(module, "HASTEN_SPACING_S", 0.0)
    async with watching(f"postgresql://u@127.0.0.1:{unused_tcp_port}/d", SLOW) as (watcher, told):
        watcher.source_up()
        await eventually(lambda: watcher.stats.looks["failed"] >= 3)
    assert told == []
    assert len([each for each in caplog.messages if "catalogue can not be read" in each]) == 1


async def test_a_judge_that_fails_is_counted_and_the_next_look_goes_on(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY_MIN_S", 0.001)
    monkeypatch.setattr(module, "HASTEN_SPACING_S", 0.0)
    caplog.set_level(logging.INFO)
    faults = [RuntimeError("planted")]

    def judge(catalogue: Catalogue) -> Catalogue:
        if faults:
            raise faults.pop()
        return catalogue

    async with watching(database.dsn, SLOW, judge=judge) as (watcher, told):
        watcher.source_up()
        await eventually(lambda: len(told) == 1)
        assert watcher.stats.looks == {"ok": 1, "failed": 1}
    assert "planted" in caplog.messages[0]
    assert caplog.messages[1] == "catalogue read again"


async def test_closing_waits_for_no_server(database: Database) -> None:
    """Neither while connecting, nor in the middle of a look."""
    async with Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        proxy.black_hole()
        async with watching(through(proxy, database.dsn), SLOW) as (watcher, _):
            watcher.source_up()
            await asyncio.sleep(0)
        proxy.forward()
        blocker = await database.connect()
        async with blocker.transaction():
            await blocker.execute("CREATE SCHEMA pgcachewatch")
            await blocker.execute("LOCK TABLE pg_catalog.pg_inherits IN ACCESS EXCLUSIVE MODE")
            async with watching(through(proxy, database.dsn), SLOW) as (watcher, told):
                watcher.source_up()
                await eventually(lambda: watcher._connection is not None)
            assert told == []


async def test_closing_what_was_never_started_does_nothing() -> None:
    watcher = CatalogueWatcher(SLOW, judge=as_it_is, tell=lambda _, began_s: None, clock=time.monotonic)
    await watcher.close()
