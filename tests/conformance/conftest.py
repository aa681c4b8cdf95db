"""One database and one relay process for each module: whatever a test does to it, it has to go on for the next."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.conformance.neighbour import Neighbour
from tests.conftest import SERVERS
from tests.postgres import Database
from tests.relay_process import RelayProcess


@pytest.fixture(scope="module")
def watched(request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database for the module."""
    dsn = request.config.stash[SERVERS].main().dsn
    name = f"pgcw_test_{uuid.uuid4().hex}"
    asyncio.run(_execute(dsn, f"create database {name} template template0"))
    yield Database(dsn=urlsplit(dsn)._replace(path=f"/{name}").geturl(), name=name)
    asyncio.run(_execute(dsn, f"drop database {name} with (force)"))


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def relay(watched: Database) -> Iterator[RelayProcess]:
    """A relay process with the limits of PROTOCOL.md. It must neither end nor print a traceback, whatever comes."""
    with RelayProcess(watched.dsn, heartbeat_s="0.05", idle_heartbeat_s="0.05") as relay:
        yield relay
        assert relay.is_ready(), relay.log()
        assert "Traceback" not in relay.log()


@pytest.fixture
async def neighbour(relay: RelayProcess, watched: Database) -> AsyncIterator[Neighbour]:
    async with Neighbour(relay, watched) as neighbour:
        await neighbour.settle()
        yield neighbour
