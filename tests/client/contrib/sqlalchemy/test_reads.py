"""Cached SELECTs on a real database; what changes there is told by a relay in memory."""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import bindparam, event, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

import pgcachewatch
from pgcachewatch.contrib import sqlalchemy as contrib
from pgcachewatch.contrib.sqlalchemy import CachedReads, reads
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.contrib.sqlalchemy.shop import Book, Order, Sent, Tag, engine_on, filled_engine_on
from tests.postgres import Database

__all__ = ["fake_relay"]  # a fixture, for the tests below

TITLE = select(Book.title).where(Book.id == 1)


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    async with filled_engine_on(database) as engine:
        yield engine


@pytest.fixture
async def client(fake_relay: FakeRelay) -> AsyncIterator[pgcachewatch.Client]:
    async with fake_relay.connect() as client:
        yield client


class Shop:
    """Cached reads, and what of them was sent to the database."""

    def __init__(self, engine: AsyncEngine, client: pgcachewatch.Client, **options: Any) -> None:
        self.engine, self.client = engine, client
        self.reads = CachedReads(engine, client, **options)
        self.sent = Sent(engine)

    async def stored(self, statement: Any, session: AsyncSession | None = None) -> reads.Rows:
        """What is stored for a statement, which runs for it at most twice."""
        await self.reads.rows(statement, session)
        await self.client.wait_live()
        return await self.reads.rows(statement, session)


@pytest.fixture
def shop(engine: AsyncEngine, client: pgcachewatch.Client) -> Shop:
    return Shop(engine, client)


async def rename(engine: AsyncEngine, title: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(Book).where(Book.id == 1).values(title=title))


# --- hits


async def test_a_statement_runs_once_until_its_table_changes(shop: Shop, fake_relay: FakeRelay) -> None:
    rows = await shop.stored(TITLE)
    runs = len(shop.sent)

    assert rows == (("Emma",),)
    assert rows[0].title == "Emma"
    assert await shop.reads.rows(TITLE) is rows
    assert len(shop.sent) == runs

    await rename(shop.engine, "Persuasion")
    fake_relay.emit("tags")
    assert await shop.reads.rows(TITLE) is rows
    fake_relay.emit("books")
    assert (await shop.reads.rows(TITLE))[0].title == "Persuasion"


async def test_equal_statements_share_and_other_values_do_not(shop: Shop) -> None:
    await shop.stored(TITLE)
    runs = len(shop.sent)

    assert (await shop.reads.rows(select(Book.title).where(Book.id == 1)))[0].title == "Emma"
    assert len(shop.sent) == runs
    assert (await shop.reads.rows(select(Book.title).where(Book.id == 2)))[0].title == "Ulysses"
    assert await shop.reads.rows(select(Book.title).where(Book.id == 3)) == ()
    assert len(await shop.reads.rows(select(Book.title).where(Book.id.in_([1, 2])))) == 2
    assert len(await shop.reads.rows(select(Book.title).where(Book.id.in_([2])))) == 1
    assert len(shop.sent) == runs + 4


async def test_an_entity_is_given_as_its_columns_and_belongs_to_no_session(shop: Shop) -> None:
    async with AsyncSession(shop.engine) as session:
        rows = await shop.stored(select(Book).order_by(Book.id), session)

        assert [(row.id, row.title) for row in rows] == [(1, "Emma"), (2, "Ulysses")]
        assert list(session) == []


async def test_tables_in_other_schemas_are_followed(shop: Shop, fake_relay: FakeRelay) -> None:
    await shop.stored(select(Order.id))
    runs = len(shop.sent)

    fake_relay.emit('Order "s', schema="public")
    await shop.reads.rows(select(Order.id))
    assert len(shop.sent) == runs
    fake_relay.emit('Order "s', schema="Sales")
    await shop.reads.rows(select(Order.id))
    assert len(shop.sent) == runs + 1


async def test_concurrent_misses_are_one_query(shop: Shop) -> None:
    await shop.stored(TITLE)
    runs = len(shop.sent)

    await asyncio.gather(*(shop.reads.rows(select(Book.id).where(Book.id == 2)) for _ in range(10)))

    assert len(shop.sent) == runs + 1


async def test_a_session_that_reads_only_what_is_cached_takes_no_connection(shop: Shop) -> None:
    await shop.stored(TITLE)
    async with AsyncSession(shop.engine) as session, session.begin():
        assert (await shop.reads.rows(TITLE, session))[0].title == "Emma"
        assert shop.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of the pool that engines have


async def test_a_cache_that_is_bound_later_serves_too(engine: AsyncEngine, client: pgcachewatch.Client) -> None:
    cache = pgcachewatch.Cache()
    cached, sent = CachedReads(engine, cache), Sent(engine)
    for _ in range(2):
        assert (await cached.rows(TITLE))[0].title == "Emma"
    assert len(sent) == 2

    with cache.bound(client):
        await client.wait_live()
        for _ in range(2):
            assert (await cached.rows(TITLE))[0].title == "Emma"
    assert len(sent) == 3


async def test_misses_read_where_they_are_told_to(
    engine: AsyncEngine, client: pgcachewatch.Client, database: Database
) -> None:
    reader = engine_on(database)
    try:
        shop, read = Shop(engine, client, reader=reader, maxsize=10), Sent(reader)
        async with AsyncSession(engine) as session:
            assert (await shop.stored(TITLE, session))[0].title == "Emma"
        assert (len(shop.sent), len(read) > 0) == (0, True)
    finally:
        await reader.dispose()


