"""A connection and its watch on a fake relay, without the caches: what the shell's tests have in common."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from pgcachewatch.aio.connection import Connection, ConnectionSettings, OpenLink
from pgcachewatch.aio.watch import CacheReader, Watch
from pgcachewatch.core.backoff import Backoff
from pgcachewatch.core.dependencies import RowKey
from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.core.store import CacheInfo
from pgcachewatch.core.trust import Trust
from pgcachewatch.models import DEFAULT_PG_CHANNEL, Scope
from pgcachewatch.testing import URL, FakeRelay

STALENESS_S = 2.0
ATTEMPT_TIMEOUT_S = 5.0


class StubCache:
    """Counts what a cached function is told."""

    def __init__(self) -> None:
        self.flushes = 0
        self.rows: list[RowKey] = []
        self.trust = Trust()
        self.lock: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def info(self) -> CacheInfo:
        return CacheInfo(hits=0, misses=0, maxsize=0, currsize=0, flushes=self.flushes)

    def flush(self, xid: int | None = None) -> None:
        self.flushes += 1

    def forget_row(self, row: RowKey, xid: int | None = None) -> None:
        self.rows.append(row)

    def proven(self, snapshot: Snapshot) -> None:
        pass

    @property
    def deadline_s(self) -> float:
        return self.trust.deadline


class Rig:
    """`async with Rig(relay) as rig`: connected when the body starts, gone when it ends."""

    def __init__(
        self,
        relay: FakeRelay,
        *,
        urls: Sequence[str] = (URL,),
        open_link: OpenLink | None = None,
        chance: float = 0.0,
        has_loop_time: bool = False,
        waits: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.relay = relay
        self._waits = waits
        clock = loop.time if has_loop_time else relay.clock
        self.clock = clock
        self.watch = Watch(staleness_s=STALENESS_S, clock=clock)
        settings = ConnectionSettings(
            urls=urls, staleness_s=STALENESS_S, attempt_timeout_s=ATTEMPT_TIMEOUT_S, backoff=Backoff()
        )
        self.connection = Connection(
            settings, self.watch, open_link=open_link or relay.open_link, clock=clock, chance=lambda: chance
        )
        self.watch.attach(self.connection)
        self.task: asyncio.Task[None] | None = None

    def cache(self, *tables: str) -> tuple[StubCache, CacheReader]:
        """A cache that depends on these tables."""
        cache = StubCache()
        reader = CacheReader(cache, cache.trust, watch=self.watch, label="stub")
        self.watch.add_cache(reader)
        scopes = [Scope(DEFAULT_PG_CHANNEL, table) for table in tables]
        self.watch.subscriptions.add(reader, scopes)
        self.watch.wants_changed()
        return cache, reader

    async def live(self) -> None:
        await self.watch.until(lambda: self.watch.is_live, timeout_s=60)

    async def __aenter__(self) -> Rig:
        self.task = asyncio.create_task(self.connection.run())
        if self._waits:
            await self.watch.until(lambda: self.watch.is_welcomed, timeout_s=60)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
