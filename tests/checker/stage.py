"""Everything that takes part in a run, started in order and taken down in reverse, whatever happened.

    readers ==link proxies==> relay ==source proxy==> PostgreSQL <== writers, and the readers' own function

The proxies stand where networks fail. Reading and writing rows goes past them: what is checked is the cache.
The original is put in the same places; its readers' direct path has a link proxy to PostgreSQL instead.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from pgcachewatch import queries
from pgcachewatch_daemon.embedded import EmbeddedPostgres, find_binaries
from tests.checker.plan import CHANNEL, TABLE, ReaderTask, RunSettings, WriterTask
from tests.checker.processes import Child, OriginalRelay
from tests.checker.tables import versions_in, watch
from tests.original import original_python
from tests.proxy import Proxy, through
from tests.relay_process import RelayProcess

FUNCTION = "checker_notify"
SUPERVISE_EVERY_S = 0.25
# In journal mode: who was away while some bursts went by comes back without a flush.
KEPT_EVENTS, EVENT_BYTES = 50_000, 2_000


@dataclass(slots=True)
class Reader:
    """One reading process and its link. Violations are counted by `group`."""

    number: int
    group: str
    child: Child
    link: Proxy
    task: ReaderTask


@dataclass(slots=True)
class Stage:
    """Enter it: PostgreSQL, the relay and the proxies run. Then `start_writers` and `start_readers`."""

    settings: RunSettings
    readers: list[Reader] = field(default_factory=list)
    writers: list[Child] = field(default_factory=list)
    relay_exits: int = 0  # times the relay ended although nobody had asked it to
    server: EmbeddedPostgres = field(init=False)
    source: Proxy = field(init=False)
    relay: RelayProcess = field(init=False)
    python: Path = field(init=False)
    _relay_is_away: bool = False
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self.python = original_python() if self.settings.is_original else Path(sys.executable)
            self.server = EmbeddedPostgres(find_binaries()[0])
            stack.callback(self.server.stop)
            await asyncio.to_thread(self.server.start)
            await self._create_table()
            self.source = await stack.enter_async_context(Proxy("127.0.0.1", self.server.port))
            self.relay = self._relay_of(through(self.source, self.server.dsn))
            stack.callback(self.relay.__exit__, None, None, None)
            self.relay.start()
            await asyncio.to_thread(self.relay.wait_ready)
            supervisor = asyncio.create_task(self._keep_relay_up())
            stack.callback(supervisor.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(child.kill() for child in self._children()))
        await self._stack.aclose()

    def _relay_of(self, dsn: str) -> RelayProcess:
        if self.settings.is_original:
            return OriginalRelay(self.python, dsn)
        if self.settings.mode == "direct":
            return RelayProcess(dsn)
        return RelayProcess(dsn, history_events=str(KEPT_EVENTS), history_bytes=str(KEPT_EVENTS * EVENT_BYTES))

    @contextmanager
    def relay_taken_down(self) -> Iterator[RelayProcess]:
        """Nobody starts it inside; it is started again afterwards."""
        self._relay_is_away = True
        try:
            yield self.relay
        finally:
            self.relay.start()
            self._relay_is_away = False

    async def start_writers(self) -> None:
        """They divide the keys among themselves."""
        settings = self.settings
        for number in range(settings.writers):
            task = WriterTask(
                name=f"writer-{number}",
                dsn=self.server.dsn,
                directory=str(settings.directory),
                seed=settings.seed * 1_000 + number,
                keys=list(range(number, settings.keys, settings.writers)),
                writes_per_s=settings.writes_per_s,
            )
            self.writers.append(await Child.start(sys.executable, "tests.checker.writer", task))
        await asyncio.gather(*(writer.ready() for writer in self.writers))

    async def start_readers(self) -> None:
        """Each behind a link of its own; returns when all are live."""
        settings = self.settings
        if settings.is_original:
            paths = ["direct", "relay"] * ((settings.async_readers + settings.sync_readers + 1) // 2)
        else:
            paths = ["async"] * settings.async_readers + ["threads"] * settings.sync_readers
        for number, path in enumerate(paths):
            self.readers.append(await self._start_reader(number, path))
        await asyncio.gather(*(reader.child.ready() for reader in self.readers))

    async def _start_reader(self, number: int, path: str) -> Reader:
        settings = self.settings
        port = self.server.port if path == "direct" else self.relay.port
        link = await self._stack.enter_async_context(Proxy("127.0.0.1", port))
        urls = {
            "direct": through(link, self.server.dsn),
            "relay": f"ws://127.0.0.1:{link.port}/pgpubsub/{CHANNEL}",
        }
        modules = {"async": "reader_async", "threads": "reader_sync"}
        task = ReaderTask(
            name=f"{path}-{number}",
            dsn=self.server.dsn,
            url=urls.get(path, f"ws://127.0.0.1:{link.port}"),
            directory=str(settings.directory),
            seed=settings.seed * 1_000 + 500 + number,
            keys=list(range(settings.keys)),
            reads_per_s=settings.reads_per_s,
            staleness_s=settings.staleness_s,
            is_by_row=not settings.is_original and number % 2 == 0,
        )
        module = f"tests.checker.{modules.get(path, 'reader_original')}"
        child = await Child.start(self.python, module, task)
        ours = "by row" if task.is_by_row else "by table"
        return Reader(number, f"original, {path} path" if settings.is_original else ours, child, link, task)

    async def versions(self) -> dict[int, int]:
        """What the database holds now."""
        return await versions_in(self.server.dsn)

    async def _create_table(self) -> None:
        connection = await asyncpg.connect(self.server.dsn)
        try:
            await connection.execute(
                f"CREATE TABLE {TABLE} (key bigint PRIMARY KEY, version bigint NOT NULL);"
                f"INSERT INTO {TABLE} SELECT key, 0 FROM generate_series(0, {self.settings.keys - 1}) AS key"
            )
            if self.settings.is_original:
                await connection.execute(queries.create_notify_function(CHANNEL, FUNCTION))
                await connection.execute(queries.create_after_change_trigger(f"{FUNCTION}_trigger", TABLE, FUNCTION))
            else:
                await watch(connection, TABLE, self.settings.mode)
        finally:
            await connection.close()

    async def _keep_relay_up(self) -> None:
        """What a supervisor does in production: a relay that ended is started again."""
        while True:
            await asyncio.sleep(SUPERVISE_EVERY_S)
            if not self._relay_is_away and _has_ended(self.relay):
                self.relay_exits += 1
                self.relay.start()

    def _children(self) -> list[Child]:
        return [*self.writers, *(reader.child for reader in self.readers)]


def _has_ended(relay: RelayProcess) -> bool:
    try:
        relay.wait(0.0)
    except subprocess.TimeoutExpired:
        return False
    return True
