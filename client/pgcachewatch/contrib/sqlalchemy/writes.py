"""Which transactions have written, so that their reads go to the database: nobody else can see what they wrote.

Every statement of an engine passes here on its way to the database, whoever sends it: a session's flush, a statement
of one's own, a driver's text. Whatever is not a SELECT that could be cached counts as a write; to take a read for a
write costs a query, the other way round it would cost a stale value. The mark is on the DBAPI connection and goes when
the next transaction begins there, so that a rollback to a savepoint keeps it.

Not seen is what bypasses SQLAlchemy: statements on the driver's own connection.

Bound: one mark per connection, and one answer per compiled statement that SQLAlchemy keeps.
"""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy import ClauseElement, Connection, Engine, event
from sqlalchemy.engine import Compiled
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from pgcachewatch.contrib.sqlalchemy.statements import Opaque, tables_of

WROTE = "pgcachewatch.wrote"  # in the info of a DBAPI connection
ISOLATION = "pgcachewatch.isolation"  # there, too: the level it has when nobody asks for another
CONNECTIONS = "pgcachewatch.connections"  # in the info of a session: those of its transaction
# Each statement sees what was committed before it began. Above that a transaction sees what it saw at its beginning.
LATEST = frozenset({"AUTOCOMMIT", "READ COMMITTED", "READ UNCOMMITTED"})


class Writes:
    """Watches one engine, from now on and for as long as the engine lives."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._plain: weakref.WeakKeyDictionary[Compiled, bool] = weakref.WeakKeyDictionary()
        event.listen(engine, "begin", _begins)
        event.listen(engine, "begin_twophase", _begins)
        event.listen(engine, "before_cursor_execute", self._executes)
        # Of all sessions, whoever made them; what is noted is noted once, however many engines are watched.
        for name, listener in (("after_begin", _joined), ("after_transaction_end", _ended)):
            if not event.contains(Session, name, listener):
                event.listen(Session, name, listener)

    async def must_ask(self, session: AsyncSession, statement: ClauseElement) -> bool:
        """True when `statement` must go to the database in this session.

        It must when something was written in its transaction or waits to be flushed, when it sees the database as of an
        earlier instant (REPEATABLE READ, SERIALIZABLE), and when its connection is not one of this engine, or reads
        other schemas than the engine does.
        """
        sync_session = session.sync_session
        if sync_session.new or sync_session.dirty or sync_session.deleted:
            return True
        try:
            if self._is_foreign(sync_session.get_bind(clause=statement)):
                return True
        except UnboundExecutionError:
            return True  # the session can say better than we what it lacks
        connections: list[Connection] = sync_session.info.get(CONNECTIONS, [])
        for connection in connections:
            if self._is_foreign(connection) or WROTE in connection.info:
                return True
            if await _isolation(session, connection) not in LATEST:
                return True
        return False

    def _is_foreign(self, bind: Engine | Connection) -> bool:
        own, others = self._engine.get_execution_options(), bind.get_execution_options()
        return bind.engine.pool is not self._engine.pool or others.get("schema_translate_map") != own.get(
            "schema_translate_map"
        )

    # Any: the arguments of SQLAlchemy's event
    def _executes(self, connection: Connection, cursor: Any, text: Any, values: Any, context: Any, many: bool) -> None:
        if WROTE not in connection.info and not self._is_plain(context):
            connection.info[WROTE] = True

    def _is_plain(self, context: Any) -> bool:  # Any: an ExecutionContext of any dialect
        compiled: Compiled | None = getattr(context, "compiled", None)
        if compiled is None or compiled.statement is None:
            return False
        is_plain = self._plain.get(compiled)
        if is_plain is None:
            # A savepoint changes nothing by itself.
            is_plain = compiled.statement.__visit_name__.endswith("savepoint") or not isinstance(
                tables_of(compiled.statement, compiled.dialect), Opaque
            )
            self._plain[compiled] = is_plain
        return is_plain


def _begins(connection: Connection, *_: object) -> None:
    connection.info.pop(WROTE, None)


def _joined(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    connections = session.info.setdefault(CONNECTIONS, [])
    if connection not in connections:
        connections.append(connection)


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(CONNECTIONS, None)


async def _isolation(session: AsyncSession, connection: Connection) -> str:
    """The isolation level of a transaction. It is asked once of each DBAPI connection, unless one was asked for."""
    wanted: str | None = connection.get_execution_options().get("isolation_level")
    if wanted is not None:
        return wanted
    level: str | None = connection.info.get(ISOLATION)
    if level is None:
        level = await session.run_sync(lambda _: str(connection.get_isolation_level()))
        connection.info[ISOLATION] = level
    return level
