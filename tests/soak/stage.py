"""Everything that takes part in a soak: one relay that is never started again, and who uses it.

    readers a ==link==> |                                    | <== tapes and jobs
    readers b ==link==> | relay ==source proxy==> PostgreSQL | <== rows, by the checker's writer
    caches  ===link===> |
    strangers ========> |

The crowds and the links are what the checker's faults strike.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager, AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import asyncpg

from pgcachewatch_daemon.embedded import EmbeddedPostgres, find_binaries
from tests.checker.plan import TABLE, WriterTask
from tests.checker.processes import Child
from tests.checker.tables import versions_in, watch
from tests.proxy import Proxy, through
from tests.relay_process import RelayProcess
from tests.soak.caches import KEYS
from tests.soak.crowd import Report, read_report
from tests.soak.plan import JOBS, RELAY_SETTINGS, CrowdTask, SoakSettings, TapeTask

ROW_WRITES_PER_S = 10.0
CACHE_CALLS_PER_S = 5.0
STRANGERS_LIMIT = 200
KEEPALIVES_FAIL_AFTER_S = 25.0  # as the relay's sessions ask for
LINKED = ("readers-a", "readers-b", "caches")


@dataclass(frozen=True, slots=True)
class Crowd:
    """A process of clients and its link."""

    child: Child
    link: Proxy


@dataclass(slots=True)
class Stage:
    """Enter it: PostgreSQL, the relay and the proxies run. Then `start_crowds` and `start_writers`."""

    settings: SoakSettings
    readers: list[Crowd] = field(default_factory=list)
    strangers: list[Child] = field(default_factory=list)
    writers: list[Child] = field(default_factory=list)
    server: EmbeddedPostgres = field(init=False)
    source: Proxy = field(init=False)
    relay: RelayProcess = field(init=False)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.server = EmbeddedPostgres(find_binaries()[0])
            stack.callback(self.server.stop)
            await asyncio.to_thread(self.server.start)
            await self._create_tables()
            self.source = await stack.enter_async_context(Proxy("127.0.0.1", self.server.port))
            self.relay = RelayProcess(through(self.source, self.server.dsn), port=0, **RELAY_SETTINGS)
            stack.callback(self.relay.__exit__, None, None, None)
            self.relay.start()
            await asyncio.to_thread(self.relay.wait_ready)
            keepalives = asyncio.create_task(self._lose_dead_sessions())
            stack.callback(keepalives.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children = [*self.writers, *self.strangers, *(crowd.child for crowd in self.readers)]
        await asyncio.gather(*(child.kill() for child in children))
        await self._stack.aclose()

    def relay_taken_down(self) -> AbstractContextManager[RelayProcess]:
        raise AssertionError("a soak measures the memory of one relay: leave out the faults that take it down")

    async def _lose_dead_sessions(self) -> None:
        """A proxy answers for both ends, so PostgreSQL's keepalives see nothing of a session that was black-holed."""
        while True:
            await asyncio.sleep(KEEPALIVES_FAIL_AFTER_S)
            self.source.cut_dead()

    async def start_crowds(self) -> None:
        """Returns when all of them run."""
        settings = self.settings
        sizes = {
            "readers-a": settings.readers_per_mode,
            "readers-b": settings.readers_per_mode,
            "caches": settings.caches,
        }
        for name in LINKED:
            link = await self._stack.enter_async_context(Proxy("127.0.0.1", self.relay.port))
            url = f"ws://127.0.0.1:{link.port}"
            task = self._crowd(name, url, size=sizes[name], per_s=CACHE_CALLS_PER_S)
            self.readers.append(Crowd(await self._start(name.partition("-")[0], task), link))
        task = self._crowd("strangers", self.relay.url, size=STRANGERS_LIMIT, per_s=settings.strangers_per_s)
        self.strangers.append(await self._start("strangers", task))
        await asyncio.gather(*(child.ready() for child in [*self.strangers, *(crowd.child for crowd in self.readers)]))

    async def start_writers(self) -> None:
        """Of tapes and jobs, and of rows."""
        settings = self.settings
        directory = str(settings.directory)
        tapes = TapeTask(
            name="tapes",
            directory=directory,
            dsn=self.server.dsn,
            seed=settings.seed,
            per_s=settings.events_per_s,
            burst_every_s=settings.burst_every_s,
            burst_events=settings.burst_events,
        )
        rows = WriterTask("rows", self.server.dsn, directory, settings.seed, list(range(KEYS)), ROW_WRITES_PER_S)
        self.writers.append(await self._start("tapes", tapes))
        self.writers.append(await Child.start(sys.executable, "tests.checker.writer", rows))
        await asyncio.gather(*(writer.ready() for writer in self.writers))

    def report(self, name: str) -> Report:
        """The last one of a process."""
        return read_report(self.settings.directory, name)

    async def versions(self) -> dict[int, int]:
        """What the database holds now, of the rows that are cached."""
        return await versions_in(self.server.dsn)

    def _crowd(self, name: str, url: str, *, size: int, per_s: float) -> CrowdTask:
        settings = self.settings
        seed = settings.seed * 1_000 + sum(name.encode())
        return CrowdTask(name, str(settings.directory), url, self.server.dsn, seed, size, per_s)

    async def _start(self, module: str, task: CrowdTask | TapeTask) -> Child:
        return await Child.start(sys.executable, f"tests.soak.{module}", task)

    async def _create_tables(self) -> None:
        connection = await asyncpg.connect(self.server.dsn)
        try:
            await connection.execute(
                f"CREATE TABLE {TABLE} (key bigint PRIMARY KEY, version bigint NOT NULL);"
                f"INSERT INTO {TABLE} SELECT key, 0 FROM generate_series(0, {KEYS - 1}) AS key;"
                f"CREATE TABLE {JOBS} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)"
            )
            await watch(connection, TABLE, "direct")
            await watch(connection, JOBS, "journal")
        finally:
            await connection.close()
