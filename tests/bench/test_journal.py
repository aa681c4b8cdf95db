"""Journal mode beside direct mode: from COMMIT to the client's frame, under load, and what a relay costs with no news.

Latency is from when COMMIT was sent to when the frame was read by this process. At a low rate both modes take turns in
one run, through one relay: on a server that waits for its disk, as those do that people run, and on one that does not,
where nothing hides what differs. Under load a probe commits now
and then into a table that pgbench keeps writing to, and somebody else reads every event; what the machine reached of
the wanted rate is printed beside it.
"""

from __future__ import annotations

import asyncio
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from pgcachewatch.models import DEFAULT_PG_CHANNEL
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.sql import journal
from tests.bench.rounds import IS_MEASURING
from tests.bench.test_writers import SETTINGS, find_pgbench
from tests.postgres import Database, all_binaries
from tests.raw_client import Client
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.waiting import LIMIT_S, eventually

EVENTS_PER_S = 10.0
SLICES, EVENTS_PER_SLICE = (15, 10) if IS_MEASURING else (2, 2)
COMMITS_PER_S = (500, 2_000, 5_000) if IS_MEASURING else (200,)
LOAD_S = 8.0 if IS_MEASURING else 1.0
PROBES_PER_S = 50.0
LOAD_CLIENTS = 8
IDLE_S = 20.0 if IS_MEASURING else 0.3
ROWS = 10_000
PROBE = "0"  # a key that pgbench does not write

MODES = ("direct", "journal")
LISTENER = Path(__file__).with_name("listener.py")


