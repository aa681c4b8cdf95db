"""Ours, twice: its fan-out alone, fed with lines, and the relay as it runs, with PostgreSQL. And the original's relay.

`ours` and `relay` are the same program with the same settings. What `ours` leaves out is the LISTEN connection, its
loopbacks (so it sends no marks while events flow), and the looks at the catalogue.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from websockets.sync.client import ClientConnection, connect

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.bench.fanout import processes
from tests.bench.fanout.cases import Case
from tests.bench.fanout.places import compiled
from tests.bench.fanout.servers.peer import Inlet, Missing, Peer, Serving
from tests.original import OriginalUnavailable, original_python
from tests.postgres import DSN_VARIABLE, all_binaries
from tests.relay_process import RelayProcess

CHANNEL = "ch_pgcachewatch_table_change"
HELLO = '{{"t":"hello","v":1,"subs":[{{"t":"sub","id":1,"table":"bench","mode":"{mode}"}}]}}'
SETTINGS = {"connections_limit": "20000", "connections_per_address_limit": "20000", "log_level": "warning"}
FIRST_ATTEMPTS, FIRST_TIMEOUT_S = 100, 0.2
STAY_S = 3_600.0
# A COMMIT that waits for the disk, as a user's does; the tests' servers do not wait.
DURABLE = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
SETTINGS_VARIABLE = "PGCW_BENCH_SETTINGS"  # more settings of ours, as `workers=2,outbox_bytes=65536`
STUCK_SETTINGS = {"send_buffer_bytes": "65536"}  # else the kernel holds megabytes for a client, and nothing shows


@cache
def _server() -> EmbeddedPostgres:
    binaries = all_binaries()
    if not binaries:
        raise Missing(f"there are no PostgreSQL binaries; give the address of a server in {DSN_VARIABLE}")
    server = EmbeddedPostgres(binaries[0], settings=DURABLE)
    server.start()
    return server


def dsn() -> str:
    """The address of the run's PostgreSQL, started by the first call; `stop_postgres` ends it."""
    return os.environ.get(DSN_VARIABLE) or _server().dsn


def stop_postgres() -> None:
    """Harmless when none was started."""
    if _server.cache_info().currsize:
        _server().stop()


def _settings(case: Case) -> dict[str, str]:
    given = filter(None, os.environ.get(SETTINGS_VARIABLE, "").split(","))
    more = dict(setting.strip().split("=", 1) for setting in given)
    return SETTINGS | (STUCK_SETTINGS if case.has_stuck else {}) | more


def _options(case: Case, port: int) -> tuple[str, ...]:
    hello = HELLO.format(mode="stream" if case.is_stream else "invalidate")
    names = ("--path", "/v1/ws", "--subprotocol", "pgcachewatch.v1", "--dialect", "ours", "--first", hello, "--wait")
    return ("--port", str(port), *names)


@contextmanager
def _ours(case: Case) -> Iterator[Serving]:
    settings = {f"PGCACHEWATCH_{name.upper()}": value for name, value in _settings(case).items()}
    command = [sys.executable, "-m", "tests.bench.fanout.programs.fanout_alone"]
    with processes.child(command, env=processes.environment(**settings)) as process:
        port, inlet = process.line().split()
        yield Serving(process.pid, Inlet("lines", int(inlet)), _options(case, int(port)))


@contextmanager
def _relay(case: Case) -> Iterator[Serving]:
    with ExitStack() as running:
        try:
            # At this level of its log it does not tell its port, so it is given one.
            process = RelayProcess(dsn(), port=processes.free_port(), **_settings(case))
            relay = running.enter_context(process)
        except AssertionError as error:
            raise processes.Failed(str(error)) from error
        yield Serving(relay.pid, Inlet("postgres", dsn=dsn()), _options(case, relay.port))


@contextmanager
def _original(case: Case) -> Iterator[Serving]:
    address, port = urlsplit(dsn()), processes.free_port()
    settings = {
        "PGHOST": address.hostname or "",
        "PGPORT": str(address.port),
        "PGUSER": address.username or "",
        "PGPASSWORD": address.password or "",
        "PGDATABASE": address.path.removeprefix("/"),
    }
    factory = ("pgcachewatch.pg_event_distributor:main", "--factory")
    uvicorn = (*factory, "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Not in the checkout, whose folders could be taken for packages.
    command: list[str | Path] = [original_python(), "-m", "uvicorn", *uvicorn]
    with processes.child(command, cwd=Path(os.sep), env=kept | settings) as process:
        processes.await_port(port, process)
        options = ("--port", str(port), "--path", f"/pgpubsub/{CHANNEL}")
        with ExitStack() as running:
            if case.clients > 1:
                running.enter_context(_somebody_there(port, options))
            yield Serving(process.pid, Inlet("postgres", dsn=dsn()), options)


@contextmanager
def _somebody_there(port: int, options: Sequence[str]) -> Iterator[None]:
    """One client more, for whom the original LISTENs.

    It answers a client before it LISTENs for it, and breaks off with those that come while it does. With somebody
    there it has nothing to do for another, and is in the state in which it can be compared.
    """
    with ExitStack() as staying:
        with connect(f"ws://127.0.0.1:{port}/pgpubsub/{CHANNEL}", proxy=None, compression=None) as first:
            _await_listen(first)
            reader = staying.enter_context(processes.child([compiled("load"), *options, "--limit", str(STAY_S)]))
            reader.line()
            processes.await_calm(reader.pid)
        yield


def _await_listen(first: ClientConnection) -> None:
    """Until this client gets what is notified."""

    async def notify() -> None:
        connection = await asyncpg.connect(dsn())
        try:
            await connection.execute("SELECT pg_notify($1, 'are you there')", CHANNEL)
        finally:
            await connection.close()

    for _ in range(FIRST_ATTEMPTS):
        asyncio.run(notify())
        try:
            first.recv(timeout=FIRST_TIMEOUT_S)
        except TimeoutError:
            continue  # it did not LISTEN yet
        return
    raise processes.Failed("the original did not LISTEN")


@contextmanager
def _listener(case: Case) -> Iterator[Serving]:
    command = (sys.executable, "-m", "tests.bench.fanout.programs.listener", "--dsn", dsn(), "--channel", CHANNEL)
    yield Serving(0, Inlet("postgres", dsn=dsn()), own_load=command)


def _check_postgres() -> None:
    dsn()


def _check_original() -> None:
    _check_postgres()
    try:
        original_python()
    except OriginalUnavailable as reason:
        raise Missing(str(reason)) from reason


def _postgres_version() -> str:
    async def asked() -> str:
        connection = await asyncpg.connect(dsn())
        try:
            return str(await connection.fetchval("show server_version"))
        finally:
            await connection.close()

    return f"PostgreSQL {asyncio.run(asked())}"


OURS = Peer("ours", open=_ours, version=lambda: "fan-out alone")
RELAY = Peer(
    "relay",
    open=_relay,
    check=_check_postgres,
    version=lambda: f"the relay with {_postgres_version()}",
)
ORIGINAL = Peer(
    "original",
    open=_original,
    check=_check_original,
    version=lambda: "pgcachewatch 0.4.2",
    is_for=lambda case: not case.is_idle and not case.has_stuck,
    share=0.03,
)
LISTENER = Peer(
    "listener",
    open=_listener,
    check=_check_postgres,
    version=lambda: f"asyncpg {asyncpg.__version__}, a connection each",
)
