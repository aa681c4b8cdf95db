"""What can happen between the relay and PostgreSQL, with a real relay process and a real client in front of it.

After each fault the client is live again by itself, has counted a gap, and serves what the database holds.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

import pgcachewatch
from pgcachewatch.aio import connection
from pgcachewatch.aio.client import Client
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.embedded.account import run_as, server_account, temporary_parent
from tests.integration.users import Users
from tests.postgres import Database
from tests.proxy import BOTH, Direction, Proxy, port_of, through
from tests.relay_process import RelayProcess, free_port
from tests.waiting import LIMIT_S, eventually

KILLS = 5 if os.environ.get("PGCW_BENCH") else 2  # each waits until the session before has lasted
STARTUP_PARAMETERS = (  # that the relay sets, and PgBouncer does not know
    *("application_name", "synchronous_commit", "lock_timeout", "statement_timeout"),
    *("idle_in_transaction_session_timeout", "tcp_user_timeout", "extra_float_digits"),
    *("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"),
)


def quick_relay(dsn: str, **settings: str) -> RelayProcess:
    """One that finds out and tries again within a fraction of a second."""
    quick = {
        "heartbeat_s": "0.1",
        "idle_heartbeat_s": "0.1",
        "loopback_overdue_s": "0.5",
        "connect_timeout_s": "1.0",
        "reconnect_min_s": "0.02",
        "reconnect_max_s": "0.2",
    }
    return RelayProcess(dsn, port=0, **{**quick, **settings})


class Scene:
    """A live client with one warm entry, and the table behind it."""

    def __init__(self, client: Client, users: Users) -> None:
        self.client = client
        self.users = users
        self.cached = client.cache(users.version, tables=["users"])

    async def warm(self) -> None:
        async def is_kept() -> bool:
            assert await self.cached(1) == await self.users.version_now(1)
            return self.cached.cache_contains(1)

        await self.client.wait_live(LIMIT_S)
        await eventually(is_kept)  # a short lease may end under the first call

    async def is_right_again(self, *, gaps: int = 1) -> None:
        """Live, with what was cached before flushed, and events arriving."""
        await eventually(lambda: self.client.status.gaps >= gaps and self.client.status.state == "live")
        assert self.client.status.reconnects == 0, "the link to the relay had no part in it"
        assert await self.cached(1) == await self.users.version_now(1)
        await self.users.change(1)
        await self.client.barrier(timeout=LIMIT_S)
        assert await self.cached(1) == await self.users.version_now(1)


@asynccontextmanager
async def scene(users: Users, relay: RelayProcess) -> AsyncIterator[Scene]:
    async with asyncio.timeout(3 * LIMIT_S), relay, pgcachewatch.connect(relay.url, staleness=1.0) as client:
        scene = Scene(client, users)
        await scene.warm()
        yield scene


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's lease is short; that a busy machine has the relay late is no reason to give up the link to it."""
    monkeypatch.setattr(connection, "SILENT_HEARTBEATS", 100)


@pytest.fixture
async def users(database: Database) -> Users:
    users = Users(database.dsn)
    await users.create()
    return users


# --- the connection


async def test_a_terminated_listen_backend_is_replaced(users: Users) -> None:
    async with scene(users, quick_relay(users.dsn)) as it:
        for gaps in (1, 2, 3):
            await users.kill_listeners()
            await it.is_right_again(gaps=gaps)


async def test_a_server_that_crashed_and_came_back_is_found_again(private_server: EmbeddedPostgres) -> None:
    users = Users(private_server.dsn)
    await users.create()
    async with scene(users, quick_relay(users.dsn)) as it:
        await asyncio.to_thread(private_server.kill)
        await eventually(lambda: it.client.status.state == "suspect")
        await asyncio.to_thread(private_server.restart)
        await it.is_right_again()


async def test_a_server_that_is_restarted_in_order_is_found_again(private_server: EmbeddedPostgres) -> None:
    users = Users(private_server.dsn)
    await users.create()
    async with scene(users, quick_relay(users.dsn)) as it:
        await asyncio.to_thread(private_server.restart)
        await it.is_right_again()


# --- connections that look healthy


async def test_a_half_open_connection_is_given_up_and_nothing_stale_is_served_meanwhile(users: Users) -> None:
    async with (
        Proxy("127.0.0.1", port_of(users.dsn)) as proxy,
        scene(users, quick_relay(through(proxy, users.dsn))) as it,
    ):
        proxy.black_hole()
        await users.change(1)
        await eventually(lambda: not it.client.connection_healthy())
        assert await it.cached(1) == await users.version_now(1)
        proxy.forward()
        await it.is_right_again()


