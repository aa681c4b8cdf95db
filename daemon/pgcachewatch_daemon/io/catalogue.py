"""Reads the catalogue of the database, on a connection that it opens for this and closes again.

The LISTEN connection is never asked: a query there would delay the events behind it. Rows are fetched in batches and
judged in a thread, so that a database of many thousand tables delays no event by more than a moment. A way through a
pooler is good enough: one transaction, nothing prepared, no setting that outlives it.

What goes wrong here is logged, counted, and tried again sooner; it harms nobody else.
Bounds: one look at a time, each statement `statement_timeout_s`; looks that are asked for, one per
HASTEN_SPACING_S, and in a large database a tenth of the time: the same wrong name may be asked for all night.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.sql import catalogue

ROWS_PER_FETCH = 500
HASTEN_SPACING_S = 1.0
HASTEN_REST = 9.0  # times as long as the last look took
RETRY_MIN_S = 1.0
CLOSE_TIMEOUT_S = 2.0
REPEAT_LOG_S = 60.0

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Verdict = TypeVar("Verdict")

logger = line_logger(__name__)


async def fetch_catalogue(
    connection: Connection, columns: Sequence[str] = (), *, statement_timeout_s: float = 0.0
) -> catalogue.Catalogue:
    """The catalogue at this instant, with the key's columns and those of these names, and those carried already.

    `statement_timeout_s` 0: as the session has it.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        if statement_timeout_s:
            # LOCAL and not a startup parameter: a pooler refuses those it does not know.
            await connection.execute(f"SET LOCAL statement_timeout = {int(statement_timeout_s * 1_000)}")
        await connection.execute("SET LOCAL jit = off")
        functions = await _fetch(connection, catalogue.FUNCTIONS_SQL)
        carried = {
            name for row in functions for name in catalogue.read_settings(row["comment"]).get("columns") or () if name
        }
        relations = await _fetch(connection, catalogue.RELATIONS_SQL, sorted({*columns, *map(str, carried)}))
        triggers = await _fetch(connection, catalogue.TRIGGERS_SQL)
        has_schema = bool(await connection.fetchval(catalogue.SCHEMA_SQL))
        journal = await _fetch(connection, catalogue.JOURNAL_SQL)
        may_read = any(row["name"] == "shapes" and row["is_readable"] for row in journal)
        shapes = await _fetch(connection, catalogue.SHAPES_SQL) if may_read else None
    return await asyncio.to_thread(
        catalogue.read_catalogue,
        relations,
        triggers,
        functions,
        has_schema=has_schema,
        journal=journal,
        shapes=shapes,
    )


async def _fetch(connection: Connection, query: str, *arguments: object) -> list[dict[str, Any]]:  # Any: SQL values
    cursor = await connection.cursor(query, *arguments)
    rows: list[dict[str, Any]] = []
    while batch := await cursor.fetch(ROWS_PER_FETCH):
        rows += map(dict, batch)
    return rows


def hasten_spacing_s(took_s: float, interval_s: float) -> float:
    """From the end of a look of `took_s` to the next that may be asked for; never longer than the ordinary interval."""
    return min(interval_s, max(HASTEN_SPACING_S, took_s * HASTEN_REST))


@dataclass(frozen=True, slots=True)
class CatalogueOptions:
    """`dsn` None: what libpq's environment says. `interval_s`: between two looks."""

    dsn: str | None = None
    interval_s: float = 60.0
    connect_timeout_s: float = 10.0
    statement_timeout_s: float = 30.0


@dataclass(slots=True)
class CatalogueStats:
    """Looks by how they ended: ok, failed."""

    looks: dict[str, int] = field(default_factory=lambda: {"ok": 0, "failed": 0})