@pytest.fixture
async def rows(request: pytest.FixtureRequest) -> AsyncIterator[RowTriggers]:
    """A table in each mode, on a server of one's own. The parameter is its fsync, off without one."""
    binaries = next(iter(all_binaries()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    server = EmbeddedPostgres(binaries, settings=SETTINGS | {"fsync": getattr(request, "param", "off")})
    await asyncio.to_thread(server.start)
    database = Database(dsn=server.dsn, name="postgres")
    try:
        rig = await RowTriggers.open(database)
        for mode in MODES:
            await rig.writer.execute(f"CREATE TABLE {mode} (id int PRIMARY KEY, v int NOT NULL DEFAULT 0)")
            await rig.writer.execute(f"INSERT INTO {mode} SELECT generate_series(0, {ROWS})")
        await rig.install("direct", channel=DEFAULT_PG_CHANNEL)
        await rig.install("journal", mode="journal", channel=DEFAULT_PG_CHANNEL)
        await rig.writer.execute("VACUUM ANALYZE")
        yield rig
    finally:
        await database.close()
        await asyncio.to_thread(server.stop)


class Probe:
    """Commits a change of one row, and waits for the frame that tells of it."""

    def __init__(self, client: Client, writer: asyncpg.Connection) -> None:
        self._client = client
        self._writer = writer
        self._told: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def read(self) -> None:
        while True:
            message = await self._client.take()
            if message["t"] == "ev" and not self._told.done():
                self._told.set_result(time.perf_counter())

    async def commit_us(self, table: str) -> float:
        """From COMMIT to the frame."""
        self._told = asyncio.get_running_loop().create_future()
        await self._writer.execute("BEGIN")
        await self._writer.execute(f"UPDATE {table} SET v = v + 1 WHERE id = $1", int(PROBE))
        sent_s = time.perf_counter()
        await self._writer.execute("COMMIT")
        async with asyncio.timeout(LIMIT_S):
            return (await self._told - sent_s) * 1e6


@asynccontextmanager
async def probing(rows: RowTriggers, relay: RelayProcess) -> AsyncIterator[Probe]:
    async with Client(relay) as client:
        await client.hello(
            *({"t": "sub", "id": 1 + MODES.index(table), "table": table, "keys": [PROBE]} for table in MODES)
        )
        for number in range(len(MODES)):
            await client.until("subok", id=1 + number)
        probe = Probe(client, await rows.database.connect())
        reading = asyncio.create_task(probe.read())
        try:
            yield probe
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


def quantiles(taken_us: list[float]) -> str:
    ordered = sorted(taken_us)
    p50, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
    return f"p50 {p50:>8,.0f}  p99 {p99:>8,.0f} us"


@pytest.mark.bench
@pytest.mark.parametrize("rows", ["on", "off"], indirect=True)
async def test_a_commit_is_told_as_soon_in_journal_mode_at_a_low_rate(rows: RowTriggers) -> None:
    taken_us: dict[str, list[float]] = {mode: [] for mode in MODES}
    async with RelayProcess(rows.database.dsn) as relay, probing(rows, relay) as probe:
        for _ in range(SLICES):
            for mode in random.sample(MODES, len(MODES)):
                for _ in range(EVENTS_PER_SLICE):
                    await asyncio.sleep(1 / EVENTS_PER_S)
                    taken_us[mode].append(await probe.commit_us(mode))
    fsync = await rows.writer.fetchval("SHOW fsync")
    sys.stdout.write(f"\nCOMMIT to frame at {EVENTS_PER_S:g} events/s, fsync {fsync}\n")
    for mode in MODES:
        sys.stdout.write(f"  {mode:<8} {quantiles(taken_us[mode])}\n")
    ratio = statistics.median(taken_us["journal"]) / statistics.median(taken_us["direct"])
    sys.stdout.write(f"  journal / direct, p50: {ratio:.2f}  goal <= 1.5\n")

    assert len(taken_us["journal"]) == len(taken_us["direct"]) == SLICES * EVENTS_PER_SLICE


async def loaded(rows: RowTriggers, probe: Probe, script: Path, commits_per_s: int) -> tuple[float, list[float]]:
    """pgbench at that rate for a while; what it reached, and what the probe saw meanwhile."""
    pgbench = await asyncio.create_subprocess_exec(
        *(str(find_pgbench()), "-n", "-M", "prepared", "-c", str(LOAD_CLIENTS), "-j", "1"),
        *("-R", str(commits_per_s), "-T", str(max(1, round(LOAD_S))), "-f", str(script), rows.database.dsn),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    done = asyncio.create_task(pgbench.communicate())
    taken_us = []
    while not done.done():
        await asyncio.sleep(1 / PROBES_PER_S)
        taken_us.append(await probe.commit_us("journal"))
    out, err = await done
    assert pgbench.returncode == 0, err.decode()
    reached = re.search(r"tps = ([\d.]+)", out.decode())
    assert reached is not None, out.decode()
    return float(reached[1]), taken_us


@pytest.mark.bench
async def test_a_commit_is_told_soon_under_load(rows: RowTriggers, tmp_path: Path) -> None:
    script = tmp_path / "load.sql"
    script.write_text(f"\\set id random(1, {ROWS})\nUPDATE journal SET v = v + 1 WHERE id = :id;\n")
    async with RelayProcess(rows.database.dsn) as relay, probing(rows, relay) as probe:
        reader = await asyncio.create_subprocess_exec(sys.executable, str(LISTENER), relay.url)
        try:
            await eventually(lambda: clients_of(relay) == 2)
            sys.stdout.write("\nCOMMIT to frame under load, two clients, goal at 5,000/s: p50 <= 15,000 us\n")
            for wanted in COMMITS_PER_S:
                spent_s, began_s = cpu_s(relay.pid), time.monotonic()
                reached, taken_us = await loaded(rows, probe, script, wanted)
                share = (cpu_s(relay.pid) - spent_s) / (time.monotonic() - began_s)
                sys.stdout.write(
                    f"  {wanted:>6,}/s wanted, {reached:>6,.0f}/s reached: {quantiles(taken_us)}, "
                    f"relay {100 * share:.0f} % of a core\n"
                )
                assert taken_us
        finally:
            reader.kill()
            await reader.wait()


def clients_of(relay: RelayProcess) -> int:
    return round(metric(relay, "pgcachewatch_clients"))


def metric(relay: RelayProcess, name: str) -> float:
    """A figure of the relay's own."""
    found = re.search(rf"^{name}(?:{{[^}}]*}})? ([\d.e+-]+)$", relay.get("/metrics")[1], re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def cpu_s(pid: int) -> float:
    """What a process has used, user and system, in nanoseconds' resolution where Linux tells it."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.bench
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the scheduler's figures are Linux's")
async def test_what_a_relay_costs_while_nothing_happens(rows: RowTriggers) -> None:
    """Asleep; awake, because another relay holds the lock; and polling, as it does without wake-ups."""
    sys.stdout.write("\nA relay and its session while nothing is written, per cent of a core\n")
    other = await rows.database.connect()
    for name, wake, holds_lock in (("asleep", "gated", False), ("awake", "gated", True), ("polling", "poll", False)):
        async with RelayProcess(rows.database.dsn, journal_wake=wake) as relay:
            if holds_lock:
                await eventually(lambda: take_lock(other))
                await other.execute(journal.notify_sql())
            state = "asleep" if name == "asleep" else "awake"
            await eventually(lambda relay=relay, state=state: is_in(relay, state))  # type: ignore[misc]  # bound now
            backend = await other.fetchval(
                "SELECT pid FROM pg_stat_activity"
                " WHERE application_name = 'pgcachewatch relay' AND datname = current_database()"
            )
            polls, before = metric(relay, "pgcachewatch_journal_polls_total"), (cpu_s(relay.pid), cpu_s(backend))
            await asyncio.sleep(IDLE_S)
            relay_share, backend_share = (
                100 * (now - then) / IDLE_S
                for now, then in zip((cpu_s(relay.pid), cpu_s(backend)), before, strict=True)
            )
            polls = metric(relay, "pgcachewatch_journal_polls_total") - polls
            sys.stdout.write(
                f"  {name:<8} relay {relay_share:.2f} %, session {backend_share:.2f} %, {polls / IDLE_S:.0f} polls/s\n"
            )
            assert is_in(relay, state)
            if holds_lock:
                await other.execute(journal.give_up_lock_sql())


async def take_lock(connection: asyncpg.Connection) -> bool:
    return bool(await connection.fetchval(journal.take_lock_sql()))


def is_in(relay: RelayProcess, state: str) -> bool:
    return f'pgcachewatch_journal_state{{state="{state}"}} 1.0' in relay.get("/metrics")[1]
