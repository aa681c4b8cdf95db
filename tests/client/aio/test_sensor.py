"""What befalls a connection of asyncpg, by whose doing, and whether it still listens: on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import asyncpg
import pytest

from pgcachewatch.aio.sensor import Ending, Sensor
from tests.postgres import Database
from tests.waiting import eventually

CHANNEL = "ch_sensor"


class Felt:
    """A listening connection with its sensor, and what both said."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.endings: list[Ending] = []
        self.payloads: list[str] = []
        self.sensor: Sensor | None = None  # nobody else holds it

    async def listen(self) -> Sensor:
        inlet = partial(self._notified)
        await self.connection.add_listener(CHANNEL, inlet)
        self.sensor = Sensor(self.connection, CHANNEL, self.endings.append)
        self.sensor.feel(inlet)
        return self.sensor

    def _notified(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self.payloads.append(str(payload))

    async def hears(self) -> bool:
        """True when a notification arrives: by the answer to the statement that sent it, it has."""
        before = len(self.payloads)
        await self.connection.execute(f"NOTIFY {CHANNEL}, 'hears'")
        await self.connection.execute("SELECT 1")
        return len(self.payloads) > before


@pytest.fixture
async def felt(database: Database) -> AsyncIterator[Felt]:
    connection = await asyncpg.connect(database.dsn)
    yield Felt(connection)
    await connection.close()


async def test_a_connection_that_this_program_closes_or_terminates_is_closed(felt: Felt, database: Database) -> None:
    other = Felt(await asyncpg.connect(database.dsn))
    sensors = [await felt.listen(), await other.listen()]

    await felt.connection.close()
    other.connection.terminate()

    assert [felt.endings[0], other.endings[0]] == ["closed", "closed"]
    assert [sensor.is_open for sensor in sensors] == [False, False]
    await asyncio.sleep(0)  # the transport of the terminated connection ends in the next step


async def test_a_connection_whose_backend_is_killed_is_lost(felt: Felt, database: Database) -> None:
    sensor = await felt.listen()
    assert sensor.is_open

    other = await database.connect()
    await other.execute("SELECT pg_terminate_backend($1)", felt.connection.get_server_pid())
    await eventually(lambda: bool(felt.endings))

    assert felt.endings[0] == "lost"
    assert not sensor.is_open


async def test_a_connection_that_is_reset_is_open_and_deaf(felt: Felt) -> None:
    sensor = await felt.listen()

    await felt.connection.reset()

    assert felt.endings[0] == "deaf"
    assert sensor.is_open
    assert not await felt.hears()


@pytest.mark.parametrize(
    "statement",
    [
        "UNLISTEN *",
        f"unlisten {CHANNEL}",
        f"UNLISTEN {CHANNEL.upper()}",
        f'select 1;\n unlisten "{CHANNEL}" ;',
        f"UNLISTEN other; UNLISTEN {CHANNEL}",
        f"UNLISTEN /* not */ {CHANNEL}",
        "/* route='/users' */ -- why\n UNLISTEN *",
        "DISCARD ALL",
        "discard  all",
    ],
)
async def test_a_connection_that_is_told_to_stop_listening_is_deaf(felt: Felt, statement: str) -> None:
    await felt.listen()

    await felt.connection.execute(statement)
    await eventually(lambda: bool(felt.endings))

    assert felt.endings == ["deaf"]
    assert not await felt.hears()


async def test_a_name_that_postgresql_cuts_off_is_the_one_it_becomes(database: Database) -> None:
    connection = await asyncpg.connect(database.dsn)
    endings: list[Ending] = []
    sensor = Sensor(connection, "c" * 63, endings.append)

    await connection.execute(f"UNLISTEN {'c' * 70}")
    await eventually(lambda: bool(endings))

    assert (endings, sensor.is_open) == (["deaf"], True)
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UNLISTEN other",
        f'UNLISTEN "{CHANNEL.upper()}"',
        f'UNLISTEN "{CHANNEL}"""',
        "LISTEN other; UNLISTEN other; SELECT 1",
        "SELECT 'UNLISTEN *'",
        "DISCARD PLANS",
    ],
)
async def test_a_statement_that_concerns_other_channels_is_no_ending(felt: Felt, statement: str) -> None:
    sensor = await felt.listen()

    await felt.connection.execute(statement)

    assert await felt.hears()
    assert (felt.endings, sensor.is_open) == ([], True)


async def test_another_listener_of_the_connection_may_leave(felt: Felt) -> None:
    sensor = await felt.listen()

    def other(*_: object) -> None:
        """Hears of another channel."""

    await felt.connection.add_listener("other", other)
    await felt.connection.remove_listener("other", other)

    assert await felt.hears()
    assert (felt.endings, sensor.is_open) == ([], True)


async def test_a_statement_that_failed_is_no_ending(felt: Felt) -> None:
    sensor = await felt.listen()

    with pytest.raises(asyncpg.PostgresError):
        await felt.connection.execute("UNLISTEN *; SELECT 1 / 0")

    assert await felt.hears()
    assert (felt.endings, sensor.is_open) == ([], True)


async def test_a_connection_that_went_back_to_its_pool_is_not_open_and_raises_nothing(database: Database) -> None:
    async with asyncpg.create_pool(database.dsn, min_size=1, max_size=1) as pool:
        connection = await pool.acquire()
        endings: list[Ending] = []
        sensor = Sensor(connection, CHANNEL, endings.append)
        assert sensor.is_open

        await pool.release(connection)

        assert not sensor.is_open


class OfOldAsyncpg:
    """A connection of an asyncpg that has no query loggers yet."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.is_closed = connection.is_closed
        self.add_termination_listener = connection.add_termination_listener


async def test_without_query_loggers_an_end_is_felt_all_the_same(felt: Felt) -> None:
    connection: Any = OfOldAsyncpg(felt.connection)  # Any: a stand-in with less than the stubs ask for
    sensor = Sensor(connection, CHANNEL, felt.endings.append)

    await felt.connection.close()
    await eventually(lambda: bool(felt.endings))

    assert not sensor.is_open


async def test_a_connection_keeps_no_sensor_alive_and_forgets_one_that_is_gone(felt: Felt) -> None:
    sensor = await felt.listen()
    reference = weakref.ref(sensor)

    del sensor
    felt.sensor = None
    gc.collect()
    await felt.connection.execute("UNLISTEN *")
    await felt.connection.close()
    await asyncio.sleep(0)

    assert (reference(), felt.endings) == (None, [])


class Closed:
    """A connection that was closed."""

    def is_closed(self) -> bool:
        return True

    def add_termination_listener(self, callback: object) -> None:
        """Nobody will call it."""


def test_what_ends_after_every_loop_was_this_programs_doing() -> None:
    connection: Any = Closed()  # Any: as above
    endings: list[Ending] = []

    Sensor(connection, CHANNEL, endings.append).judge()

    assert endings == ["closed"]
