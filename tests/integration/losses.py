"""Writers whose every change is known, and who hears of them while everything in between is killed.

    writers -> PostgreSQL -> relay -> link -> a client of the library, which reads a stream
                                   -> a raw client, which comes back as a new one with the place it was shown

A change is an operation on a key. What was committed and what was told are compared by counting: one that was not told
is missed, one that was not committed is a phantom. Each has an id; what is told twice has the same id twice.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import asyncpg
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from pgcachewatch import Event, Gap
from pgcachewatch.aio.events import EventStream
from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch.protocol.messages import OPERATION_OF
from tests.postgres import Database
from tests.raw_client import Addressed, Client, Message
from tests.row_triggers import RowTriggers
from tests.waiting import LIMIT_S

TABLE = "losses"
WRITERS = 8
PAUSE_S = 0.02  # at most, between two statements
LONG_TRANSACTION_S = 3.0
KEPT_KEYS = 20  # of a writer: what is older is deleted

Change = tuple[str, str]  # operation, key


@dataclass(slots=True)
class Truth:
    """What was committed."""

    changes: Counter[Change] = field(default_factory=Counter)
    transactions: int = 0
    ended: Counter[str] = field(default_factory=Counter)  # ways in which transactions ended

    def committed(self, changes: list[Change], how: str) -> None:
        self.changes.update(changes)
        self.transactions += 1
        self.ended[how] += 1


class Writer:
    """One connection with keys of its own. `has_two_phases`: it also prepares transactions, and ends them later."""

    def __init__(
        self, number: int, connection: asyncpg.Connection, truth: Truth, seed: int, *, has_two_phases: bool
    ) -> None:
        self._number = number
        self._connection = connection
        self._truth = truth
        self._chance = random.Random(f"{seed} {number}")
        self._has_two_phases = has_two_phases
        self._keys: list[str] = []
        self._made = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Transaction after transaction. The first writer's second one takes three seconds."""
        count = 0
        while not stop.is_set():
            count += 1
            is_long = self._number == 0 and count == 2
            await self._transaction(LONG_TRANSACTION_S if is_long else 0.0)

    async def _transaction(self, length_s: float) -> None:
        chance, before = self._chance, list(self._keys)
        await self._connection.execute("BEGIN")
        changes = await self._statements(chance.randint(1, 3))
        if chance.random() < 0.3:
            inside = list(self._keys)
            await self._connection.execute("SAVEPOINT nested")
            more = await self._statements(chance.randint(1, 2))
            if chance.random() < 0.5:
                await self._connection.execute("ROLLBACK TO nested")
                self._keys = inside
            else:
                await self._connection.execute("RELEASE nested")
                changes += more
        await asyncio.sleep(length_s)  # load, not synchronisation: transactions overlap
        if length_s == 0.0 and chance.random() < 0.2:
            await self._connection.execute("ROLLBACK")
            self._keys = before
            self._truth.ended["rolled back"] += 1
        elif length_s == 0.0 and self._has_two_phases and chance.random() < 0.3:
            await self._in_two_phases(changes, before)
        else:
            await self._connection.execute("COMMIT")
            self._truth.committed(changes, "long" if length_s else "committed")

    async def _in_two_phases(self, changes: list[Change], before: list[str]) -> None:
        name = f"losses_{self._number}"
        await self._connection.execute(f"PREPARE TRANSACTION '{name}'")
        await self._pause()
        if self._chance.random() < 0.3:
            await self._connection.execute(f"ROLLBACK PREPARED '{name}'")
            self._keys = before
            self._truth.ended["prepared, rolled back"] += 1
        else:
            await self._connection.execute(f"COMMIT PREPARED '{name}'")
            self._truth.committed(changes, "prepared, committed")

    async def _statements(self, count: int) -> list[Change]:
        changes = []
        for _ in range(count):
            changes.append(await self._statement())
            await self._pause()
        return changes

    async def _statement(self) -> Change:
        if self._keys and self._chance.random() < 0.5:
            key = self._chance.choice(self._keys)
            await self._connection.execute(f"UPDATE {TABLE} SET version = version + 1 WHERE key = $1", key)
            return "update", key
        if len(self._keys) > KEPT_KEYS:
            key = self._keys[0]
            self._keys = self._keys[1:]
            await self._connection.execute(f"DELETE FROM {TABLE} WHERE key = $1", key)
            return "delete", key
        self._made += 1
        key = f"{self._number}_{self._made}"
        await self._connection.execute(f"INSERT INTO {TABLE} VALUES ($1, 0)", key)
        self._keys = [*self._keys, key]
        return "insert", key

    async def _pause(self) -> None:
        await asyncio.sleep(self._chance.random() * PAUSE_S)  # load, not synchronisation


@dataclass(slots=True)
class Told:
    """What one listener was told. `again` counts what came with an id that was known, `renamed` if it was another."""

    changes: dict[str, Change] = field(default_factory=dict)  # by id, in the order of their first coming
    again: int = 0
    renamed: int = 0
    again_in_one_connection: int = 0
    gaps: list[str] = field(default_factory=list)
    connections: int = 1
    _in_connection: set[str] = field(default_factory=set)

    def connected_anew(self) -> None:
        self.connections += 1
        self._in_connection = set()

    def hear(self, identity: str, change: Change) -> None:
        if identity in self._in_connection:
            self.again_in_one_connection += 1
        self._in_connection.add(identity)
        known = self.changes.get(identity)
        if known is None:
            self.changes[identity] = change
        else:
            self.again += 1
            self.renamed += known != change

    def missed(self, truth: Truth) -> Counter[Change]:
        return truth.changes - Counter(self.changes.values())

    def phantoms(self, truth: Truth) -> Counter[Change]:
        return Counter(self.changes.values()) - truth.changes

    def out_of_order(self) -> list[str]:
        """Keys of whose changes a later one was told first. Ids end with the order in which statements ran."""
        last: dict[str, int] = {}
        found = []
        for identity, (_, key) in self.changes.items():
            seq = int(identity.partition(":")[2])
            if seq < last.get(key, 0):
                found.append(key)
            last[key] = max(seq, last.get(key, 0))
        return found


