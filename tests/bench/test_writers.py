"""What a trigger costs many writers at once: commits per second beside no trigger, on this disk and on a slow one.

Every transaction that notifies holds a lock of the whole server across its flush, so such transactions commit one by
one; a row of the journal is flushed along with everybody else's. The slower the flush, the more that is worth: so it is
measured with this machine's fsync, and with one that takes a millisecond and nothing else.

pgbench does the writing, single-row updates of random rows. The designs take turns in random order, slice by slice, and
ratios are of slices of one round. As in life somebody listens, and for the journal somebody holds the relay's lock and
polls; what was written by then is counted, so a design that loses rows is no fast one.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from pgcachewatch import queries
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.embedded.cluster import Cluster
from pgcachewatch_daemon.sql import journal
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL
from tests.bench.rounds import IS_MEASURING
from tests.postgres import Database, all_binaries
from tests.row_triggers import CHANNEL, RowTriggers

DESIGNS = ("none", "original", "direct", "journal")
CLIENTS = (1, 4, 16, 32) if IS_MEASURING else (2,)
ROUNDS = 5 if IS_MEASURING else 1
SLICE = ("-T", "2") if IS_MEASURING else ("-t", "20")
ROWS = 10_000
POLL_S = 0.005
GOALS = {("1 ms", 16): "journal >= 0.70 x none", ("1 ms", 1): "journal <= none + 60 us"}

SETTINGS = {
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # What happens now and then would meet one design and not the others.
    "autovacuum": "off",
    "checkpoint_timeout": "1h",
    "max_wal_size": "4GB",
}


@dataclass(slots=True)
class Relay:
    """Listens to everything, and reads the journal as a relay that is awake."""

    connection: asyncpg.Connection
    rows: int = 0
    woken: list[object] = field(default_factory=list)

    async def start(self) -> None:
        for channel in (CHANNEL, "original"):
            await self.connection.add_listener(channel, lambda *_: None)
        await self.connection.add_listener(JOURNAL_CHANNEL, lambda *told: self.woken.append(told))
        assert await self.connection.fetchval(journal.take_lock_sql())

    async def read_while(self, writing: asyncio.Task[str]) -> str:
        """Poll until the writers are done, and once more."""
        snapshot = await self.connection.fetchval("SELECT pg_current_snapshot()::text")
        while True:
            is_last = writing.done()
            _, xmax, running = snapshot.split(":")
            header, *rows = await self.connection.fetch(journal.poll_sql(), xmax, running.split(",") if running else [])
            snapshot = header["snapshot"]
            self.rows += len(rows)
            if is_last:
                return await writing
            await asyncio.sleep(POLL_S)


@dataclass(frozen=True, slots=True)
class Slice:
    """One design for a moment."""

    tps: float
    latency_us: float
    transactions: int


@dataclass(slots=True)
class Field:
    """A server with a table per design, and who writes and reads."""

    server: EmbeddedPostgres
    pgbench: Path
    scripts: Path
    rig: RowTriggers
    relay: Relay

    async def slice(self, design: str, clients: int) -> Slice:
        before = self.relay.rows
        output = await self.relay.read_while(asyncio.create_task(self._write(design, clients)))
        found = Slice(
            tps=float(_figure(r"tps = ([\d.]+)", output)),
            latency_us=float(_figure(r"latency average = ([\d.]+) ms", output)) * 1_000,
            transactions=int(_figure(r"transactions actually processed: (\d+)", output)),
        )
        assert self.relay.rows - before == (found.transactions if design == "journal" else 0)
        await self.rig.writer.execute("TRUNCATE pgcachewatch.journal")
        await self.rig.writer.execute(f'VACUUM "{design}"')
        return found

    async def _write(self, design: str, clients: int) -> str:
        threads = str(min(clients, os.cpu_count() or 1))
        process = await asyncio.create_subprocess_exec(
            *(str(self.pgbench), "-n", "-M", "prepared", "-c", str(clients), "-j", threads, *SLICE),
            *("-f", str(self.scripts / f"{design}.sql"), self.server.dsn),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()


def _figure(pattern: str, output: str) -> str:
    found = re.search(pattern, output)
    assert found is not None, output
    return found[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Not pytest's, which the server's account may not read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def find_pgbench() -> Path:
    for binaries in all_binaries():
        if (binaries.bindir / "pgbench").exists():
            return binaries.bindir / "pgbench"
    pytest.skip("no pgbench beside the PostgreSQL binaries of this machine")


def compile_slow_sync(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for the library that makes a flush take a millisecond")
    library = folder / "slow_sync.so"
    source = Path(__file__).with_name("slow_sync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source], check=True)
    library.chmod(0o755)
    return library


@contextmanager
def preloading(library: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plain = Cluster.environment.fget  # type: ignore[attr-defined]  # a property, which mypy takes for its value
    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "environment", property(lambda self: {**plain(self), "LD_PRELOAD": str(library)}))
        yield


async def prepared(server: EmbeddedPostgres, database: Database, folder: Path) -> Field:
    rig = await RowTriggers.open(database)
    writer = rig.writer
    await writer.execute("SET statement_timeout = 0")
    for design in DESIGNS:
        await writer.execute(f'CREATE TABLE "{design}" (id bigint PRIMARY KEY, v int, pad text) WITH (fillfactor = 50)')
        await writer.execute(f"INSERT INTO \"{design}\" SELECT i, 0, repeat('x', 80) FROM generate_series(1, {ROWS}) i")
        script = f'\\set id random(1, {ROWS})\nUPDATE "{design}" SET v = v + 1 WHERE id = :id;\n'
        (folder / f"{design}.sql").write_text(script)
    await writer.execute(queries.create_notify_function("original", "notify"))
    await writer.execute(queries.create_after_change_trigger("watch", "original", "notify"))
    await rig.install("direct")
    await rig.install("journal", mode="journal")
    await writer.execute("VACUUM ANALYZE")
    relay = Relay(await database.connect())
    await relay.start()
    return Field(server, find_pgbench(), folder, rig, relay)


def report(disk: str, clients: int, slices: dict[str, list[Slice]]) -> None:
    """A line a design: medians, and the median of the ratios of each round."""
    if clients == CLIENTS[0]:
        heading = ("flush", "clients", "trigger", "tps", "ratio", "us more")
        sys.stdout.write("\n  {:<6} {:>7}  {:<9} {:>9} {:>6} {:>9}  goal\n".format(*heading))
    for design, taken in slices.items():
        ratio = statistics.median(one.tps / none.tps for one, none in zip(taken, slices["none"], strict=True))
        extra = statistics.median(
            one.latency_us - none.latency_us for one, none in zip(taken, slices["none"], strict=True)
        )
        goal = GOALS.get((disk, clients), "") if design == "journal" else ""
        tps = statistics.median(one.tps for one in taken)
        sys.stdout.write(f"  {disk:<6} {clients:>7}  {design:<9} {tps:>9,.0f} {ratio:>6.2f} {extra:>+9.0f}  {goal}\n")
    sys.stdout.flush()


@pytest.mark.bench
@pytest.mark.parametrize("clients", CLIENTS)
@pytest.mark.parametrize("disk", ["real", "1 ms"])
async def test_writers_in_journal_mode_commit_side_by_side(
    disk: str, clients: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binaries = next(iter(all_binaries()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    server = EmbeddedPostgres(binaries, settings=SETTINGS)
    if disk == "1 ms":
        with preloading(compile_slow_sync(folder), monkeypatch):
            await asyncio.to_thread(server.start)
    else:
        await asyncio.to_thread(server.start)
    database = Database(dsn=server.dsn, name="postgres")
    try:
        field = await prepared(server, database, folder)
        slices: dict[str, list[Slice]] = {design: [] for design in DESIGNS}
        for _ in range(ROUNDS):
            for design in random.sample(DESIGNS, len(DESIGNS)):
                slices[design].append(await field.slice(design, clients))
        report(disk, clients, slices)
        assert field.relay.woken == []
    finally:
        await database.close()
        await asyncio.to_thread(server.stop)
