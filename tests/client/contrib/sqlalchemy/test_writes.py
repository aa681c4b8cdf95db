"""Sessions whose reads must go to the database, on a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from pgcachewatch.contrib.sqlalchemy.writes import Writes
from tests.client.contrib.sqlalchemy.shop import Book, Order, Sent, Tag, filled_engine_on
from tests.postgres import Database

READ = select(Book.id)


@pytest.fixture
async def engine(database: Database) -> AsyncIterator[AsyncEngine]:
    async with filled_engine_on(database) as engine:
        yield engine


@pytest.fixture
def writes(engine: AsyncEngine) -> Writes:
    return Writes(engine.sync_engine)


async def nothing(session: AsyncSession) -> None: ...


async def read(session: AsyncSession) -> None:
    await session.execute(READ)
    await session.get(Book, 1)


async def read_in_savepoint(session: AsyncSession) -> None:
    async with session.begin_nested():
        await session.execute(READ)


async def begin(session: AsyncSession) -> None:
    await session.begin()


async def write_and_commit(session: AsyncSession) -> None:
    await session.execute(insert(Tag).values(word="x"))
    await session.commit()
    await session.execute(READ)


async def write_and_roll_back(session: AsyncSession) -> None:
    session.add(Tag(word="x"))
    await session.flush()
    await session.rollback()
    await session.execute(READ)


async def add(session: AsyncSession) -> None:
    session.add(Tag(word="x"))


async def change(session: AsyncSession) -> None:
    book = await session.get_one(Book, 1)
    book.title = "Persuasion"


async def remove(session: AsyncSession) -> None:
    await session.delete(await session.get_one(Book, 1))


async def flush(session: AsyncSession) -> None:
    await add(session)
    await session.flush()


async def execute(session: AsyncSession) -> None:
    await session.execute(update(Book).values(title="x"))


async def execute_on_connection(session: AsyncSession) -> None:
    connection = await session.connection()
    await connection.execute(insert(Tag).values(word="x"))


async def send_text(session: AsyncSession) -> None:
    await session.execute(text("SELECT id FROM books"))


async def send_driver_text(session: AsyncSession) -> None:
    connection = await session.connection()
    await connection.exec_driver_sql("SET LOCAL work_mem = '8MB'")


async def call_function(session: AsyncSession) -> None:
    await session.execute(select(func.pg_advisory_xact_lock(5)))


async def lock(session: AsyncSession) -> None:
    await session.execute(READ.with_for_update())


async def write_in_savepoint_that_is_rolled_back(session: AsyncSession) -> None:
    savepoint = await session.begin_nested()
    await execute(session)
    await savepoint.rollback()


async def write_before_savepoint(session: AsyncSession) -> None:
    await execute(session)
    async with session.begin_nested():
        await session.execute(READ)


async def ask_for_an_earlier_instant(session: AsyncSession) -> None:
    await session.connection(execution_options={"isolation_level": "REPEATABLE READ"})


async def translate_schemas(session: AsyncSession) -> None:
    await session.connection(execution_options={"schema_translate_map": {None: "Sales"}})


Act = Callable[[AsyncSession], Awaitable[None]]


@pytest.mark.parametrize("act", [nothing, read, read_in_savepoint, begin, write_and_commit, write_and_roll_back])
async def test_a_session_that_has_not_written_need_not_ask(engine: AsyncEngine, writes: Writes, act: Act) -> None:
    async with AsyncSession(engine) as session:
        await act(session)
        assert not await writes.must_ask(session, READ)


@pytest.mark.parametrize(
    "act",
    [
        add,
        change,
        remove,
        flush,
        execute,
        execute_on_connection,
        send_text,
        send_driver_text,
        call_function,
        lock,
        write_in_savepoint_that_is_rolled_back,
        write_before_savepoint,
        ask_for_an_earlier_instant,
        translate_schemas,
    ],
)
async def test_a_session_that_may_see_what_others_do_not_must_ask(
    engine: AsyncEngine, writes: Writes, act: Act
) -> None:
    async with AsyncSession(engine) as session:
        await act(session)
        assert await writes.must_ask(session, READ)
        await session.rollback()
        assert not await writes.must_ask(session, READ)


async def test_what_one_session_wrote_does_not_make_another_ask(engine: AsyncEngine, writes: Writes) -> None:
    async with AsyncSession(engine) as one, AsyncSession(engine) as other:
        await execute(one)
        await read(other)
        assert not await writes.must_ask(other, READ)


async def test_a_session_asks_again_when_the_connection_it_is_given_has_written(
    engine: AsyncEngine, writes: Writes
) -> None:
    async with engine.connect() as connection:
        await connection.execute(insert(Tag).values(word="x"))
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
            await read(session)
            assert await writes.must_ask(session, READ)
            await session.commit()
            await read(session)
            assert await writes.must_ask(session, READ)


async def test_a_transaction_that_sees_the_database_as_it_was_must_ask(database: Database) -> None:
    async with filled_engine_on(database, isolation_level="REPEATABLE READ") as engine:
        writes = Writes(engine.sync_engine)
        async with AsyncSession(engine) as session:
            assert not await writes.must_ask(session, READ)
            await read(session)
            assert await writes.must_ask(session, READ)


async def test_the_isolation_level_is_asked_once_of_each_connection(engine: AsyncEngine, writes: Writes) -> None:
    asked = 0
    dialect = engine.sync_engine.dialect
    ask = dialect.get_isolation_level

    def counted(connection: object) -> object:
        nonlocal asked
        asked += 1
        return ask(connection)  # type: ignore[arg-type]  # handed on as it came

    dialect.get_isolation_level = counted  # type: ignore[method-assign, assignment]  # counts, and is the real one
    for _ in range(3):
        async with AsyncSession(engine) as session:
            await read(session)
            assert not await writes.must_ask(session, READ)
    assert asked == 1


async def test_a_session_of_another_engine_must_ask(engine: AsyncEngine, writes: Writes, database: Database) -> None:
    translated = engine.execution_options(schema_translate_map={None: "Sales"})
    for bind in (translated, None):
        async with AsyncSession(bind) as session:
            assert await writes.must_ask(session, READ)
    async with AsyncSession(binds={Book: engine}) as session:
        assert not await writes.must_ask(session, READ)


async def test_a_session_that_writes_elsewhere_too_asks(engine: AsyncEngine, writes: Writes) -> None:
    async with AsyncSession(
        engine, binds={Order: engine.execution_options(schema_translate_map={"a": "b"})}
    ) as session:
        await session.execute(select(Order.id))
        assert await writes.must_ask(session, READ)


async def test_watching_twice_notes_once(engine: AsyncEngine, writes: Writes) -> None:
    Writes(engine.sync_engine)
    sent = Sent(engine)
    async with AsyncSession(engine) as session:
        await read(session)
        assert not await writes.must_ask(session, READ)
        assert len(session.sync_session.info["pgcachewatch.connections"]) == 1
    assert len(sent) == 2
