"""SELECTs that are answered from memory until a table they read changes.

A statement's tables are told from its SQL (statements.py), so there is nothing to declare. Its key is the one under
which SQLAlchemy itself caches what it compiled, and the values that are bound to it.

Results are rows, and not instances of mapped classes: an instance belongs to one session, can be changed by its holder,
and loads by itself what it lacks. A statement therefore runs as one of SQLAlchemy Core, also when it is written with
mapped classes: `select(User)` gives the columns of User, loader options have no meaning, and criteria that a session's
events add are not applied (so a session that has such events is refused).

A miss reads on a connection of its own, in autocommit. On the caller's it could read the past (REPEATABLE READ) or what
is not committed, and others who wait for the same rows would be left alone with a connection that its owner closes. So
a session that reads only what is cached takes no connection at all; one that holds a connection already needs a second
one on a miss: leave room for that in the pool, or give `reader`, an engine with a pool of its own.

Bounds: PLANS statements, of which the one that was not used for longest is forgotten; for each set of tables that they
read one cached function, with `maxsize` entries.
"""

from __future__ import annotations

import collections
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from pgcachewatch.aio.binding import Caches
from pgcachewatch.aio.cache import CachedFunction
from pgcachewatch.aio.caching import CacheKeywords
from pgcachewatch.contrib.sqlalchemy.statements import Opaque, tables_of
from pgcachewatch.contrib.sqlalchemy.writes import Writes
from pgcachewatch.errors import ConfigurationError

PLANS = 512  # as many as SQLAlchemy keeps compiled, by default, for one engine

if TYPE_CHECKING:
    from sqlalchemy import CompoundSelect, Row, Select

    # Any: as many columns, and of such types, as the statement has. Only SQLAlchemy 2.1 can say it when it runs.
    Statement = Select[*tuple[Any, ...]] | CompoundSelect[*tuple[Any, ...]]
    Rows = tuple[Row[*tuple[Any, ...]], ...]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class _Plan:
    """One statement, whatever is bound to it. Equal to itself only, so that it can stand in a key for all of it."""

    read: CachedFunction[..., Any]


class CachedReads:
    """Cached SELECTs of one engine.

        reads = CachedReads(engine, cache)

        async with AsyncSession(engine) as session:
            rows = await reads.rows(select(User.id, User.name).where(User.id == 5), session)

    `cache` is a client, or a Cache that is bound to one later. The options are those of `client.cache` that are not
    about one function. Make it before the engine is used: what was written before is not known. Use it on the engine's
    event loop. All connections of the engine must see the same: one role, one search_path, no row level security that
    depends on settings. What is read through a view must be declared by hand, with `client.cache(tables=...)`.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        cache: Caches,
        *,
        reader: AsyncEngine | None = None,
        **options: Unpack[CacheKeywords],
    ) -> None:
        wrong = options.keys() - {"maxsize", "on_disconnect", "name"}
        if wrong:
            raise ConfigurationError(
                f"{', '.join(sorted(wrong))} can not be given for all statements; they say it themselves"
            )
        self._engine = engine
        self._reader = (reader or engine).execution_options(isolation_level="AUTOCOMMIT")
        self._cache = cache
        self._options = options
        self._writes = Writes(engine.sync_engine)
        self._plans: collections.OrderedDict[Any, _Plan | Opaque] = collections.OrderedDict()
        # A function lives as long as a plan that uses it.
        self._by_tables: weakref.WeakValueDictionary[frozenset[str], Any] = weakref.WeakValueDictionary()

    async def rows(self, statement: Statement, session: AsyncSession | None = None) -> Rows:
        """What `statement` selects, as rows that callers share: treat values in them that can be changed as read-only.

        `session` is the unit of work that reads. When it has written anything, or sees the database as of an earlier
        instant, it reads by itself, after a flush, and nothing is stored. A statement that can not be cached, see
        `reason_against`, runs in the session, or alone without one.

        Raises ConfigurationError when the session has events that change statements.
        """
        if session is not None:
            _check_events(session)
        plan, values = self._plan(statement)
        if session is not None and (isinstance(plan, Opaque) or await self._writes.must_ask(session, statement)):
            await session.flush()
            return await _fetch(await session.connection({"clause": statement}), statement)
        if isinstance(plan, Opaque):
            async with self._engine.connect() as connection:
                return await _fetch(connection, statement)
        rows: Rows = await plan.read(plan, values, statement)
        return rows

    def reason_against(self, statement: Statement) -> str | None:
        """Why the statement runs for each call; None when it is cached."""
        plan, _ = self._plan(statement)
        return plan.reason if isinstance(plan, Opaque) else None

    def _plan(self, statement: Statement) -> tuple[_Plan | Opaque, tuple[object, ...]]:
        key = statement._generate_cache_key()
        if key is None:
            return Opaque("SQLAlchemy can not tell it from others: a part of it has no cache key"), ()
        if any(parameter.callable is not None for parameter in key.bindparams):
            return Opaque("a value in it is computed when it runs"), ()
        plan = self._plans.get(key.key)
        if plan is None:
            plan = self._plans[key.key] = self._new_plan(statement)
            if len(self._plans) > PLANS:
                self._plans.popitem(last=False)
        else:
            self._plans.move_to_end(key.key)
        return plan, tuple(parameter.effective_value for parameter in key.bindparams)

    def _new_plan(self, statement: Statement) -> _Plan | Opaque:
        for options in (statement.get_execution_options(), self._reader.sync_engine.get_execution_options()):
            if options.get("schema_translate_map"):
                return Opaque("its schemas are translated when it runs")
        tables = tables_of(statement, self._engine.dialect)
        if isinstance(tables, Opaque):
            return tables
        read = self._by_tables.get(tables)
        if read is None:
            read = self._by_tables[tables] = self._declare(tables)
        return _Plan(read)

    def _declare(self, tables: frozenset[str]) -> CachedFunction[..., Any]:
        reader = self._reader

        async def read(plan: _Plan, values: tuple[object, ...], statement: Statement) -> Rows:
            async with reader.connect() as connection:
                return await _fetch(connection, statement)

        name = self._options.get("name") or f"SELECT of {', '.join(sorted(tables))}"
        options: CacheKeywords = {**self._options, "tables": sorted(tables), "ignore": ["statement"], "name": name}
        return self._cache.cache(**options)(read)


async def _fetch(connection: AsyncConnection, statement: Statement) -> Rows:
    return tuple((await connection.execute(statement)).all())


def _check_events(session: AsyncSession) -> None:
    if list(session.sync_session.dispatch.do_orm_execute):
        raise ConfigurationError(
            f"{session!r} has do_orm_execute events, which may change what a statement selects; rows() runs it as it "
            "stands, so leave the session out, or write what the events add into the statement"
        )
