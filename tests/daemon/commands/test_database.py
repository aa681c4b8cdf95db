"""Steps of a plan in transactions: all or nothing each, and what a refusal says of the others."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.commands.database import ATTEMPTS, DatabaseRefused, run_steps
from pgcachewatch_daemon.io.catalogue import fetch_catalogue
from pgcachewatch_daemon.sql.plan import Step
from tests.postgres import Database

MAKE, BREAK = Step("one", ("CREATE TABLE a (id int)",)), Step("two", ("CREATE TABLE b (id int)", "SELECT 1/0"))


@pytest.mark.parametrize(
    ("is_single", "said", "left"), [(False, r"two: .*1 step\(s\) before", ["a"]), (True, "nothing", [])]
)
async def test_a_step_that_fails_undoes_itself_and_alone_unless_all_are_one(
    database: Database, is_single: bool, said: str, left: list[str]
) -> None:
    connection = await database.connect()

    with pytest.raises(DatabaseRefused, match=said):
        await run_steps(connection, [MAKE, BREAK], is_single=is_single)

    assert [one.name for one in (await fetch_catalogue(connection)).relations.values()] == left


async def test_two_installations_wait_for_each_other(database: Database) -> None:
    first, second = await database.connect(), await database.connect()
    waits: list[float] = []

    async def pause(seconds: float) -> None:
        waits.append(seconds)

    async with first.transaction():
        await first.execute("SELECT pg_advisory_xact_lock(hashtextextended('pgcachewatch', 0))")
        with pytest.raises(DatabaseRefused, match="stayed locked"):
            await run_steps(second, [MAKE], is_single=False, lock_timeout_s=0.01, pause=pause)

    assert len(waits) == ATTEMPTS - 1
    assert waits[-1] > waits[0]
    await run_steps(second, [MAKE], is_single=False)
