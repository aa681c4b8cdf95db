"""Caches with `consistency="snapshot"` on a relay in memory: what is stored is what was shown to be new enough."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

import pgcachewatch
from pgcachewatch import Result, Row
from pgcachewatch.aio.client import Client
from pgcachewatch.aio.reading import SNAPSHOTS_PER_RUN
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.strategies import Greedy
from pgcachewatch.testing import FakeRelay, fake_relay

__all__ = ["fake_relay"]  # a fixture, for the tests below


class Replica:
    """Reads in the snapshots it was given, or in a fresh one. Counts its runs."""

    def __init__(self, relay: FakeRelay) -> None:
        self.relay = relay
        self.runs = 0
        self.snapshots: list[str] | None = None
        self.standby = False
        self.fails = False

    def read(self, key: int = 0) -> int:
        self.runs += 1
        for snapshot in [self.relay.snapshot()] if self.snapshots is None else self.snapshots:
            pgcachewatch.read_in(snapshot, standby=self.standby)
        if self.fails:
            raise KeyError(key)
        return self.runs

    async def fetch(self, key: int = 0) -> int:
        await asyncio.sleep(0)
        return self.read(key)


@pytest.fixture
def replica(fake_relay: FakeRelay) -> Replica:
    return Replica(fake_relay)


async def snapshot_cache(client: Client, function: Callable[..., Any], **options: Any) -> Any:
    options = options or {"rows": Row("users", id="key")}
    cache = client.cache(function, consistency="snapshot", **options)
    await client.wait_live()
    return cache


async def test_a_fresh_read_is_stored_and_dropped_by_its_row(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch)
        assert [await read(1), await read(1), await read(2)] == [1, 1, 2]

        fake_relay.emit("users", id=1)

        assert [await read(1), await read(2)] == [3, 2]


async def test_a_read_from_before_a_change_that_was_applied_is_not_stored(
    fake_relay: FakeRelay, replica: Replica
) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch)
        replica.snapshots = [fake_relay.snapshot()]
        fake_relay.emit("users", id=1)

        assert [await read(1), await read(1)] == [1, 2], "the snapshot lacks the change"
        assert [await read(2), await read(2)] == [3, 3], "of this row it lacks nothing"
        replica.snapshots = None
        assert [await read(1), await read(1)] == [4, 4]


async def test_a_standby_that_is_behind_is_not_believed(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch)
        xid = fake_relay.emit("users", id=1)
        replica.snapshots, replica.standby = [f"{xid}:{xid + 5}:"], True

        assert [await read(1), await read(1)] == [1, 2]
        replica.snapshots = [f"{xid + 1}:{xid + 5}:"]
        assert [await read(1), await read(1)] == [3, 3]


async def test_each_snapshot_of_a_run_counts(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch)
        before = fake_relay.snapshot()
        fake_relay.emit("users", id=1)
        replica.snapshots = [before, fake_relay.snapshot()]

        assert [await read(1), await read(1)] == [1, 2]
        replica.snapshots = [f"{number}:{number}:" for number in range(5_000, 5_000 + SNAPSHOTS_PER_RUN + 1)]
        assert [await read(1), await read(1)] == [3, 4], "more than are kept"


async def test_rows_that_the_result_tells_and_tables_are_compared_too(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        late = await snapshot_cache(client, replica.fetch, rows=Row("users", id=Result(lambda _: 7)))
        table = await snapshot_cache(client, replica.fetch, tables=["users"])
        replica.snapshots = [fake_relay.snapshot()]
        fake_relay.emit("users", id=7)

        assert [await late(), await late(), await table(), await table()] == [1, 2, 3, 4]


async def test_a_run_that_tells_no_snapshot_is_not_stored_and_the_remedy_is_logged_once(
    fake_relay: FakeRelay, replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "pgcachewatch")
    replica.snapshots = []
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch)

        assert [await read(1), await read(1)] == [1, 2]

    (record,) = caplog.records
    assert "read_in" in record.message
    assert "Replica.fetch" in record.message


async def test_after_a_gap_and_while_the_link_was_down_older_reads_are_not_stored(
    fake_relay: FakeRelay, replica: Replica
) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch)
        replica.snapshots = [fake_relay.snapshot()]
        fake_relay.drop()
        fake_relay.emit("users", id=1)
        fake_relay.restore(forget=True)
        await client.wait_live()

        assert [await read(1), await read(2), await read(2)] == [1, 2, 3]
        replica.snapshots = None
        assert [await read(1), await read(1)] == [4, 4]


async def test_what_the_program_drops_is_not_filled_from_before(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.fetch, tags=["menu"], tables=["users"])
        replica.snapshots = [fake_relay.snapshot()]
        await read(1)
        client.invalidate("menu")
        fake_relay.emit("orders")
        fake_relay.advance(0.5)

        assert [await read(1), await read(1)] == [2, 3]


async def test_a_def_is_cached_likewise(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        read = await snapshot_cache(client, replica.read)
        assert [read(1), read(1)] == [1, 1]
        replica.snapshots = [fake_relay.snapshot()]
        fake_relay.emit("users", id=1)
        assert [read(1), read(1)] == [2, 3]


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_is_made_of_a_value_that_may_be_old_is_not_stored(
    fake_relay: FakeRelay, replica: Replica, is_async: bool
) -> None:
    async with fake_relay.connect() as client:
        inner = await snapshot_cache(client, replica.fetch if is_async else replica.read)
        outer: Any

        if is_async:

            async def made() -> int:
                return int(await inner(1))

            outer = client.cache(made, tables=["users"])
        else:
            outer = client.cache(lambda: int(inner(1)), tables=["users"])
        await client.wait_live()

        async def ask() -> int:
            return int(await outer() if is_async else outer())

        before = fake_relay.snapshot()
        assert [await ask(), await ask()] == [1, 1], "made of a value that is new enough"
        fake_relay.emit("users", id=1)
        replica.snapshots = [before]

        assert [await ask(), await ask()] == [2, 3]
        replica.fails = True
        with pytest.raises(KeyError):
            await ask()


async def test_a_failure_that_may_be_old_spoils_what_catches_it(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        inner = await snapshot_cache(client, replica.fetch)
        replica.snapshots, replica.fails = [fake_relay.snapshot()], True
        fake_relay.emit("users", id=1)

        @client.cache(tables=["users"])
        async def outer() -> str:
            try:
                await inner(1)
            except KeyError:
                return "there is no such user"
            return "there is"

        await client.wait_live()
        assert await outer() == "there is no such user"
        assert not outer.cache_contains()


async def test_a_run_that_nobody_looks_at_spoils_what_is_made_of_it(fake_relay: FakeRelay, replica: Replica) -> None:
    async with fake_relay.connect() as client:
        inner = client.cache(replica.fetch, rows=Row("users", id="key"), consistency="snapshot", on_disconnect="bypass")

        @client.cache(tables=["orders"])
        async def outer() -> int:
            return await inner(1)

        await client.wait_live()
        await outer()
        assert outer.cache_contains()
        outer.cache_clear()
        client._watch.subscriptions.restart(client._watch.subscriptions.wanted()[0].id)

        await outer()

        assert not outer.cache_contains()


def test_outside_of_a_cached_function_it_does_nothing_but_read_its_text() -> None:
    pgcachewatch.read_in("10:20:")
    with pytest.raises(ConfigurationError, match="no snapshot"):
        pgcachewatch.read_in("now")


async def test_what_can_not_work_is_refused(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match="consistency='strict'"):
            client.cache(lambda: 1, consistency="strict")  # type: ignore[call-overload]  # that is the point
        with pytest.raises(ConfigurationError, match="strategy"):
            client.cache(lambda: 1, consistency="snapshot", strategy=Greedy(client))


def test_the_client_for_threads_has_it_too(fake_relay: FakeRelay, replica: Replica) -> None:
    with fake_relay.connect_sync() as client:
        read = client.cache(replica.read, rows=Row("users", id="key"), consistency="snapshot")
        client.wait_live(10)
        assert [read(1), read(1)] == [1, 1]
        replica.snapshots = [fake_relay.snapshot()]
        fake_relay.emit("users", id=1)
        assert [read(1), read(1)] == [2, 3]
