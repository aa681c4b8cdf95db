"""The LISTEN connection against a real server: nothing is lost while it is up, and it is never up without proof."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch.protocol.messages import TOKEN_CHANNEL
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.io.postgres import Opened, PostgresSource, SourceOptions
from pgcachewatch_daemon.sql.functions import CATALOGUE_CHANNEL
from tests.postgres import Database
from tests.proxy import Filter, Proxy, port_of, through
from tests.waiting import eventually

OPTIONS = SourceOptions(
    heartbeat_s=0.05, idle_heartbeat_s=0.05, overdue_s=2.0, reconnect_min_s=0.01, reconnect_max_s=0.05
)


@dataclass
class Log:
    """Listener and loopback bookkeeping in one: remembers what it was told, in order."""

    told: list[tuple[str, ...]] = field(default_factory=list)
    nonce: str = ""
    sent_ms: float = 0.0
    count: int = 0
    returned: int = 0
    failing: bool = False
    wants_snapshot: bool = False
    snapshots: list[str] = field(default_factory=list)

    @property
    def is_in_flight(self) -> bool:
        return bool(self.nonce)

    def start(self, *, now_ms: float) -> str:
        self.count += 1
        self.nonce, self.sent_ms = f"{self.count:x}", now_ms
        return self.nonce

    def overdue(self, now_ms: float, *, limit_ms: float) -> bool:
        return bool(self.nonce) and now_ms - self.sent_ms > limit_ms

    def reset(self) -> None:
        self.nonce = ""

    def notified(self, channel: str, payload: str) -> None:
        if self.failing:
            raise RuntimeError("planted")
        self.told.append(("event", channel, payload))

    def notification_failed(self, channel: str) -> None:
        if channel == "worse":
            raise RuntimeError("planted as well")
        self.told.append(("failed", channel))

    def looped_back(self, payload: str, position: str) -> None:
        nonce, _, snapshot = payload.partition(" ")
        self.snapshots += [snapshot] if snapshot else []
        if nonce == self.nonce:
            self.nonce = ""
            self.returned += 1

    def token_notified(self, token: str) -> None:
        if token == "failing":
            raise RuntimeError("planted")
        self.told.append(("token", token))

    def tokens_settled(self) -> None:
        self.told.append(("settled",))

    def catalogue_changed(self) -> None:
        self.told.append(("catalogue",))

    def row_lost(self, payload: str) -> None: ...

    def channel_listened(self, channel: str) -> None:
        self.told.append(("listened", channel))

    def channel_given_up(self, channel: str) -> None:
        self.told.append(("given up", channel))

    def source_up(self, journal: Opened | None) -> None:
        self.told.append(("up",))

    def source_lost(self, reason: str) -> None:
        self.told.append(("lost", reason))

    def of(self, kind: str) -> list[tuple[str, ...]]:
        return [each for each in self.told if each[0] == kind]


@asynccontextmanager
async def listening(
    dsn: str, *channels: str, options: SourceOptions = OPTIONS
) -> AsyncIterator[tuple[PostgresSource, Log]]:
    log = Log()
    source = PostgresSource(replace(options, dsn=dsn), log, log, clock=time.monotonic)
    source.start()
    try:
        for channel in channels:
            await source.ensure_channel(channel)
        yield source, log
    finally:
        await source.close()


async def notify(dsn: str, channel: str, payload: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("SELECT pg_notify($1, $2)", channel, payload)
    finally:
        await connection.close()


async def backend(connection: asyncpg.Connection[asyncpg.Record]) -> int:
    # In this database only: other tests share the server.
    pid = await connection.fetchval(
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = 'pgcachewatch relay' AND datname = current_database()"
    )
    assert isinstance(pid, int)
    return pid


async def test_a_loopback_brings_a_snapshot_when_it_is_wanted(database: Database) -> None:
    async with listening(database.dsn, "ch") as (source, log):
        connection = await database.connect()
        async with connection.transaction():
            xid = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
            assert log.snapshots == []
            log.wants_snapshot = True
            source.hasten()
            await eventually(lambda: bool(log.snapshots))
            while_running = Snapshot.parse(log.snapshots[-1])
        count = len(log.snapshots)
        await eventually(lambda: len(log.snapshots) > count + 1)
        assert not while_running.contains(xid)
        assert Snapshot.parse(log.snapshots[-1]).contains(xid)


async def test_what_is_notified_after_ensure_channel_arrives_in_order(database: Database) -> None:
    async with listening(database.dsn, "ch") as (_, log):
        connection = await database.connect()
        await connection.execute("SELECT pg_notify('ch', i::text) FROM generate_series(1, 2000) i")
        await eventually(lambda: len(log.of("event")) == 2000)
        assert [payload for _, _, payload in log.of("event")] == [str(number) for number in range(1, 2001)]
        assert log.told[0] == ("up",)


async def test_a_channel_may_have_any_name_postgresql_can_hold(database: Database) -> None:
    name = 'Quo"te; DROP TABLE x; -- ü ' + "x" * 30
    async with listening(database.dsn, name) as (source, log):
        await notify(database.dsn, name, "p")
        await eventually(lambda: log.of("event") == [("event", name, "p")])
        assert source.is_listening(name)


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0b"])
async def test_a_name_it_can_not_hold_is_refused_at_once(database: Database, name: str) -> None:
    async with listening(database.dsn) as (source, _):
        with pytest.raises(ConfigurationError, match="63 bytes"):
            await source.ensure_channel(name)


async def test_one_channel_more_than_the_limit_is_refused_and_says_so(database: Database) -> None:
    async with listening(database.dsn, "a", "b", options=replace(OPTIONS, channels_limit=2)) as (source, _):
        await source.ensure_channel("b")
        with pytest.raises(LimitExceeded, match="2 channels") as caught:
            await source.ensure_channel("c")
        assert (caught.value.allowed, caught.value.value) == (2, 3)


async def test_a_loopback_of_somebody_else_proves_nothing(database: Database) -> None:
    async with listening(database.dsn, options=replace(OPTIONS, queue_usage_interval_s=0.01)) as (source, log):
        await eventually(lambda: log.returned >= 1)
        before = log.returned
        log.nonce = "in-flight"
        await source.ensure_channel("ch")
        await notify(database.dsn, source._loopback_channel, "in-flight")
        await notify(database.dsn, "ch", "behind it")
        await eventually(lambda: log.told[-1] == ("event", "ch", "behind it"))
        assert log.nonce == "in-flight"
        log.nonce = ""
        await eventually(lambda: log.returned > before)


@pytest.mark.rule("W-BARRIER-2")
async def test_a_token_settles_behind_all_that_its_transaction_notified(database: Database) -> None:
    """Also when it was notified first, and more follows it than fits into one packet."""
    async with listening(database.dsn, "ch") as (_, log):
        await eventually(lambda: log.returned >= 1)
        await (await database.connect()).execute(
            "BEGIN; SELECT pg_notify('pgcachewatch_token', 't'); "
            "SELECT pg_notify('ch', i || repeat('x', 7000)) FROM generate_series(1, 100) i; COMMIT"
        )
        await eventually(lambda: log.told[-1] == ("settled",))
        assert [each[0] for each in log.told] == ["up", "token", *["event"] * 100, "settled"]


async def test_a_token_of_another_transaction_settles_the_one_before_it(database: Database) -> None:
    quiet = replace(OPTIONS, heartbeat_s=3600.0, idle_heartbeat_s=3600.0)
    async with listening(database.dsn, "ch", options=quiet) as (_, log):
        for payload in ("one", "two"):
            await notify(database.dsn, TOKEN_CHANNEL, payload)
        await eventually(lambda: log.told[-1] == ("token", "two"))
        assert log.told[1:] == [("token", "one"), ("settled",), ("token", "two")]


async def test_the_relays_own_channels_are_nobody_elses(database: Database) -> None:
    async with listening(database.dsn, "ch", options=replace(OPTIONS, channels_limit=1)) as (source, log):
        assert source.stats.channels == 1
        for channel in (TOKEN_CHANNEL, CATALOGUE_CHANNEL):
            with pytest.raises(ConfigurationError, match="choose another"):
                await source.ensure_channel(channel)
        await notify(database.dsn, CATALOGUE_CHANNEL, "")
        await eventually(lambda: log.told[-1] == ("catalogue",))


async def test_a_token_whose_handling_fails_begins_a_new_epoch(database: Database) -> None:
    async with listening(database.dsn, "ch") as (source, log):
        await notify(database.dsn, TOKEN_CHANNEL, "failing")
        await eventually(lambda: source.stats.losses["handler_failed"] == 1)
        await eventually(lambda: len(log.of("up")) == 2)


async def test_heartbeats_go_on_and_one_asked_for_comes_at_once(database: Database) -> None:
    slow = replace(OPTIONS, heartbeat_s=3600.0, idle_heartbeat_s=3600.0)
    async with listening(database.dsn, options=slow) as (source, log):
        await eventually(lambda: log.returned == 1)
        source.hasten()
        await eventually(lambda: log.returned == 2)
        source.set_busy(True)
        assert log.returned == 2
        assert source.proof_limit_s == 3600.0 + 2.0


async def test_a_terminated_backend_is_told_at_once_and_replaced(database: Database) -> None:
    async with listening(database.dsn, "ch") as (source, log):
        connection = await database.connect()
        first = await backend(connection)
        await connection.execute("SELECT pg_terminate_backend($1)", first)
        await eventually(lambda: len(log.of("up")) == 2)
        assert log.of("lost") == [("lost", "connection_lost")]
        assert source.is_listening("ch")
        await notify(database.dsn, "ch", "after")
        await eventually(lambda: log.told[-1] == ("event", "ch", "after"))
        assert source.stats.losses["connection_lost"] == 1


async def test_a_server_that_stops_and_starts_again_is_found_again(
    private_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(private_server.dsn, "ch") as (source, log):
        await asyncio.to_thread(private_server.kill)
        await eventually(lambda: log.of("lost") == [("lost", "connection_lost")])
        assert not source.is_up
        await asyncio.to_thread(private_server.restart)
        await eventually(lambda: source.is_listening("ch"))
        await notify(private_server.dsn, "ch", "again")
        await eventually(lambda: log.told[-1] == ("event", "ch", "again"))
        await eventually(lambda: caplog.text.count("source up ") == 2)
    assert [caplog.text.count(words) for words in ("source lost reason=connection_lost", "down_s=")] == [1, 1]


async def test_a_black_holed_connection_is_given_up_when_the_loopback_is_overdue(database: Database) -> None:
    async with Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        dsn = through(proxy, database.dsn)
        async with listening(dsn, "ch", options=replace(OPTIONS, overdue_s=0.3, connect_timeout_s=0.5)) as (
            source,
            log,
        ):
            proxy.black_hole()
            await eventually(lambda: not source.is_up)
            proxy.forward()
            await eventually(lambda: source.is_listening("ch"))
            await notify(database.dsn, "ch", "seen")
            await eventually(lambda: log.told[-1] == ("event", "ch", "seen"))
            assert set(log.of("lost")) == {("lost", "loopback_overdue")}
            assert source.stats.losses["loopback_overdue"] == len(log.of("lost"))


async def test_a_moment_in_which_the_relay_itself_stood_still_is_no_loss(database: Database) -> None:
    async with listening(database.dsn, "ch", options=replace(OPTIONS, overdue_s=1.0)) as (source, log):
        await eventually(lambda: log.is_in_flight)
        time.sleep(1.5)  # noqa: ASYNC251  # the process stands still, as when it is stopped and continued
        before = log.returned
        await eventually(lambda: log.returned >= before + 3)
        assert not source.stats.losses


async def test_a_source_is_closed_without_waiting_for_a_server_that_does_not_answer(database: Database) -> None:
    async with Proxy("127.0.0.1", port_of(database.dsn)) as proxy:
        async with listening(through(proxy, database.dsn), "ch") as (source, _):
            proxy.stall()
            source.hasten()
            await asyncio.sleep(0)
        assert not source.is_up


def editing(edit: Callable[[bytes], bytes]) -> Callable[[], Filter]:
    """A proxy filter that applies `edit` to each whole message from the server."""

    def new_filter() -> Filter:
        held = bytearray()

        def over_messages(data: bytes) -> bytes:
            held.extend(data)
            out = bytearray()
            while len(held) >= 5 and len(held) >= (size := 1 + int.from_bytes(held[1:5], "big")):
                out += edit(bytes(held[:size]))
                del held[:size]
            return bytes(out)

        return over_messages

    return new_filter


def drop_notifications(message: bytes) -> bytes:
    """What a transaction pooler does to a LISTEN: everything works, and no NotificationResponse comes."""
    return b"" if message[:1] == b"A" else message


def invent_backend(message: bytes) -> bytes:
    """What a pooler does to BackendKeyData: the number is its own."""
    return message[:5] + bytes(each ^ 1 for each in message[5:9]) + message[9:] if message[:1] == b"K" else message


@pytest.mark.parametrize("edit", [drop_notifications, invent_backend])
async def test_a_pooler_between_is_named_once_and_never_counts_as_up(
    database: Database, caplog: pytest.LogCaptureFixture, edit: Callable[[bytes], bytes]
) -> None:
    async with Proxy("127.0.0.1", port_of(database.dsn), filter_factory=editing(edit)) as proxy:
        log = Log()
        dsn = through(proxy, database.dsn) + "?sslmode=disable"
        source = PostgresSource(replace(OPTIONS, dsn=dsn, overdue_s=0.2), log, log, clock=time.monotonic)
        source.start()
        await eventually(lambda: "pooler such as PgBouncer" in caplog.text)
        failures = source.stats.connect_failures
        await eventually(lambda: source.stats.connect_failures >= failures + 2)
        await source.close()
        assert caplog.text.count("pooler such as PgBouncer") == 1
        assert "PGCACHEWATCH_LISTEN_DSN" in caplog.text
        assert log.told == [], "a source that was never up is never lost"


async def test_a_server_in_recovery_is_waited_for_until_it_is_promoted(
    private_server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(private_server.kill)
    (private_server.data_directory / "standby.signal").touch()
    await asyncio.to_thread(private_server.restart)
    log = Log()
    source = PostgresSource(replace(OPTIONS, dsn=private_server.dsn), log, log, clock=time.monotonic)
    source.start()
    try:
        await eventually(lambda: source.stats.connect_failures >= 3)
        assert caplog.text.count("standby or in recovery") == 1
        assert not source.is_up
        connection = await asyncpg.connect(private_server.dsn)
        await connection.execute("SELECT pg_promote()")
        await connection.close()
        await eventually(lambda: source.is_up)
    finally:
        await source.close()


async def test_the_log_tells_the_version_as_the_server_does(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    version = str(await (await database.connect()).fetchval("SHOW server_version")).partition(" ")[0]
    with caplog.at_level(logging.INFO):
        async with listening(database.dsn, "ch"):
            await eventually(lambda: f" version={version} " in caplog.text)


async def test_a_wrong_password_is_said_once_and_tried_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    parts = urlsplit(database.dsn)
    wrong = parts._replace(netloc=f"{parts.username}:hunter2@{parts.hostname}:{parts.port}").geturl()
    log = Log()
    source = PostgresSource(replace(OPTIONS, dsn=wrong), log, log, clock=time.monotonic)
    source.start()
    await eventually(lambda: source.stats.connect_failures >= 3)
    await source.close()
    lines = [record for record in caplog.records if "source unavailable" in record.message]
    assert len(lines) == 1
    assert "hunter2" not in caplog.text


async def test_a_name_that_can_not_be_resolved_does_not_end_the_source(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    dsn = "postgresql://u@no-such-host.invalid/d"
    source = PostgresSource(replace(OPTIONS, dsn=dsn), log, log, clock=time.monotonic)
    source.start()
    await eventually(lambda: source.stats.connect_failures >= 2)
    await source.close()
    assert "can not be reached" in caplog.text


async def test_a_host_that_does_not_answer_does_not_keep_the_relay_from_the_next(database: Database) -> None:
    port = port_of(database.dsn)
    async with Proxy("127.0.0.1", port) as dead:
        dead.stall()
        dsn = database.dsn.replace(f"127.0.0.1:{port}", f"127.0.0.1:{dead.port},127.0.0.1:{port}")
        assert dsn != database.dsn
        async with listening(dsn, "ch", options=replace(OPTIONS, connect_timeout_s=0.2)) as (source, _):
            assert source.is_listening("ch")


async def test_a_handler_that_fails_makes_a_gap_and_the_source_goes_on(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(database.dsn, "ch") as (source, log):
        log.failing = True
        await notify(database.dsn, "ch", "x")
        await eventually(lambda: log.of("failed") == [("failed", "ch")])
        log.failing = False
        await notify(database.dsn, "ch", "y")
        await eventually(lambda: log.told[-1] == ("event", "ch", "y"))
        assert len(log.of("up")) == 1
        assert source.stats.handler_failures == 1


async def test_when_even_the_gap_fails_a_new_epoch_is_begun(database: Database) -> None:
    async with listening(database.dsn, "worse") as (_, log):
        log.failing = True
        await notify(database.dsn, "worse", "x")
        await eventually(lambda: len(log.of("up")) == 2)
        assert log.of("lost") == [("lost", "handler_failed")]


async def test_the_queue_of_the_server_is_measured(database: Database) -> None:
    async with listening(database.dsn, options=replace(OPTIONS, queue_usage_interval_s=0.01)) as (source, _):
        source.stats.queue_usage = -1.0
        await eventually(lambda: source.stats.queue_usage >= 0.0)


async def test_the_session_is_set_so_that_the_server_ends_it_when_the_relay_hangs(database: Database) -> None:
    async with listening(database.dsn, "ch"):
        connection = await database.connect()
        assert await backend(connection) > 0
        pid = await backend(connection)

        async def is_idle() -> bool:  # between its heartbeats; a transaction left open would stop every notification
            return bool(await connection.fetchval("SELECT state = 'idle' FROM pg_stat_activity WHERE pid = $1", pid))

        await eventually(is_idle)


@pytest.fixture(autouse=True)
def _verbose(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
