"""The session of the consumers, on a real journal."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pgcachewatch.models import Gap, Scope
from pgcachewatch.protocol.messages import Want
from pgcachewatch_daemon.core.consumers import Letter, Saved
from pgcachewatch_daemon.core.pages import PAGE_ROWS, Filter, Page, Place
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.io.postgres.consumers import (
    ConsumerSession,
    Elsewhere,
    Found,
    Missed,
    NoJournal,
    Unusable,
)
from tests.postgres import Database
from tests.row_triggers import CHANNEL, RowTriggers

WANTED = Filter((Want(channel=CHANNEL, table="t"),))


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    await rig.install("t", "u")
    return rig


@pytest.fixture
async def session(rows: RowTriggers) -> AsyncIterator[ConsumerSession]:
    opened = await ConsumerSession.open(SourceOptions(dsn=rows.database.dsn), "one")
    yield opened
    await opened.close()


async def found(session: ConsumerSession) -> Found:
    answer = await session.find("c")
    assert isinstance(answer, Found)
    return answer


async def read(session: ConsumerSession, place: Place) -> Page:
    answer = await session.read("c", place, WANTED)
    assert isinstance(answer, Page)
    return answer


async def test_a_database_without_a_journal_is_told(database: Database) -> None:
    with pytest.raises(NoJournal):
        await ConsumerSession.open(SourceOptions(dsn=database.dsn), "one")


async def test_a_new_consumer_begins_now_and_reads_what_it_is_for(rows: RowTriggers, session: ConsumerSession) -> None:
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    place = (await found(session)).saved.place
    await rows.writer.execute("INSERT INTO t VALUES (2)")
    await rows.writer.execute("INSERT INTO u VALUES (3)")
    page = await read(session, place)
    assert [getattr(entry.change, "keys", None) for entry in page.entries] == [("2",)]
    assert (await read(session, page.end)).entries == ()


async def test_another_session_finds_what_was_saved_and_who_saved_it(
    rows: RowTriggers, session: ConsumerSession
) -> None:
    place = (await found(session)).saved.place
    other = await ConsumerSession.open(SourceOptions(dsn=rows.database.dsn), "two")
    try:
        assert isinstance(await other.find("c"), Elsewhere)
        saved = Saved(Place(place.epoch, place.snapshot, "9:9:", 4), ("1:2",), {"3:4": 2})
        assert await session.save("c", saved, {})
        await session.release("c")
        assert await other.find("c") == Found(saved, "one")
    finally:
        await other.close()


async def test_a_letter_and_the_place_behind_it_are_stored_together(
    rows: RowTriggers, session: ConsumerSession
) -> None:
    place = (await found(session)).saved.place
    letter = Letter("1:2", Gap(Scope(), "forced"), "bad \0 \ud800", 5)
    assert await session.save("c", Saved(place, letters=(letter,)), {"1:2": "{}"})
    assert await rows.writer.fetchval("SELECT reason FROM pgcachewatch.dead_letters") == "bad  \\ud800"
    await rows.writer.execute("DELETE FROM pgcachewatch.consumers")
    assert not await session.save("c", Saved(place), {})


async def test_a_page_that_is_full_is_cut_and_the_next_goes_on(rows: RowTriggers, session: ConsumerSession) -> None:
    place = (await found(session)).saved.place
    async with rows.writer.transaction():
        for number in range(PAGE_ROWS + 20):
            await rows.writer.execute("INSERT INTO t VALUES ($1)", number)
    first = await read(session, place)
    second = await read(session, first.end)
    assert (len(first.entries), len(second.entries)) == (PAGE_ROWS, 20)
    assert second.end == Place(place.epoch, first.until)


async def test_what_is_gone_is_missed(rows: RowTriggers, session: ConsumerSession) -> None:
    place = (await found(session)).saved.place
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await rows.writer.execute("DELETE FROM pgcachewatch.journal")
    missed = await session.read("c", place, WANTED)
    assert isinstance(missed, Missed)
    assert missed.gap.reason == "pruned"
    assert missed.since is not None

    await rows.writer.execute("TRUNCATE pgcachewatch.journal")
    again = await session.read("c", missed.end, WANTED)
    assert isinstance(again, Missed)
    assert again.gap.reason == "source_lost"
    assert again.end.epoch != place.epoch
    await rows.writer.execute("INSERT INTO t VALUES (2)")
    assert len((await read(session, again.end)).entries) == 1


async def test_a_name_that_can_not_be_stored_is_refused_and_nothing_else_is_harmed(
    rows: RowTriggers, session: ConsumerSession
) -> None:
    with pytest.raises(Unusable):
        await session.find("bad \ud800")
    await found(session)
