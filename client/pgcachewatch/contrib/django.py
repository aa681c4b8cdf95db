"""Django: cached functions that know of transactions, and a barrier when one commits.

    relay = pgcachewatch.sync.connect("ws://127.0.0.1:8420")

    @cached(relay, tables=["shop_product"])
    def featured(limit: int = 10) -> list[Product]:
        return list(Product.objects.filter(is_featured=True)[:limit])

    with transaction.atomic():
        product.save()
        barrier_on_commit(relay)  # after this block, featured() has the product

Inside an atomic block that has written, a cached function runs for each call, and what it returns is not stored: it
sees what nobody else does, and may never be committed. Each statement of a connection passes here to tell, through
Django's execute wrappers. Whatever is not plainly a SELECT that only reads counts as a write: to take a read for a
write costs a query, the other way round it would cost a stale value. The same holds where a transaction sees the
database as of its beginning (REPEATABLE READ), where autocommit was switched off by hand, and where a block is broken.

Not seen are `cursor.callproc` and psycopg's `cursor.copy`: in a block that uses one of them, call a cached function's
`__wrapped__`. A fork takes no threads along, so connect after it, or declare with a `pgcachewatch.Cache` and bind that
in the worker (for instance in gunicorn's post_fork hook).

Bounds: one mark per connection; those of the client.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Protocol, Unpack

from pgcachewatch.aio.binding import Caches
from pgcachewatch.aio.cache import is_async
from pgcachewatch.aio.caching import CacheKeywords, Decorator
from pgcachewatch.contrib.plain_sql import is_plain_select
from pgcachewatch.errors import ConfigurationError

try:
    from django.db import connections, transaction
    from django.db.backends.signals import connection_created
    from django.db.models import QuerySet
except ImportError as error:
    raise ImportError("pgcachewatch.contrib.django needs Django: pip install 'django>=4.2'") from error

# Each statement sees what was committed before it began.
LATEST = frozenset({"read committed", "read uncommitted"})
QUESTIONS = ("cache_info", "cache_clear", "cache_invalidate", "cache_contains", "cache_parameters")
BARRIER_TIMEOUT_S = 5.0
SAVEPOINT = re.compile(r'(|RELEASE |ROLLBACK TO )SAVEPOINT "\w+"')  # as Django writes it

Database = Any  # Any: Django's connections have no types


class Barring(Protocol):
    """A client for threads."""

    def barrier(self, *, timeout: float = ...) -> None: ...


def cached(cache: Caches, **options: Unpack[CacheKeywords]) -> Decorator:
    """Cache a function that reads through Django's connections; the options are those of `client.cache`.

    `cache` is a client for threads, or a Cache that is bound to one later. Raises ConfigurationError for an
    `async def`, and, when it is called, for a function that returns a QuerySet, which would read later and by itself.
    """
    declare = cache.cache(**options)
    connection_created.connect(_connected, dispatch_uid="pgcachewatch")

    def decorate(function: Callable[..., Any]) -> Any:  # Any: a Decorator says it better than a def can
        name = getattr(function, "__qualname__", repr(function))
        if is_async(function):
            raise ConfigurationError(
                f"{name} is an async def, and the connections of its transactions are those of other threads; cache a "
                "def, and call it with sync_to_async"
            )
        stored: Any = declare(function)

        @functools.wraps(function)
        def ask(*args: Any, **kwargs: Any) -> Any:
            value = function(*args, **kwargs) if must_ask() else stored(*args, **kwargs)
            if isinstance(value, QuerySet):
                raise ConfigurationError(
                    f"{name} returned a QuerySet, which reads late and keeps what it read; return a list"
                )
            return value

        done: Any = ask
        for question in QUESTIONS:
            setattr(done, question, getattr(stored, question))
        return done

    return decorate


def barrier_on_commit(
    client: Barring, using: str | None = None, *, timeout: float = BARRIER_TIMEOUT_S, robust: bool = False
) -> None:
    """When the current transaction commits, wait until every hit in this process contains it; if none, wait now.

    `using` is the alias of the database. Raises BarrierTimeout where the block ends, after the commit; `robust` lets
    Django log it instead, and the later hooks run.
    """

    def barrier() -> None:  # no partial: Django logs the name of what failed
        client.barrier(timeout=timeout)

    transaction.on_commit(barrier, using=using, robust=robust)


def must_ask() -> bool:
    """True when cached functions run for each call here: a transaction of this thread sees what others do not."""
    return any(_watch(connection).must_ask() for connection in connections.all(initialized_only=True))


class _Watch:
    """One connection's execute wrapper: notes whether its transaction has written."""

    def __init__(self, connection: Database) -> None:
        self._connection = connection
        # The list of hooks to run on commit is another one after each commit and rollback, so it tells transactions
        # apart. Were it not, a connection would be taken to have written for too long, which is the safe side. A hook
        # of our own would tell it, too, but show up where a test counts them.
        self._wrote_with: object = None
        self._is_rolling_back = False
        self._level_of: tuple[object, str] = (None, "")

    def __call__(self, execute: Callable[..., Any], text: Any, values: Any, many: Any, context: Any) -> Any:
        has_written = self._has_written()
        savepoint = SAVEPOINT.fullmatch(text) if isinstance(text, str) else None
        if savepoint is None:
            if not (isinstance(text, str) and is_plain_select(text)):
                self.note_write()
        elif savepoint[1] == "ROLLBACK TO ":
            # After this the list is another one, although what was written before the savepoint stays.
            self._is_rolling_back = has_written
        return execute(text, values, many, context)

    def note_write(self) -> None:
        """Outside a block what was written is committed at once."""
        if self._connection.in_atomic_block:
            self._wrote_with = self._connection.run_on_commit

    def must_ask(self) -> bool:
        connection = self._connection
        if connection.connection is None:
            return False
        if not connection.in_atomic_block:
            return not connection.autocommit
        return (
            connection.needs_rollback
            or self._has_written()
            or (connection.vendor == "postgresql" and self._level() not in LATEST)
        )

    def _has_written(self) -> bool:
        if self._is_rolling_back:
            self._is_rolling_back = False
            self.note_write()
        return self._wrote_with is self._connection.run_on_commit

    def _level(self) -> str:
        """The isolation level of the transaction, asked once of each connection of the driver."""
        driver = self._connection.connection
        if self._level_of[0] is not driver:
            # Not through Django, whose count of queries belongs to the program.
            with driver.cursor() as cursor:
                cursor.execute("SHOW transaction_isolation")
                self._level_of = (driver, str(cursor.fetchone()[0]))
        return self._level_of[1]


def _connected(connection: Database, **_: object) -> None:
    _watch(connection)


def _watch(connection: Database) -> _Watch:
    """The watch of a connection; one that was not watched so far may have written."""
    wrappers = connection.execute_wrappers
    for wrapper in wrappers:
        if isinstance(wrapper, _Watch):
            return wrapper
    watch = _Watch(connection)
    # First, so that it sees each statement as it was given, and outlives a wrapper that takes the last one away.
    wrappers.insert(0, watch)
    if connection.in_atomic_block:
        watch.note_write()
    return watch
