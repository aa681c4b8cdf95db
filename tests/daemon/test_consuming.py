"""Consumers over a real journal, with clients that are told texts, and no network."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from pgcachewatch.models import DEFAULT_PG_CHANNEL, EVERYTHING, Gap
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import JobsDone, JobsFailed, TakerJoined
from pgcachewatch_daemon.consuming import Consuming
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.consumers import ConsumerLimits
from pgcachewatch_daemon.core.outbox import Outbox, OutboxLimits
from pgcachewatch_daemon.core.stats import HubStats
from pgcachewatch_daemon.inspection import NotReady
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.posts import ConsumerOptions, Desk
from pgcachewatch_daemon.sql.columns import Refusal
from tests.postgres import Database
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

SESSIONS = (
    "SELECT pid FROM pg_stat_activity"
    " WHERE application_name = 'pgcachewatch consumers' AND datname = current_database()"
)
KILL = f"SELECT pg_terminate_backend(pid) FROM ({SESSIONS}) AS s"


def somebody() -> Subscriber:
    framing = Framing(str.encode)
    return Subscriber(Outbox(OutboxLimits(), frame=framing.frame, stats=HubStats()), framing)


class Room:
    """A Consuming, and what each client was told."""

    def __init__(self, dsn: str, **options: Any) -> None:
        self.told: dict[Subscriber, list[dict[str, Any]]] = {}
        self.problem: Refusal | NotReady | None = None
        self.consuming = Consuming(
            ConsumerOptions(**{"limits": ConsumerLimits(retry_s=0.01), **options}),
            SourceOptions(dsn=dsn),
            Desk(tell=self.tell, refuse=self.refuse, why_not=lambda want: self.problem),
            now_s=time.monotonic,
        )

    def tell(self, subscriber: Subscriber, text: str) -> None:
        self.told.setdefault(subscriber, []).append(json.loads(text))

    def refuse(self, subscriber: Subscriber, error: messages.Err) -> None:
        self.tell(subscriber, error.model_dump_json())

    def join(self, subscriber: Subscriber, name: str = "c", **fields: Any) -> None:
        wants = [messages.Want(channel=DEFAULT_PG_CHANNEL, table="t")]
        wish = messages.Consume(**{"id": 1, "consumer": name, "wants": wants, "prefetch": 10, **fields})
        self.consuming.perform(subscriber, TakerJoined(1, wish))

    def kinds(self, subscriber: Subscriber) -> list[str]:
        return [each.get("code", each["t"]) for each in self.told.get(subscriber, [])]

    def jobs(self, subscriber: Subscriber) -> list[str]:
        return [each["id"] for each in self.told.get(subscriber, []) if each["t"] == "job"]

    def has_jobs(self, subscriber: Subscriber, count: int) -> bool:
        return len(self.jobs(subscriber)) == count

    async def admitted(self, subscriber: Subscriber) -> None:
        await eventually(lambda: "subok" in self.kinds(subscriber))


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rig.install("t", mode="journal", channel=DEFAULT_PG_CHANNEL)
    return rig


@pytest.fixture
async def room(rows: RowTriggers) -> AsyncIterator[Room]:
    room = Room(rows.database.dsn)
    yield room
    for subscriber in room.told:
        room.consuming.drop(subscriber)
    await room.consuming.close()


async def test_the_session_is_open_only_while_there_are_consumers(rows: RowTriggers, room: Room) -> None:
    assert await rows.writer.fetch(SESSIONS) == []
    one = somebody()
    room.join(one)
    await room.admitted(one)
    assert len(await rows.writer.fetch(SESSIONS)) == 1
    assert room.consuming.leave(one, 1)
    assert not room.consuming.leave(one, 1)

    async def is_closed() -> bool:
        return await rows.writer.fetch(SESSIONS) == []

    await eventually(is_closed)
    assert room.consuming.consumers == 0


async def test_what_was_said_is_stored_when_the_last_client_leaves(rows: RowTriggers, room: Room) -> None:
    one, two = somebody(), somebody()
    room.join(one)
    await room.admitted(one)
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await rows.writer.execute("INSERT INTO t VALUES (2)")
    room.consuming.wake()
    await eventually(lambda: len(room.jobs(one)) == 2)
    room.consuming.perform(one, JobsDone(1, (room.jobs(one)[1],)))
    assert room.consuming.pending == 1
    (seen,) = room.consuming.standings(datetime.datetime.now(tz=datetime.UTC))
    assert seen.lag_s >= 0
    room.consuming.drop(one)
    await eventually(lambda: room.consuming.consumers == 0)

    room.join(two)
    await eventually(lambda: len(room.jobs(two)) == 1)
    assert room.jobs(two) == room.jobs(one)[:1]
    assert room.told[two][-1]["tries"] == 2


async def test_a_session_that_is_lost_gives_nothing_twice(rows: RowTriggers, room: Room) -> None:
    one = somebody()
    room.join(one)
    await room.admitted(one)
    for number in range(5):
        await rows.writer.execute("INSERT INTO t VALUES ($1)", number)
        room.consuming.wake()
        await eventually(partial(room.has_jobs, one, number + 1))
        await rows.writer.execute(KILL)
        room.consuming.perform(one, JobsDone(1, (room.jobs(one)[-1],)))
    assert len(set(room.jobs(one))) == 5
    room.consuming.drop(one)
    await eventually(lambda: room.consuming.consumers == 0)
    room.join(two := somebody())
    await room.admitted(two)
    await rows.writer.execute("INSERT INTO t VALUES (100)")
    await eventually(lambda: len(room.jobs(two)) == 1)


@pytest.mark.rule("W-CONSUMER-6")
async def test_another_relay_has_it_until_this_one_has_stored_all(rows: RowTriggers, room: Room) -> None:
    other = Room(rows.database.dsn)
    one, two = somebody(), somebody()
    room.join(one)
    await room.admitted(one)
    other.join(two)
    await eventually(lambda: other.kinds(two) == ["consumer_elsewhere"])
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await eventually(lambda: len(room.jobs(one)) == 1)
    room.consuming.perform(one, JobsDone(1, tuple(room.jobs(one))))
    room.consuming.drop(one)
    await eventually(lambda: room.consuming.consumers == 0)
    other.join(two)
    await other.admitted(two)
    await rows.writer.execute("INSERT INTO t VALUES (2)")
    await eventually(lambda: len(other.jobs(two)) == 1)
    assert other.jobs(two) != room.jobs(one)
    other.consuming.drop(two)
    await other.consuming.close()


async def test_who_lost_the_lock_to_another_takes_back_what_it_gave(rows: RowTriggers, room: Room) -> None:
    one = somebody()
    room.join(one)
    await room.admitted(one)
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await eventually(lambda: len(room.jobs(one)) == 1)
    await rows.writer.execute("UPDATE pgcachewatch.consumers SET owner = 'another'")
    await rows.writer.execute(KILL)
    await eventually(lambda: room.kinds(one)[-3:] == ["taken", "subok", "job"])
    assert len(set(room.jobs(one))) == 1


async def test_refusals_say_why(rows: RowTriggers, room: Room) -> None:
    clients = [somebody() for _ in range(5)]
    room.join(clients[0])
    await room.admitted(clients[0])
    room.join(clients[1], ops=["i"])
    room.problem = Refusal("not_journalled", "t is not")
    room.join(clients[2])
    room.problem = NotReady("wait")
    room.join(clients[3])
    room.problem = None
    few = Room(rows.database.dsn, consumers=0)
    few.join(clients[4])
    none = Room(rows.database.dsn, is_offered=False)
    none.join(clients[4])
    assert [room.kinds(each) for each in clients[1:4]] == [["consumer_differs"], ["not_journalled"], ["not_ready"]]
    assert few.kinds(clients[4]) == ["too_many_consumers"]
    assert none.kinds(clients[4]) == ["no_consumers"]


async def test_while_draining_nothing_more_is_given_and_what_is_said_is_stored(rows: RowTriggers, room: Room) -> None:
    one = somebody()
    room.join(one, prefetch=1)
    await room.admitted(one)
    for number in range(3):
        await rows.writer.execute("INSERT INTO t VALUES ($1)", number)
    await eventually(lambda: room.consuming.pending == 3)
    room.consuming.drain()
    room.consuming.perform(one, JobsDone(1, tuple(room.jobs(one))))
    room.consuming.drop(one)
    await room.consuming.close()
    assert len(room.jobs(one)) == 1
    other = Room(rows.database.dsn)
    other.join(one)
    await eventually(lambda: len(other.jobs(one)) == 2)
    assert not set(other.jobs(one)) & set(room.jobs(one))
    assert [each["tries"] for each in other.told[one][1:]] == [1, 1]
    other.consuming.drop(one)
    await other.consuming.close()


async def test_a_doubt_is_a_gap_for_whom_it_may_concern(rows: RowTriggers, room: Room) -> None:
    one = somebody()
    room.join(one)
    await room.admitted(one)
    room.consuming.doubt(Gap(EVERYTHING, "unreadable", "a row could not be written"))
    assert room.told[one][-1]["op"] == "*"
    assert room.told[one][-1]["detail"]["reason"] == "unreadable"


async def test_a_consumer_that_is_deleted_begins_anew(rows: RowTriggers, room: Room) -> None:
    one = somebody()
    room.join(one)
    await room.admitted(one)
    await rows.writer.execute("DELETE FROM pgcachewatch.consumers")
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await eventually(lambda: len(room.jobs(one)) == 1)
    room.consuming.perform(one, JobsFailed(1, tuple(room.jobs(one)), "no"))
    await eventually(lambda: room.kinds(one).count("subok") == 2)
    assert await rows.writer.fetchval("SELECT count(*) FROM pgcachewatch.consumers") == 1


async def test_close_is_bounded_while_the_database_is_away(rows: RowTriggers) -> None:
    room = Room("postgresql://127.0.0.1:1/none")
    one = somebody()
    room.join(one)
    await asyncio.sleep(0)
    room.consuming.drop(one)
    await room.consuming.close()
    assert room.kinds(one) == []


async def test_what_is_said_while_a_store_lasts_is_stored_before_the_consumer_is_given_up(
    rows: RowTriggers, room: Room
) -> None:
    one, two = somebody(), somebody()
    room.join(one)
    await room.admitted(one)
    await rows.writer.execute("INSERT INTO t VALUES (1)")
    await rows.writer.execute("INSERT INTO t VALUES (2)")
    await eventually(lambda: len(room.jobs(one)) == 2)
    blocker = await rows.database.connect()
    async with blocker.transaction():
        await blocker.execute("SELECT FROM pgcachewatch.consumers FOR UPDATE")
        room.consuming.perform(one, JobsDone(1, (room.jobs(one)[0],)))

        async def is_storing() -> bool:
            return bool(await rows.writer.fetch(SESSIONS + " AND wait_event_type = 'Lock'"))

        await eventually(is_storing)
        room.consuming.perform(one, JobsDone(1, (room.jobs(one)[1],)))
        room.consuming.drop(one)
    await eventually(lambda: room.consuming.consumers == 0)
    room.join(two)
    await room.admitted(two)
    await rows.writer.execute("INSERT INTO t VALUES (3)")
    await eventually(lambda: len(room.jobs(two)) > 0)
    assert not set(room.jobs(two)) & set(room.jobs(one))
