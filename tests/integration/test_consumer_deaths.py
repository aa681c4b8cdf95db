"""Everything that takes part in a durable consumer is killed in turn: each user is handled, and nothing is made up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.integration.taker import HANDLED
from tests.postgres import Database
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.tidy.tree import ROOT
from tests.waiting import LIMIT_S, eventually

GONE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
CONSUMER = "deaths"
WRITE_EVERY_S = 0.01  # a load that two programs can keep up with


class Program:
    """A program that is started again whenever it has ended, as by a supervisor."""

    def __init__(self, *command: str, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
        self._command = [sys.executable, *command]
        self._environment = {**os.environ, **(environment or {})}
        self._cwd = cwd
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def run(self) -> None:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def kill(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.kill()
            self.kills += 1
        self.process.wait()


class Scene:
    """A server, a relay, programs that take, and a writer that inserts users whatever happens."""

    def __init__(self, dsn: str, relay: RelayProcess, programs: list[Program]) -> None:
        self.dsn = dsn
        self.relay = relay
        self.programs = programs
        self.users: set[int] = set()  # whose COMMIT returned
        self.in_doubt: set[int] = set()
        self.writer: asyncio.Task[None] | None = None
        self._next = 1

    async def value(self, query: str, *arguments: object) -> object:
        connection = await asyncpg.connect(self.dsn)
        try:
            return await connection.fetchval(query, *arguments)
        finally:
            await connection.close()

    async def row(self, query: str) -> tuple[object, ...]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return tuple(await connection.fetchrow(query) or ())
        finally:
            await connection.close()

    async def column(self, query: str, *arguments: object) -> list[object]:
        connection = await asyncpg.connect(self.dsn)
        try:
            return [row[0] for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def write_for_ever(self) -> None:
        while True:
            with contextlib.suppress(*GONE):
                connection = await asyncpg.connect(self.dsn)
                try:
                    while True:
                        number, self._next = self._next, self._next + 1
                        self.in_doubt.add(number)
                        await connection.execute("INSERT INTO users VALUES ($1)", number)
                        self.in_doubt.discard(number)
                        self.users.add(number)
                        await asyncio.sleep(WRITE_EVERY_S)
                finally:
                    connection.terminate()
            await asyncio.sleep(WRITE_EVERY_S)

    async def supervise_for_ever(self) -> None:
        while True:
            for program in self.programs:
                program.run()
            await asyncio.sleep(0.05)

    async def until_admitted(self, count: int) -> None:
        await eventually(lambda: f"consumer_clients {count}.0" in self.relay.get("/metrics")[1])

    async def until_handled(self, more: int) -> None:
        """So many more users than now were written, and all of those are handled."""
        target = len(self.users) + more

        async def is_so() -> bool:
            if self.writer is not None and self.writer.done():
                self.writer.result()
            if len(self.users) < target:
                return False
            with contextlib.suppress(*GONE):
                handled = await self.column("SELECT user_id FROM handled WHERE consumer = $1", CONSUMER)
                return set(range(1, target)) - self.in_doubt <= set(handled)
            return False

        await eventually(is_so)


@contextlib.contextmanager
def stopped_at_last(programs: list[Program]) -> Iterator[None]:
    try:
        yield
    finally:
        for program in programs:
            if program.process is not None:
                program.kill()


@contextlib.asynccontextmanager
async def played(dsn: str) -> AsyncIterator[Scene]:
    with RelayProcess(dsn, heartbeat_s="0.1", consumer_retry_s="0.05", consumer_tries="50") as relay:
        programs = [Program("-m", "tests.integration.taker", relay.url, dsn, CONSUMER) for _ in range(2)]
        scene = Scene(dsn, relay, programs)
        with stopped_at_last(programs):
            supervisor = asyncio.create_task(scene.supervise_for_ever())
            try:
                await scene.until_admitted(2)
                writer = scene.writer = asyncio.create_task(scene.write_for_ever())
                try:
                    yield scene
                finally:
                    writer.cancel()
                    await asyncio.gather(writer, return_exceptions=True)
            finally:
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)


async def set_up(dsn: str) -> None:
    database = Database(dsn=dsn, name="")
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE users (id int PRIMARY KEY);" + HANDLED)
    await rig.install("users", mode="journal", channel=DEFAULT_PG_CHANNEL)
    await database.close()


async def check_ids(scene: Scene) -> None:
    """One event has one id, and tells of one user, however often it was told."""
    users, events, pairs = await scene.row(
        "SELECT count(DISTINCT user_id), count(DISTINCT event), count(DISTINCT (user_id, event)) FROM handled"
        " WHERE event <> 'gap'"
    )
    assert users == events == pairs
    assert not set(await scene.column("SELECT user_id FROM handled")) - scene.users - scene.in_doubt


async def test_takers_relay_and_sessions_are_killed_and_each_user_is_handled(database: Database) -> None:
    await set_up(database.dsn)
    async with asyncio.timeout(4 * LIMIT_S), played(database.dsn) as scene:
        await scene.until_handled(20)
        assert await scene.value("SELECT count(*) - count(DISTINCT user_id) FROM handled") == 0, "nobody was killed yet"
        for victim in (0, 1, 0):
            scene.programs[victim].kill()
            await scene.until_handled(20)
        for _ in range(2):
            scene.relay.kill()
            scene.relay.start()
            await asyncio.to_thread(scene.relay.wait_ready)
            await scene.until_handled(20)
        for _ in range(3):
            await scene.value(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await scene.until_handled(20)
        scene.relay.kill()
        for program in scene.programs:
            program.kill()
        scene.relay.start()
        await asyncio.to_thread(scene.relay.wait_ready)
        await scene.until_handled(20)
        await check_ids(scene)
        assert await scene.value("SELECT count(*) FROM told_gaps") == 0
        assert await scene.value("SELECT count(*) FROM pgcachewatch.dead_letters") == 0


async def test_the_example_enriches_each_user_whoever_is_killed(database: Database) -> None:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE users (id int PRIMARY KEY, enriched bool NOT NULL DEFAULT false)")
    await rig.install("users", mode="journal", channel=DEFAULT_PG_CHANNEL)
    address = urlsplit(database.dsn)
    with RelayProcess(database.dsn, heartbeat_s="0.1", consumer_retry_s="0.05", consumer_tries="50") as relay:
        environment = {
            "PGCACHEWATCH_URL": relay.url,
            "PGHOST": address.hostname or "",
            "PGPORT": str(address.port),
            "PGUSER": address.username or "",
            "PGPASSWORD": address.password or "",
            "PGDATABASE": database.name,
        }
        programs = [Program(str(ROOT / "client/examples/enrich_users.py"), environment=environment) for _ in range(2)]
        scene = Scene(database.dsn, relay, programs)
        with stopped_at_last(programs):
            supervisor = asyncio.create_task(scene.supervise_for_ever())
            try:
                async with asyncio.timeout(3 * LIMIT_S):
                    await scene.until_admitted(2)
                    for number in range(1, 61):
                        await rig.writer.execute("INSERT INTO users VALUES ($1)", number)
                        match number:
                            case 10 | 20:
                                programs[number // 10 - 1].kill()
                            case 30 | 50:
                                relay.kill()
                                relay.start()
                                await asyncio.to_thread(relay.wait_ready)
                            case 40:
                                await rig.writer.execute(
                                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                                    "WHERE datname = current_database() AND application_name LIKE 'pgcachewatch%'"
                                )

                    async def are_all_enriched() -> bool:
                        return bool(await rig.writer.fetchval("SELECT bool_and(enriched) FROM users"))

                    await eventually(are_all_enriched)
            finally:
                supervisor.cancel()
                await asyncio.gather(supervisor, return_exceptions=True)


@pytest.mark.slow
async def test_postgres_is_restarted_and_crashes_and_each_user_is_handled(private_server: EmbeddedPostgres) -> None:
    await set_up(private_server.dsn)
    async with asyncio.timeout(4 * LIMIT_S), played(private_server.dsn) as scene:
        await scene.until_handled(20)
        for _ in range(2):
            await asyncio.to_thread(private_server.restart)
            await scene.until_handled(20)
        assert await scene.value("SELECT count(*) FROM told_gaps") == 0, "a restart in order loses nothing"
        os.kill(await crash_victim(scene), signal.SIGKILL)
        await scene.until_handled(20)
        await check_ids(scene)
        assert await scene.column("SELECT DISTINCT reason FROM told_gaps") == ["source_lost"]


async def crash_victim(scene: Scene) -> int:
    """A backend whose end by SIGKILL makes the server crash and recover."""
    pid = await scene.value("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgcachewatch relay'")
    assert isinstance(pid, int)
    return pid