@pytest.mark.parametrize("direction", BOTH)
async def test_a_connection_that_is_stalled_one_way_is_given_up(users: Users, direction: Direction) -> None:
    async with Proxy("127.0.0.1", port_of(users.dsn)) as proxy:
        relay = quick_relay(through(proxy, users.dsn))
        async with scene(users, relay) as it:
            proxy.stall(direction)
            await users.change(1)
            await eventually(lambda: "source lost reason=loopback_overdue" in relay.log())
            await eventually(lambda: not it.client.connection_healthy())
            assert await it.cached(1) == await users.version_now(1)
            proxy.forward()
            await it.is_right_again()


class Sieve:
    """A proxy's filter: while `is_on` it takes NotificationResponses out of what the server says, and nothing else."""

    def __init__(self) -> None:
        self.is_on = False

    def filter_factory(self) -> Callable[[bytes], bytes]:
        held = bytearray()

        def sieve(data: bytes) -> bytes:
            held.extend(data)
            passed = bytearray()
            while len(held) >= 5 and len(held) >= (size := 1 + int.from_bytes(held[1:5], "big")):
                if not (self.is_on and held[:1] == b"A"):
                    passed += held[:size]
                del held[:size]
            return bytes(passed)

        return sieve


async def test_a_session_that_answers_and_receives_nothing_is_given_up(users: Users) -> None:
    sieve = Sieve()
    async with Proxy("127.0.0.1", port_of(users.dsn), filter_factory=sieve.filter_factory) as proxy:
        relay = quick_relay(through(proxy, users.dsn) + "?sslmode=disable")
        async with scene(users, relay) as it:
            sieve.is_on = True
            await users.change(1)
            await eventually(lambda: not it.client.connection_healthy())
            assert await it.cached(1) == await users.version_now(1)
            await eventually(lambda: "source lost reason=loopback_overdue" in relay.log())
            sieve.is_on = False
            await it.is_right_again()


# --- several hosts


