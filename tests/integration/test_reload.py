"""SIGHUP to a relay that serves: who is connected stays, and what was changed holds."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from pgcachewatch_daemon.core.admission import AdmissionLimits
from tests.integration.workforce import WORKERS, everywhere, running
from tests.postgres import Database
from tests.raw_client import Client, notify, options, payload, refused
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually

SUBPROTOCOL = Subprotocol("pgcachewatch.v1")

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text("heartbeat_s = 0.05\n")
    return path


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)


async def test_a_lower_limit_in_the_file_holds_after_sighup_and_nobody_is_sent_away(
    database: Database, config_file: Path
) -> None:
    with RelayProcess(database.dsn, config=str(config_file)) as relay:
        async with Client(relay) as first, Client(relay) as second:
            await first.hello()
            await second.hello()
            rewrite(config_file, 'heartbeat_s = 0.05\nconnections_limit = 2\nport = 1\nlog_level = "debug"\n')
            relay.signal(signal.SIGHUP)
            await eventually(lambda: "settings reloaded changed=2" in relay.log())
            assert await refused(f"{relay.url}/v1/ws", subprotocols=[SUBPROTOCOL]) == 503
            await notify(database, payload("users", "1"))
            for client in (first, second):
                assert (await client.until("ev"))["i"] == [[1, "u", "1"]]
        assert f'option=connections_limit old=10000 new=2 source="the file {config_file}"' in relay.log()
        assert "needs a restart to change option=port" not in relay.log(), "the environment still wins over the file"


async def test_settings_that_can_not_work_are_refused_and_the_relay_serves_on(
    database: Database, config_file: Path
) -> None:
    with RelayProcess(database.dsn, config=str(config_file)) as relay:
        async with Client(relay) as client:
            await client.hello()
            rewrite(config_file, "heartbeat_s = 0.05\nconnections_limit = -1\n")
            relay.signal(signal.SIGHUP)
            await eventually(lambda: "settings not reloaded" in relay.log())
            assert "level=ERROR" in relay.log()
            assert "option 'connections_limit' can not be -1" in relay.log()
            await client.until("mark")
        relay.signal(signal.SIGTERM)
        assert await asyncio.to_thread(relay.wait) == 0


async def is_refused(url: str) -> bool:
    """False when somebody lets a newcomer in, who leaves again."""
    try:
        async with connect(f"{url}/v1/ws", subprotocols=[SUBPROTOCOL], proxy=None):
            return False
    except InvalidStatus as refused:
        return refused.response.status_code == 503


async def test_each_worker_takes_over_its_share(database: Database) -> None:
    async with running(options(database.dsn, workers=WORKERS)) as relay, everywhere(relay) as clients:
        relay.prepare(replace(relay.options, admission=AdmissionLimits(connections=WORKERS)))()
        in_a_row = 0
        async with asyncio.timeout(LIMIT_S):
            while in_a_row < 4 * WORKERS:  # each reads its files before it takes over what it was told
                in_a_row = in_a_row + 1 if await is_refused(relay.url) else 0
        await notify(database, payload("users", "1"))
        for client in clients:
            await client.until("ev")
