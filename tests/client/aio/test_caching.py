"""Caches that are declared on a client, on a relay in memory: what drops an entry, and what does not."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable

import pytest

from pgcachewatch.errors import ConfigurationError, NotFresh
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.aio.source import Source, settle

__all__ = ["fake_relay"]  # a fixture, for the tests below


async def test_a_second_call_is_a_hit(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        assert [await read(1), await read(1), await read(2)] == [1, 1, 2]


async def test_an_event_has_dropped_the_entry_when_emit_returns(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.emit("users", "update")
        assert not read.cache_contains(1)
        assert await read(1) == 2


async def test_events_of_other_tables_and_schemas_leave_the_entry(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["public.users"])
        await client.wait_live()
        await read(1)
        fake_relay.emit("orders")
        fake_relay.emit("users", schema="other")
        assert await read(1) == 1
        fake_relay.emit("users", schema=None)  # an original trigger, which names no schema
        assert await read(1) == 2


async def test_no_table_means_every_change_on_the_channels(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(channels=("a", "b")) as client:
        read = client.cache(source.read)
        await client.wait_live()
        for number, channel in enumerate(("a", "b"), 1):
            assert await read(1) == number
            fake_relay.emit("anything", channel=channel)
        fake_relay.emit("anything", channel="c")
        assert [await read(1), await read(1)] == [3, 3]


async def test_the_decorator_works_bare_called_and_on_plain_functions(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:

        @client.cache
        async def bare() -> list[int]:
            return []

        @client.cache(tables=["users"])
        async def called() -> list[int]:
            return []

        @client.cache(tables=["users"])
        def plain() -> list[int]:
            return []

        await client.wait_live()
        assert await bare() is await bare()
        assert await called() is await called()
        assert plain() is plain()
        fake_relay.emit("users")
        assert plain.cache_info().currsize == 0


async def test_a_fill_that_began_before_the_grant_is_not_stored(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        fake_relay.drop()
        read = client.cache(source.read, tables=["users"])
        early = await source.running(read(1))
        fake_relay.restore()
        await client.wait_live()
        source.gate.set()
        assert await early == 1
        assert not read.cache_contains(1)
        assert [await read(1), await read(1)] == [2, 2]


async def test_a_fill_that_an_event_overtook_is_not_stored_and_not_joined(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        early = await source.running(read(1))
        fake_relay.emit("users")
        late = await source.running(read(1))
        source.gate.set()
        assert [await early, await late] == [1, 2]
        assert await read(1) in (2, 3)


async def test_hits_go_on_for_the_lease_after_a_drop_and_no_longer(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(staleness=2.0) as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.drop()
        assert client.status.state == "suspect"
        fake_relay.advance(1.9)
        assert await read(1) == 1
        fake_relay.advance(0.2)
        assert [await read(1), await read(1)] == [2, 3]


async def test_a_blip_inside_the_lease_costs_no_run_and_no_flush(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.drop()
        fake_relay.advance(0.5)
        assert await read(1) == 1
        fake_relay.restore()
        await client.wait_live()
        assert await read(1) == 1
        assert (client.status.resumes, client.status.gaps, client.status.reconnects) == (1, 0, 1)


async def test_what_changed_during_the_blip_is_not_served_after_it(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.drop()
        fake_relay.emit("users")
        fake_relay.restore()
        await client.wait_live()
        assert await read(1) == 2


async def test_a_gap_drops_everything(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.gap()
        assert not read.cache_contains(1)
        assert client.status.gaps == 1
        assert [await read(1), await read(1)] == [2, 2]


@pytest.mark.parametrize("mode", ["share", "bypass", "stale", "raise"])
async def test_without_proof_calls_do_as_on_disconnect_says(fake_relay: FakeRelay, mode: str) -> None:
    source = Source()
    async with fake_relay.connect(on_disconnect=mode) as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.drop()
        fake_relay.advance(10)
        if mode == "raise":
            with pytest.raises(NotFresh):
                await read(1)
        elif mode == "stale":
            assert await read(1) == 1
        else:
            source.gate.clear()
            calls = [asyncio.create_task(read(1)) for _ in range(3)]
            await settle()
            source.gate.set()
            assert sorted(await asyncio.gather(*calls)) == ([2, 2, 2] if mode == "share" else [2, 3, 4])


async def test_a_function_can_override_on_disconnect(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(on_disconnect="raise") as client:
        read = client.cache(source.read, tables=["users"], on_disconnect="bypass")
        assert await read(1) == 1


async def test_an_on_disconnect_nobody_knows_is_refused(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match=r"on_disconnect='hope'.*share"):
            client.cache(Source().read, on_disconnect="hope")  # type: ignore[call-overload]  # wrong on purpose


async def test_a_run_is_shared_for_no_longer_than_the_staleness_of_the_client(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(staleness=3.0) as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        fake_relay.drop()
        fake_relay.advance(10)
        first = await source.running(read(1))
        fake_relay.advance(2.9)
        second = asyncio.create_task(read(1))
        await settle()
        fake_relay.advance(0.2)
        third = await source.running(read(1))
        source.gate.set()
        assert [await first, await second, await third] == [1, 1, 2]


async def test_stale_entries_are_not_served_after_a_gap(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(on_disconnect="stale") as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        fake_relay.drop()
        fake_relay.advance(10)
        assert await read(1) == 1
        fake_relay.restore(forget=True)
        await client.wait_live()
        assert await read(1) == 2


async def test_options_of_one_function_are_its_own(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        one = client.cache(source.read, maxsize=1)
        parity = client.cache(source.read, key=lambda key: key % 2)
        careless = client.cache(source.read, ignore=["key"])
        await client.wait_live()
        assert [await one(1), await one(2), await one(1)] == [1, 2, 3]
        assert [await parity(1), await parity(3), await parity(2)] == [4, 4, 5]
        assert [await careless(1), await careless(2)] == [6, 6]


@pytest.mark.parametrize("options", [{"maxsize": 0}, {"ignore": ["unknown"]}, {"tables": [""]}, {"tables": "users"}])
async def test_options_that_can_not_work_are_refused_where_they_are_written(
    fake_relay: FakeRelay, options: dict[str, object]
) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError):
            client.cache(**options)(Source().read)  # type: ignore[call-overload]  # wrong on purpose


async def test_what_a_fresh_call_returned_is_not_followed_by_something_older(fake_relay: FakeRelay) -> None:
    version = 0

    async def read() -> int:
        return version

    async with fake_relay.connect() as client:
        cached = client.cache(read, tables=["users"])
        await client.wait_live()
        assert await cached() == 0
        version = 1  # committed, and not heard of yet
        assert await cached() == 0
        with client.fresh():
            assert await cached() == 1
        assert await cached() == 1


async def test_fresh_runs_the_function_for_this_task_only(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        await read(1)
        inside = asyncio.Event()

        async def other() -> int:
            await inside.wait()
            return await read(2)

        elsewhere = asyncio.create_task(other())
        with client.fresh():
            assert await read(1) == 2
            late = client.cache(source.read)  # declared inside: it must be held back as well
            await client.wait_live()
            assert [await late(1), await late(1)] == [3, 4]
            inside.set()
            assert await elsewhere == 5
        assert await read(2) == 5


async def test_a_cache_that_is_garbage_ends_its_subscription(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        for _ in range(10):
            read = client.cache(Source().read, tables=["users"])
            await client.wait_live()
            await read(1)
            del read
            gc.collect()
        await client.barrier()
        assert client._watch.subscriptions.wanted() == []
        assert client._watch.caches == []


async def test_functions_on_one_table_share_a_subscription(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        caches = [client.cache(Source().read, tables=["users"]) for _ in range(50)]
        assert len(client._watch.subscriptions.wanted()) == 1
        await client.wait_live()
        assert [await read(1) for read in caches] == [1] * 50


async def test_more_functions_can_be_declared_from_another_thread(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        declared: list[Callable[[int], Awaitable[int]]] = []
        thread = threading.Thread(target=lambda: declared.append(client.cache(source.read, tables=["users"])))
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        await client.wait_live()
        (read,) = declared
        assert [await read(1), await read(1)] == [1, 1]


async def test_more_subscriptions_than_a_hello_can_carry_are_all_granted_and_resume_safely(
    fake_relay: FakeRelay,
) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        tables = [f"{number:03}_{'t' * 190}" for number in range(400)]
        reads = [client.cache(source.read, tables=[table]) for table in tables]
        await client.wait_live()
        first = [await read(1) for read in reads]
        assert [await read(1) for read in reads] == first
        fake_relay.drop()
        fake_relay.emit(tables[0])
        fake_relay.emit(tables[-1])
        fake_relay.restore()
        await client.wait_live()
        assert client.status.resumes == 1
        assert await reads[0](1) > len(tables)
        assert await reads[-1](1) > len(tables)
        assert await reads[1](1) == first[1]  # the hello carried it: it stayed warm


async def test_subscriptions_over_the_relays_limit_are_refused_one_by_one(
    fake_relay: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        reads = [client.cache(source.read, tables=[f"t{number}"]) for number in range(1_001)]
        await client.wait_live()
        assert len(client.status.refusals) == 1
        first = [await read(1) for read in reads]
        again = [await read(1) for read in reads]
        assert sum(one != other for one, other in zip(first, again, strict=True)) == 1
        fake_relay.close(1006)
        await client.wait_live()
        assert client.status.is_connected


# --- strategies
