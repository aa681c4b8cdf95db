"""The client as a program uses it, on a relay in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest

from pgcachewatch.aio.caching import OnDisconnect
from pgcachewatch.errors import BarrierTimeout, Closed, ConfigurationError
from pgcachewatch.models import Event, Gap
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.aio.source import Source, settle

__all__ = ["fake_relay"]  # a fixture, for the tests below


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
            await client.barrier(timeout=0.01)


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
            client.events("users", **arguments)  # type: ignore[call-overload]  # wrong on purpose


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

    barrier, consumer = asyncio.create_task(client.barrier(timeout=60)), asyncio.create_task(consume())
    live = asyncio.create_task(client.wait_live())
    await settle()
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
