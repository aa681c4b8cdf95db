"""The session that durable consumers are read and stored with. It is open only while there are consumers.

It holds a lock for each consumer that this relay gives the jobs of; so what is stored over it is stored by the one who
may, and a session that was lost has given all of them up. It reads the journal by itself, from each consumer's place
on, as slowly as its takers are: the LISTEN session never waits for them.

Bounds: a page a statement, `COMMAND_S` for each; a transaction lasts for one statement, or for what is stored at once.
"""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import asyncpg
import pydantic

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch_daemon.core.consumers import Letter, Saved
from pgcachewatch_daemon.core.pages import PAGE_ROWS, Entry, Filter, Page, Place
from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.io.postgres.contract import SourceOptions
from pgcachewatch_daemon.io.postgres.journal import content_of, epoch_of
from pgcachewatch_daemon.io.postgres.session import open_session
from pgcachewatch_daemon.sql import consumers as sql
from pgcachewatch_daemon.sql import journal

SESSION_NAME = "pgcachewatch consumers"
COMMAND_S = 15.0
EPOCH_LOOKS = 10
DONE_LIMIT = 4_000

R = TypeVar("R")


class NoJournal(Exception):
    """This database has none, or its tables are of another release."""


class Unusable(Exception):
    """PostgreSQL can not store this consumer: the text says why."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another relay gives the jobs of this consumer."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is stored. `owner` is the life of a relay that had it last."""

    saved: Saved
    owner: str | None


@dataclass(frozen=True, slots=True)
class Missed:
    """What came after the place may be gone; from `end` on nothing is. `since` is when the place was stored."""

    gap: Gap
    since: datetime.datetime | None
    end: Place


