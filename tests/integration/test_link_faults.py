"""What can happen between a client and its relay: cuts, black holes, blips, relays that are killed and others that take
over. Each test runs once with the client for asyncio and once with the one for threads.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest

import pgcachewatch
from pgcachewatch.aio.client import Status
from pgcachewatch.core.store import CacheInfo
from tests.integration.users import Users
from tests.postgres import Database
from tests.proxy import Proxy
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S, eventually

BLIP_S = 0.5
LONG_LEASE_S = 20.0  # so that a busy machine does not end it
SHORT_LEASE_S = 0.5
CALLS_PAUSE_S = 0.005


class Reader(Protocol):
    """A client with one cached function, `version` of a user, whichever kind it is."""

    @property
    def status(self) -> Status: ...

    async def version(self, number: int) -> int: ...
    def info(self) -> CacheInfo: ...
    def holds(self, number: int) -> bool: ...
    def is_healthy(self) -> bool: ...
    async def wait_live(self) -> None: ...
    async def barrier(self) -> None: ...


class AsyncReader:
    def __init__(self, client: pgcachewatch.Client, users: Users) -> None:
        self._client = client
        self._cached = client.cache(users.version, tables=["users"])
        self.version: Callable[[int], Coroutine[Any, Any, int]] = self._cached
        self.info = self._cached.cache_info
        self.holds = self._cached.cache_contains
        self.is_healthy = client.connection_healthy

    @property
    def status(self) -> Status:
        return self._client.status

    async def wait_live(self) -> None:
        await self._client.wait_live(LIMIT_S)

    async def barrier(self) -> None:
        await self._client.barrier(timeout=LIMIT_S)


class SyncReader:
    """The same, each call in a thread, where the client for threads belongs."""

    def __init__(self, client: pgcachewatch.sync.Client, users: Users) -> None:
        def version(number: int) -> int:
            return asyncio.run(users.version(number))

        self._client = client
        self._cached = client.cache(version, tables=["users"])
        self.info = self._cached.cache_info
        self.holds = self._cached.cache_contains
        self.is_healthy = client.connection_healthy

    @property
    def status(self) -> Status:
        return self._client.status

    async def version(self, number: int) -> int:
        return await asyncio.to_thread(self._cached, number)

    async def wait_live(self) -> None:
        await asyncio.to_thread(self._client.wait_live, LIMIT_S)

    async def barrier(self) -> None:
        await asyncio.to_thread(self._client.barrier, timeout=LIMIT_S)


class Scene:
    """Opens readers of one kind."""

    def __init__(self, users: Users, kind: str) -> None:
        self.users = users
        self._is_sync = kind == "threads"

    @asynccontextmanager
    async def reader(self, *urls: str, **options: Any) -> AsyncIterator[Reader]:  # Any: those of connect
        """Live, with user 1 in its cache after one run."""
        options.setdefault("staleness", LONG_LEASE_S)
        async with asyncio.timeout(3 * LIMIT_S):
            if self._is_sync:
                client = await asyncio.to_thread(pgcachewatch.sync.connect, urls, **options)
                try:
                    yield await self._warm(SyncReader(client, self.users))
                finally:
                    await asyncio.to_thread(client.close)
            else:
                async with pgcachewatch.connect(urls, **options) as async_client:
                    yield await self._warm(AsyncReader(async_client, self.users))

    async def _warm(self, reader: Reader) -> Reader:
        await reader.wait_live()
        assert await reader.version(1) == await reader.version(1) == 0
        assert self.users.runs == 1
        return reader

    async def is_right_again(self, reader: Reader) -> None:
        """Live, not stale, and events arrive."""
        await reader.wait_live()
        assert await reader.version(1) == await self.users.version_now(1)
        await self.users.change(1)
        await reader.barrier()
        assert await reader.version(1) == await self.users.version_now(1)


@pytest.fixture
async def users(database: Database) -> Users:
    users = Users(database.dsn)
    await users.create()
    return users


@pytest.fixture(params=["asyncio", "threads"])
def scene(users: Users, request: pytest.FixtureRequest) -> Scene:
    return Scene(users, request.param)


@pytest.fixture
async def relay(database: Database) -> AsyncIterator[RelayProcess]:
    async with RelayProcess(database.dsn) as relay:
        yield relay


@pytest.fixture
async def proxy(relay: RelayProcess) -> AsyncIterator[Proxy]:
    async with Proxy("127.0.0.1", relay.port) as proxy:
        yield proxy


def url_of(proxy: Proxy) -> str:
    return f"ws://127.0.0.1:{proxy.port}"


# --- the link


async def test_a_cut_link_is_resumed_and_the_cache_stays_warm(scene: Scene, proxy: Proxy) -> None:
    async with scene.reader(url_of(proxy)) as reader:
        for resumes in (1, 2, 3):
            proxy.cut()
            await eventually(lambda: reader.status.resumes == resumes)  # noqa: B023  # awaited in the same round
            await reader.wait_live()
            assert await reader.version(1) == 0
        assert scene.users.runs == 1
        assert reader.status.gaps == 0
        await scene.is_right_again(reader)


async def test_what_changed_while_the_link_was_cut_is_told_by_the_resume(scene: Scene, proxy: Proxy) -> None:
    async with scene.reader(url_of(proxy)) as reader:
        assert await reader.version(2) == 0
        proxy.refuse()
        proxy.cut()
        await eventually(lambda: reader.status.state == "suspect")
        await scene.users.change(1)
        proxy.forward()
        await eventually(lambda: reader.status.resumes == 1)
        await reader.wait_live()
        assert not reader.holds(1)
        assert await reader.version(1) == 1
        assert reader.status.gaps == 0


def cut_for_a_while(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()


BLIPS: dict[str, Callable[[Proxy], None]] = {
    "cut": cut_for_a_while,
    "stalled": lambda proxy: proxy.stall(),
    "stalled towards the client": lambda proxy: proxy.stall("down"),
    "black hole": lambda proxy: proxy.black_hole(),
}


@pytest.mark.parametrize("blip", BLIPS.values(), ids=BLIPS.keys())
async def test_a_blip_of_500_ms_inside_the_lease_bypasses_no_call_and_flushes_nothing(
    scene: Scene, proxy: Proxy, blip: Callable[[Proxy], None]
) -> None:
    async with scene.reader(url_of(proxy)) as reader:
        before = reader.info()
        hits = 0
        blip(proxy)
        ends_s = time.monotonic() + BLIP_S
        while time.monotonic() < ends_s:
            assert await reader.version(1) == 0
            hits += 1
            await asyncio.sleep(CALLS_PAUSE_S)
        proxy.forward()
        if blip is BLIPS["black hole"]:
            proxy.cut()  # its bytes are lost: the network says so at last
        await reader.wait_live()
        assert await reader.version(1) == 0
        after = reader.info()
        assert hits > 1
        assert after.hits - before.hits == hits + 1
        assert (after.bypasses, after.misses, after.flushes) == (before.bypasses, before.misses, before.flushes)
        assert scene.users.runs == 1
        assert reader.status.gaps == 0
        await scene.is_right_again(reader)


async def test_a_black_holed_link_serves_nothing_stale_and_is_replaced(scene: Scene, proxy: Proxy) -> None:
    async with scene.reader(url_of(proxy), staleness=SHORT_LEASE_S) as reader:
        proxy.black_hole()
        await scene.users.change(1)
        await eventually(lambda: not reader.is_healthy())
        assert await reader.version(1) == 1
        await eventually(lambda: not reader.status.is_connected)
        proxy.forward()
        await eventually(lambda: reader.status.reconnects >= 1)
        await scene.is_right_again(reader)


# --- the relay


async def test_a_relay_that_was_killed_and_started_again_is_found_and_everything_is_flushed(
    scene: Scene, relay: RelayProcess
) -> None:
    async with scene.reader(relay.url) as reader:
        position = reader.status.position
        await asyncio.to_thread(relay.kill)
        await eventually(lambda: reader.status.state == "suspect")
        assert await reader.version(1) == 0, "the lease holds"
        await scene.users.change(1)
        await asyncio.to_thread(relay.start)
        await asyncio.to_thread(relay.wait_ready)
        await eventually(lambda: reader.status.gaps == 1)
        await reader.wait_live()
        assert not reader.holds(1)
        assert position is not None
        assert reader.status.position is not None
        assert reader.status.position.epoch != position.epoch
        assert reader.status.resumes == 0
        await scene.is_right_again(reader)


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "black hole"])
async def test_another_relay_of_the_same_database_takes_over_and_everything_is_flushed(
    scene: Scene, database: Database, *, is_killed: bool
) -> None:
    async with (
        RelayProcess(database.dsn) as first,
        RelayProcess(database.dsn) as second,
        Proxy("127.0.0.1", first.port) as proxy,
        scene.reader(url_of(proxy), second.url, staleness=SHORT_LEASE_S, open_timeout=6.0) as reader,
    ):
        assert reader.status.url == url_of(proxy)
        await scene.users.change(2)
        if is_killed:
            await asyncio.to_thread(first.kill)
        else:
            proxy.black_hole()
        await scene.users.change(1)
        await eventually(lambda: reader.status.url == second.url and reader.status.gaps == 1)
        await reader.wait_live()
        assert reader.status.resumes == 0
        assert not reader.holds(1)
        await scene.is_right_again(reader)


async def test_a_relay_that_drains_sends_its_clients_to_another(scene: Scene, database: Database) -> None:
    async with (
        RelayProcess(database.dsn, drain_jitter_s="0.01") as first,
        RelayProcess(database.dsn) as second,
        scene.reader(first.url, second.url) as reader,
    ):
        first.signal(signal.SIGTERM)
        assert await asyncio.to_thread(first.wait) == 0
        await eventually(lambda: reader.status.url == second.url and reader.status.gaps == 1)
        await scene.is_right_again(reader)
