"""The client as a program uses it, on a relay in memory."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

import pgcachewatch
from pgcachewatch.aio.caching import OnDisconnect
from pgcachewatch.errors import BarrierTimeout, Closed, ConfigurationError, ConnectionFailed, NotFresh, Refused
from pgcachewatch.models import Event, Gap
from pgcachewatch.strategies import Greedy, Timed, Windowed
from pgcachewatch.testing import FakeRelay, fake_relay

__all__ = ["fake_relay"]  # a fixture, for the tests below


class Source:
    """A function to cache, and how often it ran. `gate` holds runs until it is opened."""

    def __init__(self) -> None:
        self.runs = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Semaphore(0)

    async def read(self, key: int = 0) -> int:
        self.runs += 1
        number = self.runs
        self.started.release()
        await self.gate.wait()
        return number

    async def running(self, call: Coroutine[Any, Any, int]) -> asyncio.Task[int]:
        """A call whose run of the function waits at the gate."""
        self.gate.clear()
        while not self.started.locked():
            await self.started.acquire()
        task = asyncio.create_task(call)
        async with asyncio.timeout(10):  # it may join another run, which is a failure and not a reason to hang
            await self.started.acquire()
        return task


# --- caching


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
            await asyncio.sleep(0.01)
            source.gate.set()
            assert sorted(await asyncio.gather(*calls)) == ([2, 2, 2] if mode == "share" else [2, 3, 4])


async def test_a_function_can_override_on_disconnect(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(on_disconnect="raise") as client:
        read = client.cache(source.read, tables=["users"], on_disconnect="bypass")
        assert await read(1) == 1


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


# --- connecting


async def test_connect_can_be_awaited(fake_relay: FakeRelay) -> None:
    client = await fake_relay.connect()
    assert client.status.is_connected
    await client.aclose()
    assert not client.status.is_connected


async def test_connect_gives_up_after_open_timeout(fake_relay: FakeRelay) -> None:
    fake_relay.drop()
    with pytest.raises(ConnectionFailed, match="no relay welcomed"):
        await fake_relay.connect(open_timeout=0.05)


async def test_connect_raises_what_a_relay_refused_for_good(fake_relay: FakeRelay) -> None:
    fake_relay.refuse(403)
    with pytest.raises(Refused, match="403") as caught:
        await fake_relay.connect()
    assert (caught.value.code, caught.value.may_retry) == (403, False)


async def test_without_open_timeout_the_client_starts_cold(fake_relay: FakeRelay) -> None:
    fake_relay.drop()
    async with fake_relay.connect(open_timeout=0) as client:
        read = client.cache(Source().read)
        assert client.status.state == "cold"
        assert [await read(1), await read(1)] == [1, 2]
        fake_relay.restore()
        await client.wait_live()
        assert [await read(1), await read(1)] == [3, 3]


async def test_one_connecting_makes_one_client(fake_relay: FakeRelay) -> None:
    connecting = fake_relay.connect()
    async with connecting:
        with pytest.raises(ConfigurationError, match="twice"):
            await connecting


@pytest.mark.parametrize(
    "options",
    [
        {"staleness": 0},
        {"staleness": float("inf")},
        {"on_disconnect": "hope"},
        {"event_buffer": 0},
        {"open_timeout": -1},
        {"channels": ()},
        {"channels": "a"},
        {"name": "x" * 201},
    ],
)
def test_options_that_can_not_work_are_refused_at_once(fake_relay: FakeRelay, options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        fake_relay.connect(**options)


@pytest.mark.parametrize("url", ["http://relay:8420", [], ["ws://a", "b"]])
def test_urls_that_can_not_work_are_refused_at_once(url: str | list[str]) -> None:
    with pytest.raises(ConfigurationError):
        pgcachewatch.connect(url)


async def test_a_token_source_is_asked_before_each_connection(fake_relay: FakeRelay) -> None:
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        return "secret"

    async with fake_relay.connect(token=token) as client:
        fake_relay.close(4200, "expired")
        await client.wait_live()
    assert len(asked) == 2


async def test_an_expired_token_without_a_source_stops(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(token="old") as client:
        fake_relay.close(4200, "expired")
        with pytest.raises(Refused, match="expired"):
            await client.wait_live()
        with pytest.raises(Refused, match="expired"):
            await client.barrier()
        assert isinstance(client.status.last_error, Refused)


async def test_a_client_can_be_used_without_a_relay_named_in_the_code(
    fake_relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgcachewatch, "connect", fake_relay.connect)
    async with pgcachewatch.connect("ws://production:8420", staleness=1.0) as client:
        assert client.status.is_connected


# --- strategies


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


# --- barrier


async def test_after_a_barrier_a_call_joins_no_run_from_before_it(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"])
        await client.wait_live()
        fake_relay.send('{"t":"stale","since":1,"reason":"test"}')
        early = await source.running(read(1))
        fake_relay.emit("users")
        await client.barrier()
        late = await source.running(read(1))
        source.gate.set()
        assert [await early, await late] == [1, 2]


async def test_a_barrier_detaches_shared_runs_of_a_function_that_is_not_live(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect(on_disconnect="share") as client:
        read = client.cache(source.read, tables=["users"])
        # The relay refuses: no event will ever detach a run of this function.
        fake_relay.send('{"t":"err","id":1,"code":"forbidden","message":"no","retry":false}')
        early = await source.running(read(1))
        await client.barrier()
        late = await source.running(read(1))
        source.gate.set()
        assert [await early, await late] == [1, 2]


async def test_a_barrier_times_out_with_what_is_missing(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        fake_relay.lose_source()
        with pytest.raises(BarrierTimeout, match="PostgreSQL"):
            await client.barrier(0.01)


async def test_a_barrier_can_be_awaited_on_another_loop(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        await asyncio.to_thread(lambda: asyncio.run(client.barrier()))


# --- events


async def test_events_come_as_models(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client, client.events("users") as events:
        fake_relay.emit("orders")
        fake_relay.emit("users", "insert", key="5")
        event = await anext(events)
        assert isinstance(event, Event)
        assert (event.table, event.schema_name, event.operation, event.keys) == ("users", "public", "insert", ("5",))


async def test_events_can_be_narrowed_to_operations(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client, client.events(operations={"delete"}) as events:
        fake_relay.emit("users", "insert")
        fake_relay.emit("users", "delete")
        event = await anext(events)
        assert isinstance(event, Event)
        assert event.operation == "delete"


async def test_a_stream_resumes_without_a_gap(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client, client.events("users") as events:
        fake_relay.emit("users", key="1")
        fake_relay.drop()
        fake_relay.emit("users", key="2")
        fake_relay.restore()
        await client.wait_live()
        fake_relay.emit("users", key="3")
        taken = [await anext(events) for _ in range(3)]
        assert [event.keys for event in taken if isinstance(event, Event)] == [("1",), ("2",), ("3",)]


async def test_a_stream_tells_where_continuity_broke(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client, client.events("users") as events:
        fake_relay.gap()
        fake_relay.emit("users")
        fake_relay.drop()
        fake_relay.restore(forget=True)
        await client.wait_live()
        reset, event, lost = [await anext(events) for _ in range(3)]
        assert isinstance(reset, Gap)
        assert reset.reason == "source_lost"
        assert isinstance(event, Event)
        assert isinstance(lost, Gap)
        assert lost.reason == "link_lost"


async def test_a_stream_that_is_not_read_is_bounded(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(event_buffer=5) as client, client.events("users") as events:
        for _ in range(100):
            fake_relay.emit("users")
        first = await anext(events)
        assert isinstance(first, Gap)
        assert first.reason == "overflow"


async def test_leaving_the_loop_ends_the_subscription(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        stream = client.events("users")
        await stream.__aenter__()
        fake_relay.emit("users")
        async for _ in stream:
            break
        del stream
        gc.collect()
        await asyncio.sleep(0)
        assert client._watch.subscriptions.wanted() == []


@pytest.mark.parametrize(
    "arguments", [{"operations": {"upsert"}}, {"operations": set()}, {"operations": "insert"}, {"start": "yesterday"}]
)
async def test_event_arguments_that_can_not_work_are_refused(
    fake_relay: FakeRelay, arguments: dict[str, object]
) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match=next(iter(arguments))):
            client.events("users", **arguments)  # type: ignore[arg-type]  # wrong on purpose


# --- the end


async def test_after_closing_functions_run_for_every_call(fake_relay: FakeRelay) -> None:
    source = Source()
    modes: tuple[OnDisconnect, ...] = ("share", "bypass", "stale", "raise")
    async with fake_relay.connect() as client:
        caches = [client.cache(source.read, tables=["users"], on_disconnect=mode) for mode in modes]
        await client.wait_live()
        for read in caches:
            await read(1)
    runs = source.runs
    for read in caches:
        await read(1)
        await read(1)
    assert source.runs == runs + 2 * len(caches)


async def test_after_closing_everything_else_raises_closed(fake_relay: FakeRelay) -> None:
    client = await fake_relay.connect()
    await client.aclose()
    await client.aclose()
    with pytest.raises(Closed):
        await client.barrier()
    with pytest.raises(Closed):
        await client.wait_live()
    with pytest.raises(Closed):
        client.events("users")
    with pytest.raises(Closed):
        client.cache(Source().read)
    assert client.status.is_closed
    assert not client.connection_healthy()


async def test_closing_wakes_those_who_wait(fake_relay: FakeRelay) -> None:
    client = await fake_relay.connect()
    fake_relay.lose_source()
    events = client.events("users")

    async def consume() -> list[Event | Gap]:
        return [event async for event in events]

    barrier, consumer = asyncio.create_task(client.barrier(60)), asyncio.create_task(consume())
    live = asyncio.create_task(client.wait_live())
    await asyncio.sleep(0.01)
    await client.aclose()
    assert await consumer == []
    for waiting in (barrier, live):
        with pytest.raises(Closed):
            await waiting


async def test_closing_while_the_relay_is_down_is_quick(fake_relay: FakeRelay) -> None:
    client = await fake_relay.connect()
    fake_relay.drop()
    async with asyncio.timeout(5):
        await client.aclose()


# --- status


async def test_status_tells_what_is_known(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(staleness=2.0) as client:
        await client.wait_live()
        status = client.status
        assert status.state == "live"
        assert status.is_connected
        assert 1.9 < status.lease_left_s <= 2.0
        assert status.position is not None
        before = status.position.seq
        client.cache(Source().read)
        fake_relay.emit("users")
        assert client.status.position is not None
        assert client.status.position.seq == before + 1
        fake_relay.drop()
        assert client.status.state == "suspect"
        assert not client.status.is_connected
        fake_relay.advance(5)
        assert client.status.lease_left_s == 0.0


async def test_a_refused_subscription_shows_in_status(fake_relay: FakeRelay, caplog: pytest.LogCaptureFixture) -> None:
    async with fake_relay.connect() as client:
        read = client.cache(Source().read, tables=["secrets"], name="secrets")
        fake_relay.send('{"t":"err","id":1,"code":"forbidden","message":"not yours","retry":false}')
        assert client.status.refusals == ("the relay refused: forbidden: not yours",)
        assert "secrets will run for every call" in caplog.text
        assert [await read(1), await read(1)] == [1, 2]


async def test_silence_past_the_lease_shows_as_suspect(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(staleness=2.0) as client:
        await client.wait_live()
        fake_relay.mute()
        fake_relay.advance(3)
        assert client.status.state == "suspect"


async def test_several_clients_hear_the_same_relay(fake_relay: FakeRelay) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(fake_relay.connect()) for _ in range(3)]
        sources = [Source() for _ in clients]
        reads = [client.cache(source.read) for client, source in zip(clients, sources, strict=True)]
        for client in clients:
            await client.wait_live()
        for number in (1, 2):
            assert [await read(1) for read in reads] == [number] * 3
            fake_relay.emit("users")
