"""The relay in memory: what its manual promises to those who test their programs with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from pgcachewatch import testing
from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Event, Gap
from pgcachewatch.testing import EVENTS_KEPT, FakeRelay, fake_relay

__all__ = ["fake_relay"]  # a fixture, for the tests below


async def test_the_example_of_the_manual(fake_relay: FakeRelay) -> None:
    prices = iter([10, 12])

    async def read_price(name: str) -> int:
        return next(prices)

    async with fake_relay.connect() as client:
        price = client.cache(read_price, tables=["prices"])
        await client.wait_live()
        assert [await price("book"), await price("book")] == [10, 10]
        fake_relay.emit("prices", "update")
        assert await price("book") == 12


async def test_time_stands_still_until_it_is_advanced(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(staleness=2.0) as client:
        await client.wait_live()
        fake_relay.drop()
        await asyncio.sleep(0.02)
        assert client.status.lease_left_s == pytest.approx(2.0, abs=0.001)
        fake_relay.advance(1.5)
        assert client.status.lease_left_s == pytest.approx(0.5, abs=0.001)


async def test_a_connected_client_stays_live_however_much_time_passes(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        await client.wait_live()
        fake_relay.advance(3600)
        assert client.status.state == "live"


async def test_emit_carries_keys_schema_and_channel(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(channels=["mine"]) as client, client.events() as events:
        fake_relay.emit("users", "delete", key=["1", "2"], schema="app", channel="mine")
        fake_relay.emit("users", "delete", channel="theirs")
        fake_relay.emit("users", "truncate", schema=None, channel="mine")
        one, other = await anext(events), await anext(events)
        assert isinstance(one, Event)
        assert isinstance(other, Event)
        assert (one.keys, one.schema_name, one.channel) == (("1", "2"), "app", "mine")
        assert (other.operation, other.keys, other.schema_name) == ("truncate", None, None)


def test_emit_refuses_an_operation_that_is_none(fake_relay: FakeRelay) -> None:
    with pytest.raises(ConfigurationError, match="upsert"):
        fake_relay.emit("users", "upsert")  # type: ignore[arg-type]  # wrong on purpose


async def test_emit_from_another_thread_has_been_applied_when_it_returns(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        cached = client.cache(asyncio.Event, tables=["users"])
        await client.wait_live()
        cached()
        seen: list[bool] = []

        def emit() -> None:
            fake_relay.emit("users")
            seen.append(cached.cache_contains())

        thread = threading.Thread(target=emit)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert seen == [False]


async def test_lost_source_and_gap(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client, client.events() as events:
        fake_relay.lose_source()
        without = client.status
        fake_relay.gap()
        assert (without.state, without.is_connected, client.status.state) == ("suspect", True, "live")
        assert isinstance(await anext(events), Gap)


async def test_each_change_has_a_transaction_and_a_later_read_contains_it(fake_relay: FakeRelay) -> None:
    before = Snapshot.parse(fake_relay.snapshot())
    first, chosen, last = fake_relay.emit("users"), fake_relay.emit("users", xid=5_000), fake_relay.emit("users")
    after = Snapshot.parse(fake_relay.snapshot())

    assert (chosen, last) == (5_000, 5_001)
    assert [before.contains(xid) for xid in (first, chosen, last)] == [False, False, False]
    assert [after.contains(xid) for xid in (first, chosen, last)] == [True, True, True]


async def test_history_is_bounded_and_its_end_is_a_gap(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        await client.wait_live()
        fake_relay.drop()
        for _ in range(EVENTS_KEPT + 1):
            fake_relay.emit("users")
        fake_relay.restore()
        await client.wait_live()
        assert (client.status.resumes, client.status.gaps) == (0, 1)


async def test_exactly_what_history_holds_is_replayed(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        await client.wait_live()
        fake_relay.drop()
        for _ in range(EVENTS_KEPT):
            fake_relay.emit("users")
        fake_relay.restore()
        await client.wait_live()
        assert (client.status.resumes, client.status.gaps) == (1, 0)


def test_it_serves_programs_without_pytest() -> None:
    program = "import sys; sys.modules['pytest'] = None; from pgcachewatch.testing import FakeRelay; FakeRelay()"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_fixture_is_importable_without_a_plugin() -> None:
    assert hasattr(testing, "fake_relay")