class CatalogueWatcher(Generic[Verdict]):
    """Looks while the source is up, in a task of its own between `start` and `close`.

    `judge` runs in a thread; what it returns is handed to `tell` on the loop, with the instant at which the look began.
    `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        options: CatalogueOptions,
        *,
        judge: Callable[[catalogue.Catalogue], Verdict],
        tell: Callable[[Verdict, float], None],
        clock: Callable[[], float],
    ) -> None:
        self.stats = CatalogueStats()
        self._options = options
        self._judge = judge
        self._tell = tell
        self._clock = clock
        self._may_look = asyncio.Event()
        self._is_due = asyncio.Event()
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._said = ""
        self._said_at_s = 0.0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="catalogue watcher")

    async def close(self) -> None:
        """End the look under way and the task; waits for neither server nor network."""
        self._is_stopping = True
        if self._task is None:
            return
        if self._connection is not None:
            # What waits for an answer fails at once; cancelling it would call the server first.
            self._connection.terminate()
            await asyncio.wait([self._task], timeout=CLOSE_TIMEOUT_S)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def reload(self, options: CatalogueOptions) -> None:
        """Go on with these from the next look on."""
        self._options = options
        self._is_due.set()  # the pause under way is one of the old options

    def source_up(self) -> None:
        """The database is there: look now, and from time to time."""
        self._may_look.set()
        self._is_due.set()

    def source_lost(self) -> None:
        """No look until it is back."""
        self._may_look.clear()

    def hasten(self) -> None:
        """Look as soon as `hasten_spacing_s` allows: somebody names what is not known."""
        self._is_due.set()

    async def _run(self) -> None:
        failures = 0
        next_s = self._clock()
        while True:
            await self._may_look.wait()
            began_s = self._clock()
            if began_s < next_s:
                await asyncio.sleep(next_s - began_s)
                continue
            self._is_due.clear()
            failures = 0 if await self._look(began_s) else failures + 1
            if self._is_stopping:
                return
            looked_s = self._clock()
            took_s = 0.0 if failures else looked_s - began_s  # one that failed mostly waited
            next_s = looked_s + hasten_spacing_s(took_s, self._options.interval_s)
            pause_s = self._options.interval_s
            if failures:
                pause_s = min(pause_s, RETRY_MIN_S * 2 ** min(failures - 1, 10))
            try:
                async with asyncio.timeout(pause_s):
                    await self._is_due.wait()
            except TimeoutError:
                pass  # the ordinary case: nobody asked

    async def _look(self, began_s: float) -> bool:
        try:
            verdict = await asyncio.to_thread(self._judge, await self._read())
            self._tell(verdict, began_s)
        except Exception as error:
            # Broad on purpose: whatever it is, the next look may go well, and events flow meanwhile.
            if not self._is_stopping:
                self.stats.looks["failed"] += 1
                self._say(f"{type(error).__name__}: {error}")
            return False
        self.stats.looks["ok"] += 1
        if self._said:
            self._said = ""
            logger.info("catalogue read again")
        return True

    async def _read(self) -> catalogue.Catalogue:
        options = self._options
        connection: Connection = await asyncpg.connect(
            options.dsn,
            timeout=options.connect_timeout_s,
            command_timeout=options.statement_timeout_s,
            statement_cache_size=0,
            target_session_attrs=SessionAttribute.primary,  # a standby's catalogue is that of some moment before
            server_settings={"application_name": "pgcachewatch drift check"},
        )
        self._connection = connection
        try:
            return await fetch_catalogue(connection, statement_timeout_s=options.statement_timeout_s)
        finally:
            self._connection = None
            await self._hang_up(connection)

    async def _hang_up(self, connection: Connection) -> None:
        if self._is_stopping:
            connection.terminate()
            return
        try:
            await connection.close(timeout=CLOSE_TIMEOUT_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            connection.terminate()

    def _say(self, text: str) -> None:
        """One line when the trouble changes, and again from time to time while it lasts."""
        now_s = self._clock()
        if text != self._said or now_s - self._said_at_s >= REPEAT_LOG_S:
            self._said, self._said_at_s = text, now_s
            logger.warning("catalogue can not be read, drift goes unnoticed", detail=text)
