"""The table of the tests here, and a function over it that counts its runs."""

from __future__ import annotations

import asyncpg

from pgcachewatch import models, queries

ROWS = 10


class Users:
    """A connection for each statement: the servers of these tests come and go. `dsn` may name several of them."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.runs = 0

    async def create(self) -> None:
        for statement in (
            "CREATE TABLE users (id int PRIMARY KEY, version int NOT NULL)",
            f"INSERT INTO users SELECT i, 0 FROM generate_series(1, {ROWS}) i",
            queries.create_notify_function(models.DEFAULT_PG_CHANNEL, "notify_change"),
            queries.create_after_change_trigger("users_change", "users", "notify_change"),
        ):
            await self.execute(statement)

    async def change(self, number: int) -> None:
        await self.execute("UPDATE users SET version = version + 1 WHERE id = $1", number)

    async def version(self, number: int) -> int:
        """The function that is cached."""
        self.runs += 1
        return await self.version_now(number)

    async def version_now(self, number: int) -> int:
        connection = await asyncpg.connect(self.dsn)
        try:
            return int(await connection.fetchval("SELECT version FROM users WHERE id = $1", number))
        finally:
            await connection.close()

    async def kill_listeners(self) -> None:
        """Terminate the relay's LISTEN connections to this database."""
        await self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'pgcachewatch relay'"
        )

    async def execute(self, statement: str, *values: object) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(statement, *values)
        finally:
            await connection.close()
