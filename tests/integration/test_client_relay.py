"""The client against a real relay and a real PostgreSQL: the path of an event, and what is lost and found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch import models, queries
from pgcachewatch.errors import ConnectionFailed, Refused
from pgcachewatch.strategies import Greedy
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.relay import Relay, RelayOptions
from tests.postgres import Database
from tests.proxy import Proxy
from tests.waiting import eventually

WITHIN_S = 30.0


class Users:
    """The table of these tests, and a function that reads it."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.connection = connection
        self.runs = 0
        self._lock = asyncio.Lock()

    async def create(self) -> None:
        await self.connection.execute("CREATE TABLE users (id int PRIMARY KEY, version int NOT NULL)")
        await self.connection.execute("INSERT INTO users SELECT i, 0 FROM generate_series(1, 10) i")
        await self.connection.execute(queries.create_notify_function(models.DEFAULT_PG_CHANNEL, "notify_change"))
        await self.connection.execute(queries.create_after_change_trigger("users_change", "users", "notify_change"))

    async def change(self, number: int) -> None:
        async with self._lock:
            await self.connection.execute("UPDATE users SET version = version + 1 WHERE id = $1", number)

    async def version(self, number: int) -> int:
        self.runs += 1
        async with self._lock:
            return int(await self.connection.fetchval("SELECT version FROM users WHERE id = $1", number))

    async def kill_listeners(self) -> None:
        """Terminate every other backend of the database: the relay's LISTEN connection."""
        async with self._lock:
            await self.connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


def options(database: Database, *, port: int = 0) -> RelayOptions:
    return RelayOptions(port=port, source=SourceOptions(dsn=database.dsn))


@pytest.fixture
async def users(database: Database) -> AsyncIterator[Users]:
    connection = await asyncpg.connect(database.dsn)
    users = Users(connection)
    await users.create()
    yield users
    await connection.close()


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
        await users.connection.execute("INSERT INTO users VALUES (100, 0)")
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
        await users.connection.execute("INSERT INTO users VALUES (100, 0)")
        await client.barrier()
        assert version.cache_contains(1)
        await users.change(1)
        await client.barrier()
        assert await version(1) == 1


async def test_a_killed_listen_backend_makes_suspect_then_a_flush_then_live(relay: Relay, users: Users) -> None:
    async with pgcachewatch.connect(relay.url) as client, asyncio.timeout(WITHIN_S):
        version = client.cache(users.version, tables=["users"])
        await client.wait_live()
        await version(1)
        epoch = client.status.position
        await users.kill_listeners()
        await eventually(lambda: client.status.state == "suspect" or client.status.gaps > 0)
        await eventually(lambda: client.status.state == "live" and client.status.gaps > 0)
        assert client.status.position != epoch
        assert client.status.reconnects == 0
        assert not version.cache_contains(1)
        await users.change(1)
        await client.barrier()
        assert await version(1) == 1


async def test_a_restarted_relay_is_found_again_and_everything_is_flushed(database: Database, users: Users) -> None:
    async with asyncio.timeout(WITHIN_S):
        first = Relay(options(database))
        await first.start()
        await first.ready()
        async with pgcachewatch.connect(first.url) as client:
            version = client.cache(users.version, tables=["users"])
            await client.wait_live()
            await version(1)
            await first.close()
            await eventually(lambda: not client.status.is_connected)
            await users.change(1)
            async with Relay(options(database, port=first.port)) as second:
                await second.ready()
                await client.wait_live()
                assert await version(1) == 1
                assert client.status.gaps == 1
                assert client.status.reconnects >= 1


async def test_a_drained_relay_says_bye_and_another_takes_over(database: Database, users: Users) -> None:
    async with asyncio.timeout(WITHIN_S), Relay(options(database)) as second:
        await second.ready()
        first = Relay(options(database))
        await first.start()
        await first.ready()
        async with pgcachewatch.connect([first.url, second.url]) as client:
            version = client.cache(users.version, tables=["users"])
            await client.wait_live()
            assert client.status.url == first.url
            await version(1)
            await first.drain()
            await first.close()
            await eventually(lambda: client.status.url == second.url and client.status.state == "live")
            await users.change(1)
            await client.barrier()
            assert await version(1) == 1


async def test_a_cut_link_resumes_and_keeps_the_cache_warm(relay: Relay, users: Users) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        Proxy("127.0.0.1", relay.port) as proxy,
        pgcachewatch.connect(f"ws://127.0.0.1:{proxy.port}") as client,
    ):
        version = client.cache(users.version, tables=["users"])
        await client.wait_live()
        await version(1)
        await version(2)
        for resumes in range(1, 6):
            proxy.cut()
            await eventually(lambda: client.status.resumes == resumes)  # noqa: B023  # awaited in the same round
            await client.wait_live()
        await users.change(1)
        await client.barrier()
        assert await version(1) == 1
        assert client.status.gaps == 0


async def test_a_blip_of_half_a_second_inside_the_lease_costs_no_query(relay: Relay, users: Users) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        Proxy("127.0.0.1", relay.port) as proxy,
        pgcachewatch.connect(f"ws://127.0.0.1:{proxy.port}", staleness=10.0) as client,
    ):
        version = client.cache(users.version, tables=["users"])
        await client.wait_live()
        await version(1)
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: client.status.state == "suspect")
        until = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < until:
            await version(1)
            await asyncio.sleep(0.01)
        proxy.forward()
        await eventually(lambda: client.status.resumes == 1)
        await client.wait_live()
        await version(1)
        assert users.runs == 1
        assert client.status.gaps == 0


async def test_a_black_holed_link_is_noticed_and_replaced(relay: Relay, users: Users) -> None:
    async with (
        asyncio.timeout(WITHIN_S),
        Proxy("127.0.0.1", relay.port) as proxy,
        pgcachewatch.connect(f"ws://127.0.0.1:{proxy.port}", staleness=0.5) as client,
    ):
        version = client.cache(users.version, tables=["users"])
        await client.wait_live()
        await version(1)
        proxy.black_hole()
        await users.change(1)
        await eventually(lambda: not client.connection_healthy())
        assert await version(1) == 1
        await eventually(lambda: client.status.state == "suspect")
        proxy.forward()
        await eventually(lambda: client.status.reconnects >= 1 and client.status.state == "live")
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