class ConsumerSession:
    """One connection, from `open` to its end. Each method raises what asyncpg raises when it is lost."""

    def __init__(self, connection: asyncpg.Connection[Any], owner: str) -> None:
        self._connection = connection
        self._owner = owner
        self._page: Any = None  # asyncpg's prepared statement
        self.epoch = ""
        self._epoch_id = ""

    @classmethod
    async def open(cls, options: SourceOptions, owner: str) -> ConsumerSession:
        """Raises NoJournal, and what asyncpg raises."""
        connection = await open_session(options.dsn, options, name=SESSION_NAME)
        session = cls(connection, owner)
        try:
            if not await session._within(connection.fetchval(journal.is_there_sql())):
                raise NoJournal("this database has no journal; install with --mode journal")
            await session._learn_epoch()
            session._page = await session._within(connection.prepare(journal.page_sql()))
        except BaseException:
            connection.terminate()
            raise
        return session

    @property
    def is_open(self) -> bool:
        return not self._connection.is_closed()

    def terminate(self) -> None:
        """Be gone at once: the server then gives up every lock."""
        self._connection.terminate()

    async def close(self) -> None:
        """Leave in an orderly way, within a bounded time."""
        try:
            await self._connection.close(timeout=COMMAND_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._connection.terminate()

    async def find(self, name: str) -> Found | Elsewhere:
        """Become the one who gives the jobs of this consumer. One that is new begins now."""
        connection, has_lock = self._connection, False
        try:
            name.encode()
            has_lock = await self._within(connection.fetchval(sql.try_lock_sql(), name))
            return await self._found(name) if has_lock else Elsewhere()
        except (asyncpg.PostgresError, UnicodeEncodeError) as error:
            if connection.is_closed() or isinstance(error, asyncpg.UndefinedTableError | asyncpg.UndefinedColumnError):
                raise
            if has_lock:
                await self.release(name)
            raise Unusable(str(error)) from error

    async def _found(self, name: str) -> Found:
        connection = self._connection
        row = await self._within(connection.fetchrow(sql.find_sql(), name))
        async with connection.transaction():
            # Whatever else a crash may take: not that there is such a consumer, which would begin anew in silence.
            await self._within(connection.execute("SET LOCAL synchronous_commit = on"))
            if row is not None and row["position"] is not None:
                await self._within(connection.execute(sql.own_sql(), name, self._owner))
                place = Place(row["epoch"] or "", row["position"], row["until"], row["after"])
                return Found(Saved(place, tuple(row["done"]), json.loads(row["tries"])), row["owner"])
            if row is not None:
                await self._within(connection.execute(sql.forget_sql(), name))
            place = await self._now()
            created = (name, place.snapshot, place.epoch, self._owner)
            await self._within(connection.execute(sql.create_sql(), *created))
        return Found(Saved(place), self._owner)

    async def release(self, name: str) -> None:
        """Another relay may have it."""
        await self._within(self._connection.fetchval(sql.unlock_sql(), name))

    async def read(self, name: str, place: Place, wanted: Filter) -> Page | Missed:
        """What was committed and is not in `place`, a page of it."""
        if place.epoch != self.epoch:
            return await self._missed(name, "source_lost", "the database was restored, or had crashed")
        snapshot = Snapshot.parse(place.snapshot)
        if snapshot is None:
            return await self._missed(name, "source_lost", f"its place can not be read: {place.snapshot[:80]!r}")
        running = [str(xid) for xid in snapshot.running]
        header, *rows = await self._within(
            self._page.fetch(str(snapshot.xmax), running, place.until or None, place.after, PAGE_ROWS)
        )
        if header["epoch"] != self._epoch_id:
            await self._learn_epoch()
            return await self._missed(name, "source_lost", "the journal was emptied")
        floor = Snapshot.parse(header["floor_snapshot"])
        if floor is None or not snapshot.includes(floor):
            return await self._missed(name, "pruned", "rows of the journal are gone that were not acknowledged")
        entries = tuple(
            _entry(row)
            for row in rows
            # Whose shape is gone, it may be anything.
            if row["channel"] is None
            or wanted.wants_row(row["channel"], row["table_schema"], row["table_name"], row["op"])
        )
        last_seq = rows[-1]["seq"] if len(rows) == PAGE_ROWS else None
        return Page(entries, place, place.until or header["snapshot"], last_seq)

    async def save(self, name: str, saved: Saved, letters: Mapping[str, str]) -> bool:
        """False when the consumer is not there any more. `letters` are the payloads of `saved.letters` by id."""
        connection, place = self._connection, saved.place
        async with connection.transaction():
            for letter in saved.letters:
                buried = (letter.id, name, letters[letter.id], _plain(letter), letter.tries)
                await self._within(connection.execute(sql.bury_sql(), *buried))
            kept = await self._within(
                connection.fetchval(
                    sql.save_sql(),
                    name,
                    place.snapshot,
                    place.epoch,
                    place.until,
                    place.after,
                    list(saved.done[:DONE_LIMIT]),
                    json.dumps(dict(saved.tries)),
                )
            )
        return bool(kept)

    async def _missed(self, name: str, reason: Any, detail: str) -> Missed:  # Any: GapReason
        """Behind a snapshot of this epoch nothing is missed: what came before it is what the gap speaks of."""
        end = await self._now()
        row = await self._within(self._connection.fetchrow(sql.find_sql(), name))
        since = row["updated_at"] if row is not None else None
        return Missed(Gap(Scope(), reason, detail), since, end)

    async def _now(self) -> Place:
        for _ in range(EPOCH_LOOKS):
            row = await self._within(self._connection.fetchrow(sql.now_sql()))
            assert row is not None, "a SELECT without FROM has a row"
            if row["epoch"] == self._epoch_id:
                return Place(self.epoch, row["snapshot"])
            await self._learn_epoch()
        raise TimeoutError("the journal is emptied again and again")

    async def _learn_epoch(self) -> None:
        text = await self._within(self._connection.fetchval(journal.epoch_sql()))
        self.epoch, self._epoch_id = epoch_of(text), text.rpartition("-")[2]

    async def _within(self, command: Awaitable[R]) -> R:
        """A server that does not answer is a session that is lost."""
        try:
            async with asyncio.timeout(COMMAND_S):
                return await command
        except TimeoutError:
            self._connection.terminate()
            raise


def _entry(row: Mapping[str, Any]) -> Entry:
    content = content_of(row)
    channel, identity = row["channel"], f"{row['xid']}:{row['seq']}"
    try:
        event = Event.model_validate({**content, "channel": channel, "id": identity})
    except pydantic.ValidationError as error:
        scope = Scope(channel, row["table_name"], row["table_schema"])
        return Entry(identity, row["seq"], Gap(scope, "unreadable", str(error)[:200]))
    return Entry(identity, row["seq"], event)


def _plain(letter: Letter) -> str:
    """A reason that PostgreSQL can store: a client may have written anything."""
    return letter.reason.replace("\0", "").encode("ascii", "backslashreplace").decode() or "no reason given"
