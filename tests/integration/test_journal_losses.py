"""Nothing is missed in journal mode, nothing is made up, and what is told twice has the id it had before.

Eight writers pause, roll back, use savepoints and two-phase commit, and one transaction takes three seconds, while the
LISTEN session, the relay and the clients are killed every 0 to 0.6 seconds. `make losses DURATION=60` does so for a
minute; here it is a few seconds. PGCW_LOSSES_SEED repeats the kills and what writers do, not how they interleave.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest

import pgcachewatch
from pgcachewatch.core.backoff import Backoff
from pgcachewatch.errors import NotFresh
from pgcachewatch_daemon.core.wakefulness import WakeOptions
from pgcachewatch_daemon.embedded import EmbeddedPostgres, PostgresBinaries
from pgcachewatch_daemon.io.postgres import JournalOptions
from pgcachewatch_daemon.sql import journal
from tests.integration.losses import (
    TABLE,
    WRITERS,
    Killer,
    RawListener,
    Told,
    Truth,
    install,
    read_stream,
    write_for,
)
from tests.postgres import Database, all_binaries
from tests.proxy import Proxy
from tests.raw_client import SOURCE, Addressed, kill_listener, options, running
from tests.relay_process import RelayProcess
from tests.waiting import LIMIT_S

DURATION_S = float(os.environ.get("PGCW_LOSSES_S", "6"))
SEED = int(os.environ.get("PGCW_LOSSES_SEED", random.randrange(1, 10**6) if "PGCW_LOSSES_S" in os.environ else 1))
STALENESS_S = 60.0
# With relay and link dying all the time a client that backs off for seconds would be away for longer than the relay can
# replay, and be told so; what is asked here is that it misses nothing while it need not.
EAGER = Backoff(cap_s=0.2)
HISTORY = {"history_events": "50000", "history_bytes": "100000000", "outbox_bytes": "8000000"}
VICTIMS = ("backend", "link", "raw client", "relay")
KILLED_ON_THE_WAY_UP = 0.25  # of the relays that are started again
HEARD, LONGEST_S = 0.75, 5.0  # of the others live until the client is live again, or for so long
EARLY, LATE = "(SELECT $1::pg_catalog.text::pg_catalog.xid8)", "(SELECT $2::pg_catalog.text[]::pg_catalog.xid8[])"


@dataclass(frozen=True, slots=True)
class Heard:
    """A run: what was committed, what both clients were told, and what was killed."""

    truth: Truth
    library: Told
    raw: Told
    killed: Counter[str]
    status: pgcachewatch.Status

    def __str__(self) -> str:
        lines = [
            f"seed {SEED}, {DURATION_S:g} s: {self.truth.transactions:,} transactions with "
            f"{self.truth.changes.total():,} changes; {dict(self.truth.ended)}; killed: {dict(self.killed)}; "
            f"client: {self.status.resumes} resumes, {self.status.gaps} gaps"
        ]
        for name, told in (("stream", self.library), ("raw", self.raw)):
            missed, phantoms = told.missed(self.truth), told.phantoms(self.truth)
            lines.append(
                f"  {name:<7} told {len(told.changes):,}, missed {missed.total():,}, phantoms {phantoms.total():,}, "
                f"again {told.again:,} ({told.renamed} with another content), gaps {told.gaps[:5]}, "
                f"out of order {told.out_of_order()[:5]}, missed are {list(missed)[:5]}"
            )
        return "\n".join(lines)


@asynccontextmanager
async def a_server(binaries: PostgresBinaries | None) -> AsyncIterator[Database]:
    """With prepared transactions, which is not the default."""
    chosen = binaries or next(iter(all_binaries()), None)
    if chosen is None:
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    server = EmbeddedPostgres(chosen, settings={"max_prepared_transactions": str(WRITERS)})
    await asyncio.to_thread(server.start)
    database = Database(dsn=server.dsn, name="postgres")
    try:
        yield database
    finally:
        await database.close()
        await asyncio.to_thread(server.stop)


@pytest.fixture
async def server(postgres_binaries: PostgresBinaries | None) -> AsyncIterator[Database]:
    async with a_server(postgres_binaries) as database:
        yield database


async def hear(
    database: Database,
    relay: Addressed,
    *,
    has_two_phases: bool,
    kill_relay: Callable[[pgcachewatch.Client], Awaitable[object]] | None = None,
    kills: bool = True,
) -> Heard:
    """Write and kill for a while, then wait until both clients say that they have heard everything."""
    truth, library = Truth(), Told()
    async with (
        Proxy("127.0.0.1", relay.port) as link,
        pgcachewatch.connect(f"ws://127.0.0.1:{link.port}", staleness=STALENESS_S, reconnect=EAGER) as client,
        RawListener(relay) as raw,
        client.events(TABLE) as stream,
    ):
        reading = asyncio.create_task(read_stream(stream, library))
        async with asyncio.timeout(LIMIT_S):
            await client.wait_live()
            await raw.is_live.wait()

        async def cut() -> None:
            link.cut()

        async def abort() -> None:
            raw.abort()

        # The relay has a killer of its own: to start again takes it longer than any other.
        killers = [
            Killer(
                {"backend": lambda: kill_listener(database), "link": cut, "raw client": abort} if kills else {}, SEED
            ),
            Killer({"relay": lambda: kill_relay(client)} if kill_relay is not None else {}, SEED),
        ]
        await write_for(
            database, truth, duration_s=DURATION_S, seed=SEED, has_two_phases=has_two_phases, killers=killers
        )
        async with asyncio.timeout(LIMIT_S):
            await client.wait_live()
            await client.barrier(timeout=LIMIT_S)
            await raw.barrier()
        stream.close()
        await reading
        killed = sum((killer.killed for killer in killers), Counter())
        return Heard(truth, library, raw.told, killed, client.status)


def assert_whole(heard: Heard) -> None:
    for told in (heard.library, heard.raw):
        assert not told.missed(heard.truth), heard
        assert not told.phantoms(heard.truth), heard
        assert told.renamed == 0, heard
        assert told.gaps == [], heard
        assert told.out_of_order() == [], heard
    assert heard.raw.again_in_one_connection == 0, "without a kill in between nothing is told twice"
    assert heard.status.gaps == 0, heard


async def with_a_relay_that_is_killed(database: Database, *, wake: str) -> Heard:
    await install(database, wake=wake)
    is_polled = wake == "none"
    wakes = "poll" if is_polled else "gated"
    relay = RelayProcess(database.dsn, journal_wake=wakes, heartbeat_s="0.1", port=0, **HISTORY)
    chance = random.Random(SEED)

    async def kill_relay(client: pgcachewatch.Client) -> None:
        await asyncio.to_thread(relay.kill)
        relay.start()
        if chance.random() < KILLED_ON_THE_WAY_UP:
            return
        await asyncio.to_thread(relay.wait_ready)
        if chance.random() < HEARD:
            # A client that is told to come back in a second would else meet it never, and be away for too long.
            with suppress(NotFresh):
                await client.wait_live(LONGEST_S)

    async with relay:
        heard = await hear(database, relay, has_two_phases=is_polled, kill_relay=kill_relay)
    sys.stdout.write(f"\n{heard}\n")
    return heard


@pytest.mark.every_server
@pytest.mark.rule("W-JOURNAL-1")
@pytest.mark.rule("W-JOURNAL-2")
async def test_no_change_is_missed_or_made_up_while_backend_relay_and_clients_are_killed(server: Database) -> None:
    heard = await with_a_relay_that_is_killed(server, wake="none")

    assert_whole(heard)
    assert min(heard.killed[name] for name in VICTIMS) > 0, heard
    assert heard.truth.ended["long"] == 1, heard
    assert min(heard.truth.ended[how] for how in ("committed", "rolled back", "prepared, committed")) > 10, heard


async def test_no_change_is_missed_or_made_up_by_a_relay_that_sleeps_until_it_is_notified(database: Database) -> None:
    heard = await with_a_relay_that_is_killed(database, wake="gated")

    assert_whole(heard)
    assert min(heard.killed[name] for name in VICTIMS) > 0, heard


async def with_a_relay_that_lives(database: Database, *, kills: bool) -> Heard:
    await install(database, wake="none")
    source = replace(SOURCE, journal=JournalOptions(wake=WakeOptions(is_gated=False)))
    async with running(options(database.dsn, source)) as relay:
        return await hear(database, relay, has_two_phases=False, kills=kills)


async def test_without_kills_each_change_is_told_once(database: Database) -> None:
    heard = await with_a_relay_that_lives(database, kills=False)

    assert_whole(heard)
    assert (heard.library.again, heard.raw.again) == (0, 0), heard


async def test_a_relay_that_reads_by_numbers_is_caught(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes on behind the last number that was read passes over those who drew lower ones and commit later."""
    plain = journal.poll_sql()
    monkeypatch.setattr(journal, "poll_sql", lambda: by_numbers(plain))
    rig = await database.connect()
    await rig.execute("CREATE TABLE last_read AS SELECT 0::int8 AS seq")

    heard = await with_a_relay_that_lives(database, kills=True)

    assert heard.library.missed(heard.truth), heard
    assert heard.raw.missed(heard.truth), heard


def by_numbers(plain: str) -> str:
    """`poll_sql`, but what has a number above the last one."""
    early = f"WHERE j.xid >= {EARLY} AND"
    late = f"WHERE j.xid = ANY ({LATE}::pg_catalog.xid8[])\n)"
    assert plain.count(early) == plain.count(late) == 1, plain
    planted = plain.replace(early, f"WHERE {EARLY} IS NOT NULL AND j.seq > (SELECT l.seq FROM last_read AS l) AND")
    moved = "UPDATE last_read AS l SET seq = greatest(l.seq, (SELECT max(f.seq) FROM fresh AS f))"
    return planted.replace(late, f"WHERE {LATE} IS NULL\n), moved AS ({moved})")
