"""A database with row-level triggers, and every event that a statement raises, read as the relay reads it.

In journal mode events are read from the journal, and told as their triggers would have notified them.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import uuid
from collections.abc import Sequence
from typing import Any

import asyncpg

from pgcachewatch.models import Event
from pgcachewatch_daemon.commands.database import run_steps
from pgcachewatch_daemon.core.intake import Intake
from pgcachewatch_daemon.io.catalogue import fetch_catalogue
from pgcachewatch_daemon.io.postgres.journal import content_of
from pgcachewatch_daemon.sql import coverage, journal, plan
from pgcachewatch_daemon.sql.capture import Mode
from pgcachewatch_daemon.sql.catalogue import Catalogue
from tests.postgres import Database

CHANNEL = "ch_rows"
END = "end_of_test_statement"
WITHIN_S = 90.0

Told = tuple[str, str, set[str] | None]


class RowTriggers:
    """One writer and one listener. `writer` is the superuser that the test's database belongs to."""

    def __init__(
        self, database: Database, writer: asyncpg.Connection, listener: asyncpg.Connection, mode: Mode = "direct"
    ) -> None:
        self.database = database
        self.writer = writer
        self.mode = mode
        self.snapshot = ""  # up to which the journal was read
        self._listener = listener
        self._payloads: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}

    @classmethod
    async def open(cls, database: Database, mode: Mode = "direct") -> RowTriggers:
        rig = cls(database, await database.connect(), await database.connect(), mode)
        rig.snapshot = await rig._listener.fetchval("SELECT pg_current_snapshot()::text")
        await rig._listener.add_listener(CHANNEL, rig._heard)
        await rig._listener.add_listener(END, rig._ended)
        return rig

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        self._payloads.append(str(payload))

    def _ended(self, connection: object, pid: int, channel: str, payload: object) -> None:
        if str(payload) in self._ends:
            self._ends[str(payload)].set()

    async def catalogue(self, columns: Sequence[str] = ()) -> Catalogue:
        return await fetch_catalogue(self.writer, columns)

    async def install(
        self, *names: str, connection: asyncpg.Connection | None = None, **settings: Any
    ) -> list[plan.Step]:
        """Watch these tables; returns the steps that were taken. Any: fields of Settings."""
        actor = connection or self.writer
        catalogue = await fetch_catalogue(actor, settings.get("columns") or ())
        tables = plan.choose_tables(catalogue, names).tables
        wanted = coverage.Settings(**{"mode": self.mode, **settings})
        steps = plan.install_plan(catalogue, tables, wanted, default_channel=CHANNEL)
        await run_steps(actor, steps, is_single=False)
        return steps

    async def uninstall(self, connection: asyncpg.Connection | None = None) -> None:
        actor = connection or self.writer
        await run_steps(actor, plan.uninstall_plan(await fetch_catalogue(actor), None, None), is_single=False)

    async def payloads(self, *statements: str, connection: asyncpg.Connection | None = None) -> list[str]:
        """Run the statements one by one; what they notified, in order."""
        await self.heard()
        for statement in statements:
            await (connection or self.writer).execute(statement)
        return await self.heard()

    async def heard(self) -> list[str]:
        """What was notified since this was asked last."""
        await self._settled()
        payloads, self._payloads = self._payloads, []
        return payloads + await self._journalled()

    async def rows(self) -> list[asyncpg.Record]:
        """Rows of the journal since this was asked last."""
        if not await self._listener.fetchval(journal.is_there_sql()):
            return []
        _, xmax, running = self.snapshot.split(":")
        header, *found = await self._listener.fetch(journal.poll_sql(), xmax, running.split(",") if running else [])
        self.snapshot = header["snapshot"]
        return found

    async def _journalled(self) -> list[str]:
        return [as_payload(row) for row in await self.rows()]

    async def events(self, *statements: str, connection: asyncpg.Connection | None = None) -> list[Event]:
        return read(await self.payloads(*statements, connection=connection))

    async def told(self, *statements: str, connection: asyncpg.Connection | None = None) -> list[Told]:
        """(operation, table, keys) of each event."""
        return told(await self.events(*statements, connection=connection))

    async def since(self) -> list[Told]:
        """The same, of what was notified since something was asked last."""
        return told(read(await self.heard()))

    async def keys(self, *statements: str) -> set[str]:
        """The keys of all events, none of which is table-wide."""
        found: set[str] = set()
        for payload in await self.payloads(*statements):
            found |= set(json.loads(payload)["keys"])
        return found

    async def _settled(self) -> None:
        """Everything notified before has been heard: notifications come in the order of commit."""
        nonce = uuid.uuid4().hex
        ended = self._ends[nonce] = asyncio.Event()
        await self._listener.execute("SELECT pg_catalog.pg_notify($1, $2)", END, nonce)
        async with asyncio.timeout(WITHIN_S):
            await ended.wait()


def as_payload(row: asyncpg.Record) -> str:
    """A row of the journal as its trigger would have notified it."""
    assert row["channel"] == CHANNEL
    content = content_of(dict(row))
    del content["id"]  # which no notification has
    return json.dumps(content)


def read(payloads: Sequence[str]) -> list[Event]:
    """Payloads as the relay's intake reads them; each must be an event."""
    now = datetime.datetime.now(tz=datetime.UTC)
    events: list[Event] = []
    for payload in payloads:
        event = Intake().read(CHANNEL, payload, received_at=now)
        assert isinstance(event, Event), event
        events.append(event)
    return events


def told(events: Sequence[Event]) -> list[Told]:
    return [(one.operation, one.table, None if one.keys is None else set(one.keys)) for one in events]