@pytest.fixture
def standby(private_server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A hot standby of the private server, running."""
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="pgcachewatch-test-", dir=temporary_parent(account)))
    folder.chmod(0o755)
    data = folder / "data"
    data.mkdir(mode=0o700)
    if account is not None:
        shutil.chown(data, account.uid, account.gid)
    program = shutil.which("pg_basebackup", path=str(private_server.binaries.bindir)) or shutil.which("pg_basebackup")
    if program is None:
        pytest.skip("pg_basebackup is not on this machine")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    copied = run_as(
        account, program, "-D", str(data), "-R", "-c", "fast", "-d", private_server.dsn, environment=environment
    )
    assert copied.returncode == 0, copied.stderr
    with EmbeddedPostgres(private_server.binaries, data_directory=data) as standby:
        yield standby
    shutil.rmtree(folder)


def both(first: EmbeddedPostgres, second: EmbeddedPostgres) -> str:
    parts = urlsplit(first.dsn)
    login = parts.netloc.rpartition("@")[0]
    return f"postgresql://{login}@127.0.0.1:{first.port},127.0.0.1:{second.port}{parts.path}"


async def test_the_primary_is_found_behind_a_standby_and_after_a_failover(
    private_server: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    dsn = both(standby, private_server)
    users = Users(dsn + "?target_session_attrs=primary")
    await users.create()
    relay = quick_relay(dsn)
    async with scene(users, relay) as it:
        await eventually(lambda: _has_caught_up(private_server, standby))
        await asyncio.to_thread(private_server.kill)
        await eventually(lambda: it.client.status.state == "suspect")
        await eventually(lambda: "standby or in recovery" in relay.log())
        await _promote(standby)
        await it.is_right_again()


async def test_a_relay_that_finds_only_a_server_in_recovery_waits_for_its_promotion(
    private_server: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    users = Users(standby.dsn)
    await Users(private_server.dsn).create()
    await eventually(lambda: _has_caught_up(private_server, standby))
    relay = quick_relay(standby.dsn)
    relay.start()
    try:
        await eventually(lambda: "standby or in recovery" in relay.log())
        assert relay.get("/readyz")[0] == 503
        await _promote(standby)
        await asyncio.to_thread(relay.wait_ready)
        async with asyncio.timeout(LIMIT_S), pgcachewatch.connect(relay.url) as client:
            await Scene(client, users).warm()
    finally:
        relay.__exit__(None, None, None)


async def _has_caught_up(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> bool:
    written = await _ask(primary, "SELECT pg_current_wal_lsn()::text")
    return bool(await _ask(standby, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", written))


async def _promote(standby: EmbeddedPostgres) -> None:
    assert await _ask(standby, "SELECT pg_promote()")


async def _ask(server: EmbeddedPostgres, query: str, *values: object) -> object:
    asking = await asyncpg.connect(server.dsn)
    try:
        return await asking.fetchval(query, *values)
    finally:
        await asking.close()


# --- a pooler


class Bouncer:
    """PgBouncer in transaction mode before a server. As delivered it refuses startup parameters it does not know."""

    def __init__(self, program: str, dsn: str, folder: Path, *, is_lenient: bool) -> None:
        target = urlsplit(dsn)
        self.port = free_port()
        self.dsn = target._replace(netloc=f"{target.username}@127.0.0.1:{self.port}").geturl() + "?sslmode=disable"
        configuration = folder / "pgbouncer.ini"
        database = target.path[1:]
        configuration.write_text(
            f"[databases]\n{database} = host=127.0.0.1 port={target.port} user={target.username} "
            f"password={target.password}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            "auth_type = any\npool_mode = transaction\n"
            + (f"ignore_startup_parameters = {','.join(STARTUP_PARAMETERS)}\n" if is_lenient else "")
        )
        account = server_account()
        self._process = subprocess.Popen(
            [program, str(configuration)],
            stderr=subprocess.DEVNULL,
            user=account.uid if account else None,
            group=account.gid if account else None,
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(params=[False, True], ids=["as delivered", "lenient"])
def bouncer(database: Database, request: pytest.FixtureRequest) -> Iterator[Bouncer]:
    program = shutil.which("pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not on this machine; a proxy that does the same to a LISTEN is tested below")
    with tempfile.TemporaryDirectory(dir=temporary_parent(server_account())) as folder:
        Path(folder).chmod(0o755)
        bouncer = Bouncer(program, database.dsn, Path(folder), is_lenient=request.param)
        yield bouncer
        bouncer.stop()


async def test_pgbouncer_in_transaction_mode_is_named_at_start_and_the_direct_way_helps(
    bouncer: Bouncer, users: Users
) -> None:
    await _is_named(bouncer.dsn)
    async with scene(users, quick_relay(bouncer.dsn, listen_dsn=users.dsn)):
        pass


async def test_a_proxy_that_keeps_notifications_back_is_named_at_start_and_the_direct_way_helps(users: Users) -> None:
    sieve = Sieve()
    sieve.is_on = True
    async with Proxy("127.0.0.1", port_of(users.dsn), filter_factory=sieve.filter_factory) as proxy:
        dsn = through(proxy, users.dsn) + "?sslmode=disable"
        await _is_named(dsn)
        async with scene(users, quick_relay(dsn, listen_dsn=users.dsn)):
            pass


async def _is_named(dsn: str) -> None:
    """A relay with this DSN says what stands between and what to do, and lives."""
    relay = quick_relay(dsn)
    relay.start()
    try:
        await eventually(lambda: "pooler" in relay.log())
        assert "give a direct DSN in PGCACHEWATCH_LISTEN_DSN" in relay.log()
        assert (await asyncio.to_thread(relay.get, "/readyz"))[0] == 503
    finally:
        relay.__exit__(None, None, None)


# --- how long it takes


@pytest.mark.slow
async def test_time_from_a_killed_listen_backend_to_live_is_printed(
    users: Users, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the settings as delivered."""
    times_ms = []
    async with scene(users, RelayProcess(users.dsn)) as it:
        for gaps in range(1, KILLS + 1):
            since_s = time.monotonic()
            await eventually(lambda: time.monotonic() - since_s > 3.5)  # noqa: B023  # a session that has lasted
            began_s = time.monotonic()
            await users.kill_listeners()
            await eventually(lambda: it.client.status.gaps >= gaps and it.client.status.state == "live")  # noqa: B023
            times_ms.append((time.monotonic() - began_s) * 1_000)
            await it.is_right_again(gaps=gaps)
    with capsys.disabled():
        sys.stdout.write(
            f"\nLISTEN backend killed, to LIVE again: median {statistics.median(times_ms):.0f} ms"
            f" (of {KILLS}: {', '.join(f'{each:.0f}' for each in sorted(times_ms))})\n"
        )
