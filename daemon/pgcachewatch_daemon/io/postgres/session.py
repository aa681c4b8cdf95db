"""How the relay's session with PostgreSQL is opened, so that a relay that is lost does not harm the server."""

from __future__ import annotations

from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from pgcachewatch.protocol.messages import SNAPSHOT_LENGTH
from pgcachewatch_daemon.io.postgres.contract import SourceOptions

KEEPALIVE_IDLE_S = 10
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3


async def open_session(
    dsn: str | None, options: SourceOptions, *, name: str = "pgcachewatch relay"
) -> asyncpg.Connection[Any]:
    """Connect to the primary, within `connect_timeout_s`. Raises what asyncpg raises."""
    return await asyncpg.connect(
        dsn,
        timeout=options.connect_timeout_s,
        statement_cache_size=0,
        target_session_attrs=SessionAttribute.primary,  # LISTEN is refused in recovery
        server_settings={
            "application_name": name,
            "synchronous_commit": "off",  # a heartbeat waits for no flush and no standby
            # The server gives up a loopback stuck behind somebody's commit: else each reconnect would leave a session
            # behind that waits for that lock.
            "lock_timeout": str(int(options.overdue_s * 1_000)),
            "statement_timeout": "0",
            # The poll of the journal is planned once, maybe while that is empty: the plan has to be good for a full
            # one. To rule scans out makes it look so dear that it would be compiled, which takes a thousand times as
            # long.
            "enable_seqscan": "off",
            "jit": "off",
            "idle_in_transaction_session_timeout": "0",
            # The server ends this session by itself when the relay's host is gone or stopped.
            "tcp_user_timeout": str(int(options.tcp_user_timeout_s * 1_000)),
            "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
            "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_S),
            "tcp_keepalives_count": str(KEEPALIVE_COUNT),
        },
    )


def loopback_sql(channel: str, nonce: str, *, wants_snapshot: bool) -> str:
    """The session's notification to itself. Channel and nonce are letters, digits and `_` of our own making.

    >>> loopback_sql("c", "n", wants_snapshot=False)
    "NOTIFY c, 'n'"
    """
    if not wants_snapshot:
        # A utility statement: it takes no snapshot and needs no plan, on each heartbeat and each barrier.
        return f"NOTIFY {channel}, '{nonce}'"
    # One character more than a mark holds, to see that it was cut. A payload has less than 8,000 bytes.
    return (
        f"SELECT pg_catalog.pg_notify('{channel}', '{nonce} ' || pg_catalog.left("
        f"pg_catalog.pg_current_snapshot()::pg_catalog.text, {SNAPSHOT_LENGTH + 1}))"
    )
