"""A client whose token ends goes on with the next one, and loses nothing of what it has cached."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import asyncpg
import pytest
from websockets.asyncio.client import connect

import pgcachewatch
from pgcachewatch import listeners
from pgcachewatch.errors import Refused
from pgcachewatch_daemon.authentication import AccessOptions
from pgcachewatch_daemon.io.jwt import Rules
from tests.daemon.io.jwt import signing
from tests.integration.tokens import bearer, guarded
from tests.postgres import Database
from tests.raw_client import CHANNEL, get, notify, options, payload, running
from tests.waiting import eventually

LASTS_S = 8  # a quarter of it is left for the renewal: time enough for a busy machine
LONG_S = 3_600


def token(lasts_s: int) -> str:
    return signing.token(exp=int(time.time()) + lasts_s, pgcachewatch={})


@pytest.mark.rule("W-TOKEN-7")
async def test_a_token_is_renewed_on_the_open_connection_or_by_a_resume_and_the_cache_stays(database: Database) -> None:
    access = AccessOptions(jwt_secret=signing.SECRET, rules=Rules(leeway_s=0.0))
    async with running(options(database.dsn, access=access)) as relay:
        await asyncio.gather(_renewing(relay.url, database), _resuming(relay.url), _fixed(relay.url))


async def _renewing(url: str, database: Database) -> None:
    """Its source has a new one in time."""
    asked = []

    async def source() -> str:
        asked.append(time.time())
        return token(LASTS_S if len(asked) == 1 else LONG_S)

    async with pgcachewatch.connect(url, token=source) as client:
        runs = await _cached(client, lambda: len(asked) == 2 and time.time() > asked[0] + LASTS_S + 1)
        status = client.status
        assert (status.reconnects, status.gaps, status.is_connected) == (0, 0, True)
        assert runs == ["users"]
        async with client.events("users") as events:
            await notify(database, payload("users", "1"))
            assert "users" in str(await anext(events))


async def _resuming(url: str) -> None:
    """Its source has none for an open connection."""
    clients: list[pgcachewatch.Client] = []

    def source() -> str:
        if clients and clients[0].status.is_connected:
            raise OSError("the issuer is away")
        return token(LONG_S if clients else LASTS_S)

    async with pgcachewatch.connect(url, token=source) as client:
        clients.append(client)
        runs = await _cached(client, lambda: client.status.reconnects == 1 and client.status.is_connected)
        await client.wait_live()
        assert (client.status.resumes, client.status.gaps, runs) == (1, 0, ["users"])


async def _fixed(url: str) -> None:
    """It has no other token: the relay's word is final, and its functions run for every call."""
    with pytest.raises(Refused, match="4200"):
        await _until_it_ends(url, token(LASTS_S))


async def _until_it_ends(url: str, fixed: str) -> None:
    async with pgcachewatch.connect(url, token=fixed) as client:
        await eventually(lambda: isinstance(client.status.last_error, Refused))
        await client.barrier()


async def _cached(client: pgcachewatch.Client, holds: object) -> list[str]:
    """Call a cached function until this holds; returns each run of it."""
    runs: list[str] = []

    @client.cache(tables=["users"])
    async def read() -> int:
        runs.append("users")
        return len(runs)

    await client.wait_live()
    assert await read() == 1
    assert callable(holds)
    await eventually(holds)
    assert await read() == 1
    return runs


async def test_a_listener_of_the_original_shows_its_token_on_both_of_its_connections(
    database: Database, tmp_path: Path
) -> None:
    async with running(guarded(database, tmp_path / "t", {"shop": {}})) as relay:
        url = f"{relay.url}/pgpubsub/{CHANNEL}"
        async with connect(url, additional_headers=bearer("shop"), proxy=None) as socket:
            listener = listeners.WSEventQueue()
            await listener.connect(socket)
            await eventually(listener.connection_healthy)
            assert 'pgcachewatch_clients{path="v1"} 1.0' in (await get(relay, "/metrics")).text
            await notify(database, payload("users", "1"))
            event = await listener.get()
            assert event is not None
            assert event.table == "users"


async def test_a_program_of_the_original_that_reads_from_a_relay_has_its_token_from_the_environment(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(guarded(database, tmp_path / "t", {"shop": {}})) as relay:
        monkeypatch.setenv("PGCACHEWATCH_URL", relay.url)
        monkeypatch.setenv("PGCACHEWATCH_TOKEN", "shop")
        connection = await asyncpg.connect(database.dsn)
        listener = listeners.PGEventQueue()
        await listener.connect(connection)
        await eventually(listener.connection_healthy)
        await connection.close()
