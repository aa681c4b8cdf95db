"""The trace that a program is in, told to the database with what it writes, so that the relay's spans go on with it.

    async with connection.transaction():
        await trace_writes(connection)
        await connection.execute("UPDATE users SET name = 'x' WHERE id = 7")

With another driver it is a statement of your own in the transaction, given `current_traceparent()` where that is not
None: `SELECT set_config('pgcachewatch.traceparent', %s, true)`. It costs a round trip, and each write 1.5 us more.

OpenTelemetry is neither needed nor imported: its API is looked for among the modules that are loaded, because nobody is
in a span without it. Bound: one look at the current span for each call, and none for a write that says nothing.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from pgcachewatch.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncpg

FORM = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
TELL = "SELECT pg_catalog.set_config('pgcachewatch.traceparent', $1, true)"


def current_traceparent() -> str | None:
    """The current span of OpenTelemetry as W3C's `traceparent`, also of one that is not sampled; None without one.

    >>> current_traceparent() is None
    True
    """
    get_current_span = getattr(sys.modules.get("opentelemetry.trace"), "get_current_span", None)
    if get_current_span is None:
        return None
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def choose_traceparent(given: str | None) -> str | None:
    """What was given, or else the current span's. Raises ConfigurationError for what is no `traceparent`."""
    if given is None:
        return current_traceparent()
    if not FORM.fullmatch(given):
        raise ConfigurationError(
            f"traceparent {given[:80]!r} is none: write 00-<32 hex digits>-<16 hex digits>-<2 hex digits>, "
            "in lower case, or leave it out to go on with the current span"
        )
    return given


async def trace_writes(
    conn: asyncpg.Connection | asyncpg.pool.PoolConnectionProxy, *, traceparent: str | None = None
) -> None:
    """Make what this transaction writes from now on part of a trace: the current span's, unless another is given.

    Does nothing without one. Raises ConfigurationError outside of a transaction, where it would be forgotten at once.
    """
    if not conn.is_in_transaction():
        raise ConfigurationError(
            "no transaction is open on this connection, so its trace would be forgotten at once; "
            "call it inside of `async with connection.transaction()`"
        )
    chosen = choose_traceparent(traceparent)
    if chosen is not None:
        await conn.execute(TELL, chosen)
