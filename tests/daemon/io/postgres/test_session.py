"""The session's own settings: what the server does with a relay that is lost."""

from __future__ import annotations

import asyncpg
import pytest

from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.io.postgres.session import open_session
from tests.postgres import Database


async def test_a_session_has_the_settings_that_protect_the_server(database: Database) -> None:
    connection = await open_session(database.dsn, SourceOptions(overdue_s=2.0, tcp_user_timeout_s=7.0))
    try:
        for name, value in {
            "lock_timeout": "2s",
            "synchronous_commit": "off",
            "statement_timeout": "0",
            "idle_in_transaction_session_timeout": "0",
            "application_name": "pgcachewatch relay",
        }.items():
            assert await connection.fetchval(f"SHOW {name}") == value
    finally:
        await connection.close()


async def test_an_address_where_nobody_listens_is_an_error_of_the_connection() -> None:
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await open_session("postgresql://nobody@127.0.0.1:9/none", SourceOptions(connect_timeout_s=5.0))
