"""What a client may expect of any relay: the real one, in one process or with workers, and pgcachewatch.testing's fake.

Users trust their own tests to the fake. So whatever it does, the real relay has to do, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch import models, queries
from pgcachewatch.aio.connecting import Connecting
from pgcachewatch.testing import FakeRelay
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.relay import Relay, RelayOptions
from pgcachewatch_daemon.workers.primary import PrimaryRelay
from tests.postgres import Database
from tests.proxy import Proxy
from tests.waiting import eventually

WITHIN_S = 90.0
TABLES = ("users", "orders")


class Site(Protocol):
    """A relay, a table of each name in TABLES, and what can happen to them."""

    def connect(self, **options: Any) -> Connecting: ...

    async def change(self, table: str, operation: models.OPERATIONS) -> None: ...

    async def cut(self, meanwhile: Callable[[], Any]) -> None:
        """Cut all links, do something before anybody can come back, and let them in again."""

    async def break_continuity(self) -> None: ...


class FakeSite:
    def __init__(self) -> None:
        self._relay = FakeRelay()

    def connect(self, **options: Any) -> Connecting:
        return self._relay.connect(**options)

    async def change(self, table: str, operation: models.OPERATIONS) -> None:
        self._relay.emit(table, operation)

    async def cut(self, meanwhile: Callable[[], Any]) -> None:
        self._relay.drop()
        await meanwhile()
        self._relay.restore()

    async def break_continuity(self) -> None:
        self._relay.gap()


class RealSite:
    def __init__(self, relay: Relay | PrimaryRelay, proxy: Proxy, connection: asyncpg.Connection) -> None:
        self._relay, self._proxy, self._connection = relay, proxy, connection
        self._written = asyncio.Lock()

    @classmethod
    async def open(cls, database: Database, stack: AsyncExitStack, *, workers: int) -> RealSite:
        connection = await asyncpg.connect(database.dsn)
        stack.push_async_callback(connection.close)
        await connection.execute(queries.create_notify_function(models.DEFAULT_PG_CHANNEL, "notify"))
        for table in TABLES:
            await connection.execute(f"CREATE TABLE {table} (id int)")
            await connection.execute(f"INSERT INTO {table} VALUES (1)")
            await connection.execute(queries.create_after_change_trigger(f"watch_{table}", table, "notify"))
        options = RelayOptions(port=0, source=SourceOptions(dsn=database.dsn), workers=workers)
        relay: Relay | PrimaryRelay = Relay(options) if workers == 1 else PrimaryRelay(options)
        await stack.enter_async_context(relay)
        await relay.ready()
        proxy = await stack.enter_async_context(Proxy("127.0.0.1", relay.port))
        return cls(relay, proxy, connection)

    def connect(self, **options: Any) -> Connecting:
        return pgcachewatch.connect(f"ws://127.0.0.1:{self._proxy.port}", **options)

    async def change(self, table: str, operation: models.OPERATIONS) -> None:
        statement = {
            "insert": f"INSERT INTO {table} VALUES (1)",
            "update": f"UPDATE {table} SET id = 1",
            "delete": f"DELETE FROM {table}",
            "truncate": f"TRUNCATE {table}",
        }[operation]
        await self._connection.execute(statement)

    async def cut(self, meanwhile: Callable[[], Any]) -> None:
        self._proxy.refuse()
        self._proxy.cut()
        await meanwhile()
        self._proxy.forward()

    async def break_continuity(self) -> None:
        await self._connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture(params=["fake", "real", "workers"])
async def site(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Site]:
    async with AsyncExitStack() as stack, asyncio.timeout(WITHIN_S):
        if request.param == "fake":
            yield FakeSite()
        else:
            yield await RealSite.open(database, stack, workers=1 if request.param == "real" else 2)


class Counted:
    """A function that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self) -> int:
        self.runs += 1
        return self.runs


async def test_a_change_drops_what_depends_on_its_table_and_nothing_else(site: Site) -> None:
    async with site.connect() as client:
        users, orders = (client.cache(Counted(), tables=[table]) for table in TABLES)
        await client.wait_live()
        assert [await users(), await users(), await orders()] == [1, 1, 1]
        await site.change("users", "update")
        await client.barrier(timeout=WITHIN_S)
        assert [await users(), await orders()] == [2, 1]


async def test_after_a_barrier_a_hit_contains_what_was_written(site: Site) -> None:
    async with site.connect() as client:
        users = client.cache(Counted(), tables=["users"])
        await client.wait_live()
        for run in range(1, 11):
            assert await users() == run
            await site.change("users", "insert")
            await client.barrier(timeout=WITHIN_S)


async def test_a_link_that_comes_back_resumes_and_keeps_the_cache_warm(site: Site) -> None:
    async with site.connect() as client:
        users = client.cache(Counted(), tables=["users"])
        await client.wait_live()
        await users()

        async def nothing() -> None:
            return

        await site.cut(nothing)
        await eventually(lambda: client.status.resumes == 1)
        await client.wait_live()
        assert await users() == 1
        assert client.status.gaps == 0


async def test_what_changed_while_the_link_was_down_is_not_served_after_it(site: Site) -> None:
    async with site.connect() as client:
        users, orders = (client.cache(Counted(), tables=[table]) for table in TABLES)
        await client.wait_live()
        assert [await users(), await orders()] == [1, 1]
        await site.cut(lambda: site.change("users", "update"))
        await eventually(lambda: client.status.resumes == 1)
        await client.barrier(timeout=WITHIN_S)
        assert [await users(), await orders()] == [2, 1]


async def test_a_break_of_continuity_drops_everything_and_is_an_event_of_its_own(site: Site) -> None:
    async with site.connect() as client, client.events("users") as events:
        orders = client.cache(Counted(), tables=["orders"])
        await client.wait_live()
        await orders()
        await site.break_continuity()
        assert isinstance(await anext(events), models.Gap)
        await eventually(lambda: client.status.gaps == 1)
        await client.wait_live()
        assert await orders() == 2


@pytest.mark.parametrize("operation", ["insert", "update", "delete", "truncate"])
async def test_events_say_what_happened_to_which_table(site: Site, operation: models.OPERATIONS) -> None:
    async with site.connect() as client, client.events("users", operations={operation}) as events:
        await site.change("orders", operation)
        await site.change("users", "update" if operation != "update" else "insert")
        await site.change("users", operation)
        event = await anext(events)
        assert isinstance(event, models.Event)
        assert (event.table, event.operation, event.channel) == ("users", operation, models.DEFAULT_PG_CHANNEL)


async def test_events_missed_while_the_link_was_down_come_in_order(site: Site) -> None:
    async with site.connect() as client, client.events("users") as events:

        async def changes() -> None:
            await site.change("users", "insert")
            await site.change("users", "update")

        await site.change("users", "delete")
        assert getattr(await anext(events), "operation", None) == "delete"
        await site.cut(changes)
        seen = [await anext(events), await anext(events)]
        assert [getattr(event, "operation", None) for event in seen] == ["insert", "update"]


async def test_a_position_never_goes_back_within_an_epoch(site: Site) -> None:
    async with site.connect() as client:
        users = client.cache(Counted(), tables=["users"])
        await client.wait_live()
        positions = [client.status.position]
        for _ in range(5):
            await site.change("users", "update")
            await client.barrier(timeout=WITHIN_S)
            positions.append(client.status.position)
        await users()
        known = [position for position in positions if position is not None]
        assert len(known) == len(positions)
        assert len({position.epoch for position in known}) == 1
        assert [position.seq for position in known] == sorted({position.seq for position in known})
