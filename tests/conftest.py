"""Fixtures of all tests: a database per test, a server of one's own, and a watch for what it leaves.

`database` is an empty database with `.dsn` and `.connect()`; `private_server` is a server that the test may
kill and restart; a test marked `every_server` runs once on each version found. What a test forgets fails it:
a task that still runs, and through the warnings, which are errors, a socket or a process that was not closed.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from pgcachewatch_daemon.embedded import EmbeddedPostgres, PostgresBinaries
from tests.postgres import Database, Server, Servers, all_binaries

SERVERS = pytest.StashKey[Servers]()

# No example has to be quick, and each run draws the same ones: it fails for what was changed, not for a busy machine or
# an unlucky draw. `--hypothesis-profile=explore` draws new ones.
UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", parent=UNTIMED)
settings.register_profile("steady", parent=UNTIMED, derandomize=True, database=None)
settings.load_profile("steady")


def _hear_interrupts() -> None:
    """A script that runs the tests in its background has them, and all that they start, ignore interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform != "win32" and signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def pytest_configure(config: pytest.Config) -> None:
    _hear_interrupts()
    told = getattr(config, "workerinput", {}).get("postgres_server")
    config.stash[SERVERS] = Servers(main=Server(**told) if told else None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One more than there are cores: the tests of a whole run spend half of their time waiting for other processes."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it by itself
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # Any: xdist's WorkerController has no types
    # Started here and not in a worker: the workers end one by one, and the server must outlast all of them.
    node.workerinput["postgres_server"] = asdict(node.config.stash[SERVERS].main())


def pytest_report_header(config: pytest.Config) -> str:
    found = ", ".join(f"{each.version} ({each.source})" for each in all_binaries())
    return f"PostgreSQL: {config.stash[SERVERS].description}; for every_server: {found or 'none found'}"


def pytest_collection_finish(session: pytest.Session) -> None:
    # What was imported stays for ever: leaving it out makes the collection after each test take 1 ms.
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    servers = config.stash.get(SERVERS, None)
    if servers is not None:
        servers.stop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("every_server") is None:
        return
    versions = all_binaries() or (None,)
    ids = [f"{each.version}-{each.source}" if each else "main" for each in versions]
    metafunc.parametrize("postgres_binaries", versions, ids=ids, indirect=True)


@pytest.fixture
def postgres_binaries(request: pytest.FixtureRequest) -> PostgresBinaries | None:
    """The version that this run of an `every_server` test is for; None elsewhere."""
    binaries: PostgresBinaries | None = getattr(request, "param", None)
    return binaries


@pytest.fixture
def postgres_server(request: pytest.FixtureRequest, postgres_binaries: PostgresBinaries | None) -> Server:
    """The shared server that `database` is on: leave it running, and leave other databases alone."""
    return request.config.stash[SERVERS].of(postgres_binaries)


@pytest.fixture
async def database(postgres_server: Server) -> AsyncIterator[Database]:
    """An empty database on the shared server, dropped after the test whatever is still connected to it."""
    name = f"pgcw_test_{uuid.uuid4().hex}"
    await _execute(postgres_server.dsn, f"create database {name} template template0")
    database = Database(dsn=urlsplit(postgres_server.dsn)._replace(path=f"/{name}").geturl(), name=name)
    try:
        yield database
    finally:
        await database.close()
        await _execute(postgres_server.dsn, f"drop database {name} with (force)")


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture
def private_server(postgres_binaries: PostgresBinaries | None) -> Iterator[EmbeddedPostgres]:
    """A running server that nobody else uses: kill, stop and restart it as you like. Takes 0.6 s."""
    binaries = postgres_binaries or next(iter(all_binaries()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    with EmbeddedPostgres(binaries) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves an asyncio task running, or drops a socket, a loop or a process unclosed."""
    is_async = inspect.iscoroutinefunction(getattr(request, "function", None))
    if is_async:
        request.getfixturevalue("no_task_left_running")
    yield
    if is_async:
        # An unclosed thing warns when it is collected: now, so that the warning fails this test and not a
        # later one.
        gc.collect()


@pytest.fixture
async def no_task_left_running() -> AsyncIterator[None]:
    """Fail the test if a task that it started still runs after its other fixtures were torn down."""
    before = asyncio.all_tasks()
    yield
    await asyncio.sleep(0)  # one turn for what was cancelled just now to end
    left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    if left:
        pytest.fail(f"the test left {len(left)} task(s) running: {', '.join(map(repr, left))}")
