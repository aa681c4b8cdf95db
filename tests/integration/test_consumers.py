"""Durable consumers, through a real relay to real clients."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

import pgcachewatch
from pgcachewatch import ConsumedEvent
from pgcachewatch.errors import ConfigurationError, EventsLost
from pgcachewatch.listeners import PGEventQueue
from pgcachewatch.models import DEFAULT_PG_CHANNEL, Gap
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.waiting import LIMIT_S, eventually

Seen = list[ConsumedEvent]


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE users (id int PRIMARY KEY, version int NOT NULL DEFAULT 0)")
    await rig.writer.execute("CREATE TABLE others (id int PRIMARY KEY)")
    await rig.install("users", "others", mode="journal", channel=DEFAULT_PG_CHANNEL)
    return rig


def relay_of(rows: RowTriggers, **settings: str) -> RelayProcess:
    quick = {"heartbeat_s": "0.1", "consumer_retry_s": "0.01", "consumer_tries": "3"}
    return RelayProcess(rows.database.dsn, port=0, **{**quick, **settings})


@pytest.fixture
async def relay(rows: RowTriggers) -> AsyncIterator[RelayProcess]:
    with relay_of(rows) as process:
        yield process


@pytest.fixture
async def client(relay: RelayProcess) -> AsyncIterator[pgcachewatch.Client]:
    async with asyncio.timeout(2 * LIMIT_S), pgcachewatch.connect(relay.url) as connected:
        yield connected


async def insert(rows: RowTriggers, first: int, last: int) -> None:
    """One transaction for each."""
    for number in range(first, last + 1):
        await rows.writer.execute("INSERT INTO users VALUES ($1)", number)


async def take(client: pgcachewatch.Client, until: Callable[[Seen], bool], seen: Seen | None = None) -> Seen:
    """Events of the consumer, until there are enough; the last of them is acknowledged as well."""
    taken: Seen = [] if seen is None else seen
    async with client.events("users", operations={"insert"}, consumer="enrich") as events:
        async for event in events:
            taken.append(event)
            if until(taken):
                break
    return taken


def numbers(seen: Seen) -> list[int]:
    return [int(key) for event in seen for key in event.keys or ()]


async def begin(client: pgcachewatch.Client) -> None:
    """The consumer exists from here on."""
    async with client.events("users", operations={"insert"}, consumer="enrich"):
        pass


@pytest.mark.rule("W-CONSUMER-1")
@pytest.mark.rule("W-CONSUMER-2")
async def test_events_come_in_order_and_none_comes_again(rows: RowTriggers, client: pgcachewatch.Client) -> None:
    await insert(rows, 1, 5)  # before there is a consumer
    await begin(client)
    await insert(rows, 6, 15)
    first = await take(client, lambda seen: len(seen) == 10)
    await rows.writer.execute("UPDATE users SET version = 1")
    await rows.writer.execute("INSERT INTO others VALUES (1)")
    await insert(rows, 16, 20)
    second = await take(client, lambda seen: len(seen) == 5)

    assert numbers(first + second) == list(range(6, 21))
    assert len({event.id for event in first + second}) == 15
    assert {event.tries for event in first + second} == {1}


async def test_a_consumer_that_was_away_reads_page_after_page(rows: RowTriggers, client: pgcachewatch.Client) -> None:
    await begin(client)
    await rows.writer.execute("INSERT INTO others SELECT generate_series(1, 10)")
    async with rows.writer.transaction():
        for number in range(1, 2_001):
            await rows.writer.execute("INSERT INTO users VALUES ($1)", number)
    seen = await take(client, lambda seen: len(seen) == 700)
    await take(client, lambda seen: len(seen) == 2_000, seen)

    assert numbers(seen) == list(range(1, 2_001))
    assert {event.tries for event in seen} == {1}


@pytest.mark.rule("W-CONSUMER-2")
async def test_each_event_goes_to_one_of_those_who_share_a_consumer(rows: RowTriggers, relay: RelayProcess) -> None:
    shares: list[Seen] = [[], []]

    async def share(seen: Seen) -> None:
        async with pgcachewatch.connect(relay.url) as client:
            await take(client, lambda _: False, seen)

    tasks = [asyncio.create_task(share(seen)) for seen in shares]
    async with asyncio.timeout(LIMIT_S):
        await eventually(lambda: "consumer_clients 2.0" in relay.get("/metrics")[1])
        await insert(rows, 1, 200)
        await eventually(lambda: len(set(numbers(shares[0] + shares[1]))) == 200)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    assert sorted(numbers(shares[0] + shares[1])) == list(range(1, 201))
    assert all(shares)


@pytest.mark.rule("W-CONSUMER-4")
async def test_an_event_that_is_given_back_comes_again_with_the_same_id(
    rows: RowTriggers, client: pgcachewatch.Client
) -> None:
    await begin(client)
    await insert(rows, 1, 3)
    failed: Seen = []

    def fail_at_2(seen: Seen) -> bool:
        return bool(1 // (2 - numbers(seen)[-1]) and False)

    with pytest.raises(ZeroDivisionError):
        await take(client, fail_at_2, failed)
    seen = await take(client, lambda seen: len(seen) == 2)

    assert numbers(failed) == [1, 2]
    assert sorted(numbers(seen)) == [2, 3]
    again = next(event for event in seen if event.keys == ("2",))
    assert (again.id, again.tries) == (failed[1].id, 2)
    assert next(event for event in seen if event.keys == ("3",)).tries == 1


@pytest.mark.rule("W-CONSUMER-4")
async def test_an_event_that_is_tried_in_vain_becomes_a_dead_letter_and_the_others_go_on(
    rows: RowTriggers, client: pgcachewatch.Client, relay: RelayProcess
) -> None:
    await begin(client)
    await insert(rows, 1, 5)
    handled: set[int] = set()
    tries: list[int] = []
    while handled != {1, 2, 4, 5} or len(tries) < 3:
        try:
            async with client.events("users", operations={"insert"}, consumer="enrich") as events:
                async for event in events:
                    if event.keys == ("3",):
                        tries.append(event.tries)
                        raise ValueError("poison \0 \ud800")
                    handled.update(numbers([event]))
                    if handled == {1, 2, 4, 5} and len(tries) == 3:
                        break
        except ValueError:
            pass

    async def is_buried() -> bool:
        return bool(await rows.writer.fetchval("SELECT count(*) FROM pgcachewatch.dead_letters"))

    await eventually(is_buried)
    letter = await rows.writer.fetchrow(
        "SELECT consumer, payload->'keys'->>0 AS key, reason, tries FROM pgcachewatch.dead_letters"
    )
    assert letter is not None
    assert (letter["consumer"], letter["key"], letter["tries"]) == ("enrich", "3", 3)
    assert letter["reason"].startswith("ValueError('poison ")
    assert tries == [1, 2, 3]
    assert "consumer_dead_letters_total 1.0" in relay.get("/metrics")[1]
    await insert(rows, 6, 6)
    assert numbers(await take(client, lambda seen: len(seen) == 1)) == [6]


@pytest.mark.rule("W-CONSUMER-8")
async def test_who_lets_an_event_time_out_has_its_others_taken_and_goes_on_when_it_speaks(
    rows: RowTriggers,
) -> None:
    async with (
        asyncio.timeout(2 * LIMIT_S),
        relay_of(rows, consumer_timeout_s="2") as relay,
        pgcachewatch.connect(relay.url) as slow,
        pgcachewatch.connect(relay.url) as quick,
        slow.events("users", operations={"insert"}, consumer="enrich") as events,
    ):
        await insert(rows, 1, 3)
        first = await anext(events)
        seen = await take(quick, lambda seen: len(seen) == 3)  # from where the slow one says nothing
        await insert(rows, 4, 4)
        second = await anext(events)

    assert sorted(numbers(seen)) == [1, 2, 3]
    assert {event.keys: event.tries for event in seen} == {("1",): 2, ("2",): 1, ("3",): 1}
    assert (first.keys, second.keys) == (("1",), ("4",))


@pytest.mark.rule("W-CONSUMER-7")
async def test_a_relay_that_is_restarted_in_order_gives_nothing_twice(rows: RowTriggers, relay: RelayProcess) -> None:
    seen: Seen = []

    def has_come(count: int) -> bool:
        return len(seen) >= count

    async with asyncio.timeout(3 * LIMIT_S), pgcachewatch.connect(relay.url) as client:
        await begin(client)
        taking = asyncio.create_task(take(client, lambda seen: len(seen) == 90, seen))
        for restart in range(3):
            await insert(rows, restart * 30 + 1, restart * 30 + 30)
            await eventually(partial(has_come, restart * 30 + 10))
            relay.signal(signal.SIGTERM)
            await asyncio.to_thread(relay.wait)
            relay.start()
            await asyncio.to_thread(relay.wait_ready)
        await taking

    assert numbers(seen) == list(range(1, 91))


@pytest.mark.rule("W-CONSUMER-5")
async def test_a_gap_is_told_until_it_is_acknowledged(rows: RowTriggers, client: pgcachewatch.Client) -> None:
    await begin(client)
    await insert(rows, 1, 3)
    await rows.writer.execute("TRUNCATE pgcachewatch.journal")
    for _ in range(5):  # more than there are tries
        with pytest.raises(EventsLost) as lost:
            await take(client, lambda _: False)  # what was read before it was taken away comes first
        assert lost.value.reason == "source_lost"
    gaps: list[Gap] = []

    async def rescan(gap: Gap) -> None:
        gaps.append(gap)

    async with client.events("users", operations={"insert"}, consumer="enrich", on_gap=rescan) as events:
        taking = asyncio.create_task(anext(events))
        await eventually(lambda: bool(gaps))
        await insert(rows, 4, 4)
        assert (await taking).keys == ("4",)
    assert [gap.reason for gap in gaps] == ["source_lost"]
    assert gaps[0].since is not None
    await insert(rows, 5, 5)
    assert numbers(await take(client, lambda seen: len(seen) == 1)) == [5]


@pytest.mark.rule("W-CONSUMER-5")
async def test_rows_that_somebody_deletes_are_a_gap_also_while_it_runs(
    rows: RowTriggers, client: pgcachewatch.Client
) -> None:
    gaps: list[Gap] = []

    async def rescan(gap: Gap) -> None:
        gaps.append(gap)

    await begin(client)
    await insert(rows, 1, 3)
    await rows.writer.execute(
        "DELETE FROM pgcachewatch.journal WHERE seq = (SELECT min(seq) FROM pgcachewatch.journal)"
    )
    await insert(rows, 4, 4)
    seen: Seen = []
    async with client.events("users", operations={"insert"}, consumer="enrich", on_gap=rescan) as events:
        taking = asyncio.create_task(anext(events))
        await eventually(lambda: len(gaps) == 1)
        await rows.writer.execute("TRUNCATE pgcachewatch.journal")
        await eventually(lambda: len(gaps) == 2)
        await insert(rows, 5, 5)
        seen.append(await taking)
    assert [gap.reason for gap in gaps] == ["pruned", "source_lost"]
    assert numbers(seen) == [5]


async def test_threads_take_part_as_well(rows: RowTriggers, relay: RelayProcess) -> None:
    gaps: list[Gap] = []

    def take_in_thread(count: int, *, fails: bool = False) -> Seen:
        seen: Seen = []
        with (
            pgcachewatch.sync.connect(relay.url) as client,
            client.events("users", operations={"insert"}, consumer="enrich", on_gap=gaps.append) as events,
        ):
            for event in events if count else ():
                seen.append(event)
                if fails:
                    raise ZeroDivisionError
                if len(seen) == count:
                    break
        return seen

    async with asyncio.timeout(LIMIT_S):
        await asyncio.to_thread(take_in_thread, 0)
        await insert(rows, 1, 3)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(take_in_thread, 3, fails=True)
        seen = await asyncio.to_thread(take_in_thread, 3)
        assert sorted(numbers(seen)) == [1, 2, 3]
        assert next(event for event in seen if event.keys == ("1",)).tries == 2
        await rows.writer.execute("TRUNCATE pgcachewatch.journal")
        taking = asyncio.create_task(asyncio.to_thread(take_in_thread, 1))
        await eventually(lambda: bool(gaps))
        await insert(rows, 4, 4)
        assert numbers(await taking) == [4]


async def test_a_listener_of_the_original_runs_on_a_consumer_by_a_setting(
    rows: RowTriggers, relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCACHEWATCH_URL", relay.url)
    monkeypatch.setenv("PGCACHEWATCH_CONSUMER", "listener")
    with pytest.raises(ConfigurationError, match="PGCACHEWATCH_CONSUMER_TABLES"):
        await PGEventQueue().connect(await rows.database.connect())
    monkeypatch.setenv("PGCACHEWATCH_CONSUMER_TABLES", "users, others")
    async with asyncio.timeout(LIMIT_S):
        keys: list[object] = []
        for first in (1, 4):
            connection = await rows.database.connect()
            listener = PGEventQueue()
            await listener.connect(connection)
            await insert(rows, first, first + 2)
            for _ in range(3):
                event = await listener.get()
                assert event is not None
                keys.append(event.keys)
            await connection.close()
            assert await listener.get() is None
        assert keys == [(str(number),) for number in range(1, 7)]
        listener = PGEventQueue()
        await listener.connect(connection := await rows.database.connect())
        await rows.writer.execute("TRUNCATE pgcachewatch.journal")
        with pytest.raises(EventsLost):
            await listener.get()
        await insert(rows, 7, 7)
        event = await listener.get()
        assert event is not None
        await connection.close()


async def test_what_is_not_journalled_is_refused(rows: RowTriggers, client: pgcachewatch.Client) -> None:
    await rows.writer.execute("CREATE TABLE plain (id int PRIMARY KEY)")
    with pytest.raises(ConfigurationError, match="install --mode journal plain"):
        async with client.events("plain", consumer="plain"):
            pass
    with pytest.raises(ConfigurationError, match="without tables"):
        client.events(consumer="everything")


@pytest.mark.rule("W-CONSUMER-6")
async def test_two_relays_never_give_the_same_consumer_and_a_client_finds_the_one_that_does(
    rows: RowTriggers, relay: RelayProcess
) -> None:
    with RelayProcess(rows.database.dsn, heartbeat_s="0.1") as other:
        async with asyncio.timeout(LIMIT_S), pgcachewatch.connect(relay.url) as holder:
            first: Seen = []
            holding = asyncio.create_task(take(holder, lambda seen: len(seen) == 500, first))
            await eventually(lambda: "consumer_clients 1.0" in relay.get("/metrics")[1])
            second: Seen = []
            async with pgcachewatch.connect([other.url, relay.url]) as seeker:
                seeking = asyncio.create_task(take(seeker, lambda seen: len(seen) == 500, second))
                await eventually(lambda: "consumer_clients 2.0" in relay.get("/metrics")[1])
                assert seeker.status.url == relay.url
                await insert(rows, 1, 20)
                await eventually(lambda: len(first) + len(second) == 20)
                relay.kill()
                await insert(rows, 21, 40)
                await eventually(lambda: set(numbers(second)) >= set(range(21, 41)))
                for task in (holding, seeking):
                    task.cancel()
                await asyncio.gather(holding, seeking, return_exceptions=True)

    ids: dict[int, set[str]] = {}
    for event in first + second:
        ids.setdefault(numbers([event])[0], set()).add(event.id)
    assert ids.keys() == set(range(1, 41))
    assert {len(each) for each in ids.values()} == {1}


async def test_pruning_keeps_what_a_consumer_has_not_acknowledged(rows: RowTriggers) -> None:
    with RelayProcess(rows.database.dsn, heartbeat_s="0.1", journal_retention_s="1") as relay:
        async with asyncio.timeout(LIMIT_S), pgcachewatch.connect(relay.url) as client:
            await begin(client)
            await insert(rows, 1, 3)

            async def has_kept(seconds: float) -> bool:
                age = "SELECT extract(epoch FROM clock_timestamp() - min(at)) FROM pgcachewatch.journal"
                return float(await rows.writer.fetchval(age)) > seconds

            await eventually(lambda: has_kept(4.0))
            assert numbers(await take(client, lambda seen: len(seen) == 3)) == [1, 2, 3]

            async def is_pruned() -> bool:
                return not await rows.writer.fetchval("SELECT count(*) FROM pgcachewatch.journal")

            await eventually(is_pruned)
