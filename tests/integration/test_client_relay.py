"""The client against a real relay and a real PostgreSQL: the path of an event, end to end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

import pgcachewatch
from pgcachewatch import models
from pgcachewatch.errors import ConnectionFailed, Refused
from pgcachewatch.strategies import Greedy
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.relay import Relay, RelayOptions
from tests.integration.users import Users
from tests.postgres import Database
from tests.waiting import eventually

WITHIN_S = 90.0


def options(database: Database, *, port: int = 0) -> RelayOptions:
    return RelayOptions(port=port, source=SourceOptions(dsn=database.dsn))


@pytest.fixture
async def users(database: Database) -> Users:
    users = Users(database.dsn)
    await users.create()
    return users


@pytest.fixture
async def relay(database: Database, users: Users) -> AsyncIterator[Relay]:
    async with Relay(options(database)) as relay, asyncio.timeout(WITHIN_S):
        await relay.ready()
        yield relay


async def test_a_committed_update_drops_the_entry(relay: Relay, users: Users) -> None:
    async with pgcachewatch.connect(relay.url) as client, asyncio.timeout(WITHIN_S):
        version = client.cache(users.version, tables=["users"])
        await client.wait_live()
        assert [await version(1), await version(1)] == [0, 0]
        assert users.runs == 1
        await users.change(1)
        await eventually(lambda: not version.cache_contains(1))
        assert await version(1) == 1


async def test_after_a_barrier_each_hit_contains_ones_own_write(relay: Relay, users: Users) -> None:
    async with pgcachewatch.connect(relay.url) as client, asyncio.timeout(WITHIN_S):
        version = client.cache(users.version, tables=["public.users"])
        await client.wait_live()
        for written in range(1, 51):
            await version(1)
            await users.change(1)
            await client.barrier()
            assert await version(1) == written


async def test_events_arrive_as_models(relay: Relay, users: Users) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        pgcachewatch.connect(relay.url) as client,
        client.events("users", operations={"update"}) as events,
    ):
        await users.execute("INSERT INTO users VALUES (100, 0)")
        await users.change(1)
        event = await anext(events)
        assert isinstance(event, models.Event)
        assert (event.table, event.operation) == ("users", "update")


async def test_a_strategy_hears_through_the_relay(relay: Relay, users: Users) -> None:
    async with pgcachewatch.connect(relay.url) as client, asyncio.timeout(WITHIN_S):
        strategy = Greedy(predicate=lambda event: event.operation == "update")
        version = client.cache(users.version, strategy=strategy)
        await client.wait_live()
        await version(1)
        await users.execute("INSERT INTO users VALUES (100, 0)")
        await client.barrier()
        assert version.cache_contains(1)
        await users.change(1)
        await client.barrier()
        assert await version(1) == 1


async def test_the_client_for_threads_speaks_to_a_real_relay(relay: Relay, users: Users) -> None:
    def program() -> list[int]:
        with pgcachewatch.sync.connect(relay.url) as client:
            runs: list[int] = []

            @client.cache(tables=["users"])
            def read() -> int:
                runs.append(1)
                return len(runs)

            client.wait_live(WITHIN_S)
            first = [read(), read()]
            asyncio.run_coroutine_threadsafe(users.change(1), loop).result(WITHIN_S)
            client.barrier()
            return [*first, read(), read()]

    loop = asyncio.get_running_loop()
    assert await asyncio.to_thread(program) == [1, 1, 2, 2]


async def test_a_port_without_a_relay_is_named(unused_tcp_port: int) -> None:
    with pytest.raises(ConnectionFailed, match=str(unused_tcp_port)):
        await pgcachewatch.connect(f"ws://127.0.0.1:{unused_tcp_port}", open_timeout=0.3)


async def test_a_frame_over_the_limit_stops_with_the_limit_named(relay: Relay) -> None:
    async with pgcachewatch.connect(relay.url) as client, asyncio.timeout(WITHIN_S):
        life = client._connection._life
        assert life is not None
        life.send("[" + " " * 70_000 + "]")
        with pytest.raises(Refused, match="W-LIMIT-1") as caught:
            await client._watch.until(lambda: False, timeout_s=WITHIN_S)
        assert caught.value.code == 4308
