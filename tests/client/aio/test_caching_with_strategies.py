"""Caches that are declared on a client with a strategy, on a relay in memory."""

from __future__ import annotations

import asyncio
import datetime
import gc
import weakref

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Event
from pgcachewatch.strategies import Greedy, Timed, Windowed
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.aio.source import Source

__all__ = ["fake_relay"]  # a fixture, for the tests below


async def test_greedy_flushes_for_the_events_its_predicate_names(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, strategy=Greedy(predicate=lambda event: event.operation == "update"))
        await client.wait_live()
        assert [await read(1), await read(1)] == [1, 1]
        fake_relay.emit("users", "insert")
        assert await read(1) == 1
        fake_relay.emit("users", "update")
        assert not read.cache_contains(1)
        assert await read(1) == 2


async def test_a_strategy_can_have_the_client_as_its_listener(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        strategy = Greedy(client)
        one = client.cache(source.read, strategy=strategy)
        other = client.cache(source.read, strategy=strategy)
        await client.wait_live()
        assert strategy.connection_healthy()
        assert [await one(1), await other(1)] == [1, 2]
        fake_relay.emit("users")
        assert [await one(1), await other(1)] == [3, 4]


async def test_tables_narrow_what_a_strategy_hears(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, strategy=Windowed(max_events=2), tables=["users"])
        await client.wait_live()
        await read(1)
        for table in ("orders", "orders", "users"):
            fake_relay.emit(table)
        assert await read(1) == 1
        fake_relay.emit("users")
        assert await read(1) == 2


async def test_timed_takes_effect_at_the_end_of_its_interval_without_another_event(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(staleness=60) as client:
        read = client.cache(source.read, strategy=Timed(timedelta=datetime.timedelta(seconds=10)))
        await client.wait_live()
        await read(1)
        fake_relay.emit("users")
        assert await read(1) == 1
        fake_relay.advance(10.1)
        assert await read(1) == 2


async def test_a_gap_fires_a_strategy_whatever_its_predicate(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, strategy=Greedy(predicate=lambda event: False))
        await client.wait_live()
        await read(1)
        fake_relay.emit("users")
        assert await read(1) == 1
        fake_relay.gap()
        assert await read(1) == 2
        fake_relay.drop()
        fake_relay.restore(forget=True)
        await client.wait_live()
        assert await read(1) == 3


async def test_a_strategy_resumes_with_each_event_it_missed(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, strategy=Windowed(max_events=3))
        await client.wait_live()
        await read(1)
        fake_relay.emit("users")
        fake_relay.drop()
        fake_relay.emit("users")
        fake_relay.emit("users")
        fake_relay.restore()
        await client.wait_live()
        assert await read(1) == 2


async def test_a_predicate_that_raises_flushes_and_breaks_nothing(
    fake_relay: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    def predicate(event: Event) -> bool:
        raise ZeroDivisionError("a user's mistake")

    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, strategy=Greedy(predicate=predicate))
        await client.wait_live()
        await read(1)
        fake_relay.emit("users")
        fake_relay.emit("users")
        assert await read(1) == 2
        assert fake_relay.connects == 1
        assert caplog.text.count("Greedy strategy raised") == 1


async def test_a_strategy_that_listens_elsewhere_or_asks_itself_is_refused(fake_relay: FakeRelay) -> None:
    class Own:
        def clear(self) -> bool:
            return False

        def connection_healthy(self) -> bool:
            return True

    async with fake_relay.connect() as client, fake_relay.connect() as other:
        with pytest.raises(ConfigurationError, match="already has a listener"):
            client.cache(Source().read, strategy=Greedy(other))
        with pytest.raises(ConfigurationError, match=r"decorators\.cache"):
            client.cache(Source().read, strategy=Own())  # type: ignore[call-overload]  # wrong on purpose


async def test_a_strategy_that_is_garbage_ends_its_subscription(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        read = client.cache(Source().read, strategy=Greedy())
        await client.wait_live()
        gc.collect()
        fake_relay.emit("users")
        assert await read(1) == 1
        del read
        gc.collect()
        await asyncio.sleep(0)
        assert client._watch.subscriptions.wanted() == []


async def test_a_cache_that_is_garbage_keeps_nothing_alive_although_its_strategy_lives(fake_relay: FakeRelay) -> None:
    class Value:
        """Can be seen to die."""

    async def read() -> Value:
        return Value()

    strategy = Greedy()
    async with fake_relay.connect() as client:
        kept = client.cache(Source().read, strategy=strategy)
        dropped = client.cache(read, strategy=strategy)
        await client.wait_live()
        value = weakref.ref(await dropped())
        assert value() is not None
        del dropped
        gc.collect()
        await asyncio.sleep(0)
        gc.collect()
        assert value() is None
        assert [await kept(1), await kept(1)] == [1, 1]


async def test_an_observer_hears_each_event_until_it_is_garbage(fake_relay: FakeRelay) -> None:
    class Observer:
        """Writes down what it hears."""

        def observe(self, event: object, now_s: float) -> None:
            heard.append(event)

    heard: list[object] = []
    observer = Observer()
    async with fake_relay.connect() as client:
        client.attach(observer)
        await client.wait_live()
        fake_relay.emit("users")
        fake_relay.emit("orders")
        assert [change.table for change in heard if isinstance(change, Event)] == ["users", "orders"]
        del observer
        gc.collect()
        await asyncio.sleep(0)
        assert client._watch.subscriptions.wanted() == []