async def read_stream(stream: EventStream, told: Told) -> None:
    """What a program of the library hears, until the stream is closed."""
    async for item in stream:
        hear_item(item, told)


def hear_item(item: Event | Gap, told: Told) -> None:
    if isinstance(item, Gap):
        told.gaps.append(f"{item.reason}: {item.detail}")
        return
    assert item.id is not None
    assert item.keys is not None
    (key,) = item.keys
    told.hear(item.id, (item.operation, key))


class PlacedClient(Client):
    """A raw client that remembers the place in the journal that it was shown (W-JOURNAL-2)."""

    def __init__(self, relay: Addressed, told: Told, place: Message | None) -> None:
        super().__init__(relay)
        self.place = place or {}
        self._told = told

    async def next(self) -> Message:
        message = await super().next()
        self.seen.clear()
        match message["t"]:
            case "welcome" if not message["resumed"]:
                self._lost("welcome")
            case "reset":
                self._lost("reset")
            case "mark" if "j" in message:
                self.place["j"] = message["j"]
            case "ev":
                for item in message["i"]:
                    self._hear(item)
        self.place |= {"e": self.epoch, "s": self.cursor}
        return message

    def _lost(self, how: str) -> None:
        if self.place:
            self._told.gaps.append(how)
        self.place.pop("j", None)

    def _hear(self, item: list[Any]) -> None:  # Any: JSON
        _, operation, _, detail = item
        if operation == "*":
            self._told.gaps.append(str(detail))
            return
        (key,) = detail["keys"]
        self._told.hear(detail["id"], (OPERATION_OF[operation], key))


class RawListener:
    """A raw client after another, each going on from the last one's place. `abort` ends the one there is."""

    def __init__(self, relay: Addressed) -> None:
        self.told = Told(connections=0)
        self._relay = relay
        self._place: Message | None = None
        self._client: PlacedClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._passed = asyncio.Event()
        self._wants_barrier = False
        self.is_live = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task  # a chain that broke is raised here

    def abort(self) -> None:
        if self._client is not None:
            self._client.socket.transport.abort()

    async def barrier(self) -> None:
        """What was committed before has been told, whatever becomes of connections meanwhile."""
        self._wants_barrier = True
        if self._client is not None and self.is_live.is_set():
            with suppress(ConnectionClosed):
                await self._client.say(t="barrier", id=1)
        assert self._task is not None
        passed = asyncio.create_task(self._passed.wait())
        try:
            async with asyncio.timeout(LIMIT_S):
                await asyncio.wait({passed, self._task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passed.cancel()

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except (OSError, ConnectionClosed, InvalidHandshake, EOFError):
                await asyncio.sleep(0.02)  # the pace of trying again
            finally:
                self.is_live.clear()
                if self._client is not None:
                    self._place, self._client = self._client.place or None, None

    async def _listen(self) -> None:
        self.told.connected_anew()
        client = PlacedClient(self._relay, self.told, self._place)
        async with client:
            self._client = client
            resume = {"resume": dict(self._place)} if self._place else {}
            sub = {"t": "sub", "id": 1, "table": TABLE, "mode": "stream"}
            client.epoch, client.cursor = client.place.get("e", ""), client.place.get("s", 0)
            await client.say(t="hello", v=1, subs=[sub], **resume)
            while True:
                message = await client.next()
                if message["t"] == "mark" and "j" in message and not self.is_live.is_set():
                    self.is_live.set()
                    if self._wants_barrier:
                        await client.say(t="barrier", id=1)
                if message["t"] == "barrierok":
                    self._passed.set()


class Killer:
    """Kills one of its victims every 0 to 0.6 seconds, each in turn. `victims` are what to do, by name."""

    def __init__(self, victims: dict[str, Callable[[], Awaitable[object]]], seed: int) -> None:
        self.killed: Counter[str] = Counter()
        self._victims = victims
        self._chance = random.Random(seed)

    async def run(self, stop: asyncio.Event) -> None:
        turn: list[str] = []
        while self._victims and not stop.is_set():
            await asyncio.sleep(self._chance.random() * 0.6)
            turn = turn or self._chance.sample(sorted(self._victims), len(self._victims))
            name = turn.pop()
            await self._victims[name]()
            self.killed[name] += 1


async def write_for(
    database: Database, truth: Truth, *, duration_s: float, seed: int, has_two_phases: bool, killers: list[Killer]
) -> None:
    """All writers for so long while `killers` kill. Returns when all of their transactions are over."""
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(duration_s, stop.set)
    writers = [
        Writer(number, await database.connect(), truth, seed, has_two_phases=has_two_phases)
        for number in range(WRITERS)
    ]
    async with asyncio.TaskGroup() as group:
        for killer in killers:
            group.create_task(killer.run(stop))
        for writer in writers:
            group.create_task(writer.run(stop))


async def install(database: Database, *, wake: str) -> RowTriggers:
    rig = await RowTriggers.open(database, "journal")
    await rig.writer.execute(f"CREATE TABLE {TABLE} (key text PRIMARY KEY, version int NOT NULL)")
    await rig.install(TABLE, wake=wake, channel=DEFAULT_PG_CHANNEL)
    return rig