# --- sessions that see what others do not


async def test_a_session_reads_its_own_writes_and_stores_nothing(shop: Shop) -> None:
    rows = await shop.stored(TITLE)
    async with AsyncSession(shop.engine) as session:
        book = await session.get_one(Book, 1)
        assert await shop.reads.rows(TITLE, session) is rows

        book.title = "Persuasion"

        assert (await shop.reads.rows(TITLE, session))[0].title == "Persuasion"
        assert await shop.reads.rows(TITLE) is rows
        await session.rollback()
        assert await shop.reads.rows(TITLE, session) is rows


async def test_what_is_not_committed_is_not_stored(shop: Shop, fake_relay: FakeRelay) -> None:
    await shop.stored(TITLE)
    async with AsyncSession(shop.engine) as session:
        await session.execute(update(Book).values(title="Persuasion"))
        fake_relay.emit("books")

        assert (await shop.reads.rows(TITLE, session))[0].title == "Persuasion"
        assert (await shop.reads.rows(TITLE))[0].title == "Emma"


async def test_a_miss_in_a_transaction_of_an_earlier_instant_is_not_stored(shop: Shop, fake_relay: FakeRelay) -> None:
    await shop.stored(TITLE)
    async with AsyncSession(shop.engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        await session.execute(select(Tag.id))
        await rename(shop.engine, "Persuasion")
        fake_relay.emit("books")

        assert (await shop.reads.rows(TITLE, session))[0].title == "Emma"
        assert (await shop.reads.rows(TITLE))[0].title == "Persuasion"
        assert (await shop.reads.rows(TITLE, session))[0].title == "Emma"


async def test_after_commit_and_barrier_a_session_reads_what_it_wrote(shop: Shop, fake_relay: FakeRelay) -> None:
    await shop.stored(TITLE)
    async with AsyncSession(shop.engine) as session:
        (await session.get_one(Book, 1)).title = "Persuasion"
        await session.commit()
        fake_relay.emit("books")
        await shop.client.barrier()

        assert (await shop.reads.rows(TITLE, session))[0].title == "Persuasion"


# --- what is not cached


async def test_what_is_not_plain_reading_runs_for_each_call(shop: Shop) -> None:
    clock = select(func.clock_timestamp(), Book.id)
    assert "clock_timestamp" in str(shop.reads.reason_against(clock))
    assert shop.reads.reason_against(TITLE) is None

    assert await shop.reads.rows(clock) != await shop.reads.rows(clock)
    async with AsyncSession(shop.engine) as session:
        assert await shop.reads.rows(clock, session) != await shop.reads.rows(clock, session)


async def test_values_that_are_computed_when_the_statement_runs_are_not_cached(shop: Shop) -> None:
    wanted = iter([1, 2])
    statement = select(Book.title).where(Book.id == bindparam("id", callable_=lambda: next(wanted)))

    assert "computed when it runs" in str(shop.reads.reason_against(statement))
    assert [(await shop.reads.rows(statement))[0].title for _ in range(2)] == ["Emma", "Ulysses"]


async def test_translated_schemas_are_not_cached(shop: Shop) -> None:
    statement = select(Book.id).execution_options(schema_translate_map={"a": "b"})

    assert "translated" in str(shop.reads.reason_against(statement))
    assert len(await shop.reads.rows(statement)) == 2


async def test_a_session_whose_events_change_statements_is_refused(shop: Shop) -> None:
    async with AsyncSession(shop.engine) as session:
        event.listen(session.sync_session, "do_orm_execute", lambda state: None)
        with pytest.raises(ConfigurationError, match="do_orm_execute"):
            await shop.reads.rows(TITLE, session)


@pytest.mark.parametrize("name", ["tables", "key", "ignore", "strategy"])
async def test_options_that_are_about_one_function_are_refused(
    engine: AsyncEngine, client: pgcachewatch.Client, name: str
) -> None:
    wrong: Any = {name: None}
    with pytest.raises(ConfigurationError, match=name):
        CachedReads(engine, client, **wrong)


def test_without_sqlalchemy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy.ext.asyncio", None)
    monkeypatch.delitem(sys.modules, contrib.__name__)

    with pytest.raises(ImportError, match="pip install"):
        importlib.import_module(contrib.__name__)


# --- bounds


async def test_statements_without_end_keep_a_bounded_number_of_plans_and_functions(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "PLANS", 3)
    statements: list[Any] = [select(Book.id), select(Tag.id), select(Order.id), select(Book.title), select(Tag.word)]
    for statement in statements:
        await shop.reads.rows(statement)
    gc.collect()
    await asyncio.sleep(0)

    assert len(shop.reads._plans) == 3
    assert len(shop.reads._by_tables) == 3
    assert len(shop.client._watch.subscriptions.wanted()) == 3


async def test_the_statement_that_was_not_used_for_longest_is_forgotten(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "PLANS", 2)
    rows = await shop.stored(TITLE)
    for statement in (select(Book.id), select(Book.detail)):
        await shop.reads.rows(statement)
        assert await shop.reads.rows(TITLE) is rows


async def test_writing_statements_are_never_stored(shop: Shop) -> None:
    statement = select(insert(Tag).values(word="x").returning(Tag.id).cte().c.id)
    async with AsyncSession(shop.engine) as session:
        for _ in range(2):
            await shop.reads.rows(statement, session)
        await session.commit()
    assert len(await shop.reads.rows(select(Tag.id))) == 2
