"""The PostgreSQL servers that the tests run on: which one is taken, and who starts and stops it.

Four lanes, the first that can be had wins: `dsn` (PGCW_TEST_DSN), `docker` (an engine answers and has the
image or can get it), `wheel` (binaries of the dev dependencies), `system` (installed ones). PGCW_TEST_PG
names a lane that must be taken; if it can not be, the run fails and says why.

One server serves a whole run, in all its processes. The process that was started by hand owns it; the servers
of other versions, for tests marked `every_server`, are each owned by the process that asks for one first.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
from psycopg import sql

from pgcachewatch_daemon.embedded import EmbeddedPostgres, PostgresBinaries, find_binaries
from pgcachewatch_daemon.embedded.launcher import SETTINGS
from tests import docker_engine
from tests.docker_engine import Unavailable

DSN_VARIABLE = "PGCW_TEST_DSN"
LANE_VARIABLE = "PGCW_TEST_PG"
IMAGE_VARIABLE = "PGCW_TEST_IMAGE"
DEFAULT_IMAGE = "postgres:18-alpine"
CONNECT_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 5.0
UNREACHABLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


class Lane(Protocol):
    """A way to get a server. Made without starting anything; `start` is called at most once."""

    name: str
    version: str

    def start(self) -> str:
        """Return the address (DSN) of a superuser."""
        ...

    def stop(self) -> None:
        """Leave nothing; harmless when never started."""
        ...


class DsnLane:
    """A server that is there already. Its databases are only added to, and each is dropped after its test."""

    name = "dsn"

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._dsn = environment.get(DSN_VARIABLE, "")
        if not self._dsn:
            raise Unavailable(f"{DSN_VARIABLE} is not set")
        try:
            self.version = asyncio.run(_version_of(self._dsn))
        except UNREACHABLE as error:
            # Not Unavailable: who names a server does not want another one taken in its place.
            raise pytest.UsageError(f"the server of {DSN_VARIABLE} can not be reached: {error!r}") from error

    def start(self) -> str:
        return self._dsn

    def stop(self) -> None:
        pass


class DockerLane:
    """A container of its own, through testcontainers.

    With the image of testcontainers' reaper, unless that is disabled: it removes what a killed run leaves.
    """

    name = "docker"

    def __init__(self, environment: Mapping[str, str]) -> None:
        from testcontainers.core.config import testcontainers_config

        self._image = environment.get(IMAGE_VARIABLE, DEFAULT_IMAGE)
        self._stop: Callable[[], object] | None = None
        with docker_engine.engine() as client:
            found = docker_engine.image(client, self._image)
            if not testcontainers_config.ryuk_disabled:
                _have_reaper(client, testcontainers_config.ryuk_image)
        # As the official images tell it; the server itself is asked as soon as it runs.
        self.version = docker_engine.environment_of(found).get("PG_VERSION", self._image)

    def start(self) -> str:
        from testcontainers.community.postgres import PostgresContainer

        # The port is open to the whole network: hence no default password.
        container = PostgresContainer(
            self._image, username="postgres", password=secrets.token_hex(16), dbname="postgres", driver=None
        )
        settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
        container.with_command(f"postgres {settings}")
        self._stop = container.stop
        dsn, self.version = asyncio.run(_nearest(str(container.start().get_connection_url())))
        return dsn

    def stop(self) -> None:
        if self._stop is not None:
            self._stop()


def _have_reaper(client: docker_engine.Client, image: str) -> None:
    try:
        docker_engine.image(client, image)
    except Unavailable as reason:
        raise Unavailable(f"{reason}; to do without the reaper, set TESTCONTAINERS_RYUK_DISABLED=true") from reason


async def _nearest(dsn: str) -> tuple[str, str]:
    """Address and version of the server: by 127.0.0.1 where that leads to it, else as it was told.

    Inside a container it is told as the gateway's, but the tests' proxies lead to 127.0.0.1.
    """
    parts = urlsplit(dsn)
    local = parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{parts.port}").geturl()
    try:
        return local, await _version_of(local)
    except UNREACHABLE:
        return dsn, await _version_of(dsn)


class EmbeddedLane:
    """Binaries of this machine, run by our own launcher."""

    def __init__(self, binaries: PostgresBinaries) -> None:
        self.name: str = binaries.source
        self.version = binaries.version
        self._server = EmbeddedPostgres(binaries)

    def start(self) -> str:
        self._server.start()
        enter_quickly(self._server.dsn)
        return self._server.dsn

    def stop(self) -> None:
        self._server.stop()


def enter_quickly(dsn: str) -> None:
    """Store the superuser's password anew, for one round of hashing in the place of PostgreSQL's 4,096.

    The rounds are there for passwords that can be guessed, and each connection's client spends 1.3 ms on them: of
    thousands of tests with some connections each that makes a part that is felt. Nothing else differs.
    """
    parts = urlsplit(dsn)
    verifier = scram_verifier(parts.password or "", salt=secrets.token_bytes(16), rounds=1)
    # Not asyncpg: a loop of the test may be set in this thread.
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(parts.username or ""), verifier))


def scram_verifier(password: str, *, salt: bytes, rounds: int) -> str:
    """As PostgreSQL stores it (its source's scram-common.c; RFC 5803): for a password of ASCII characters."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, rounds)
    client_key, server_key = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    told = (salt, hashlib.sha256(client_key).digest(), server_key)
    salt_text, stored_key, server_text = (base64.b64encode(each).decode() for each in told)
    return f"SCRAM-SHA-256${rounds}:{salt_text}${stored_key}:{server_text}"


def choose_lane(environment: Mapping[str, str]) -> Lane:
    """The lane that the environment forces, or the first that can be had; else raises pytest.UsageError."""
    lanes: dict[str, Callable[[], Lane]] = {
        "dsn": lambda: DsnLane(environment),
        "docker": lambda: DockerLane(environment),
        "wheel": lambda: _embedded_lane("wheel"),
        "system": lambda: _embedded_lane("system"),
    }
    forced = environment.get(LANE_VARIABLE)
    if forced and forced not in lanes:
        raise pytest.UsageError(f"{LANE_VARIABLE}={forced} is none of {', '.join(lanes)}")
    reasons = []
    for name in [forced] if forced else lanes:
        try:
            return lanes[name]()
        except Unavailable as reason:
            reasons.append(f"{name}: {reason}")
    raise pytest.UsageError("no PostgreSQL for the tests. " + "; ".join(reasons))


def _embedded_lane(source: str) -> EmbeddedLane:
    for binaries in all_binaries():
        if binaries.source == source:
            return EmbeddedLane(binaries)
    raise Unavailable("no server binaries found")


@functools.cache
def all_binaries() -> tuple[PostgresBinaries, ...]:
    """The best binaries of each major version on this machine, newest first: looked for once a process."""
    best = {each.major: each for each in reversed(find_binaries())}
    return tuple(best[major] for major in sorted(best, reverse=True))


async def _version_of(dsn: str) -> str:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    try:
        return str(await connection.fetchval("show server_version"))
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, as a test sees it: `dsn` is its superuser's, `version` as PostgreSQL writes it."""

    dsn: str
    lane: str
    version: str


class Servers:
    """All servers of this process.

    The main one may belong to another process, which then told its address.
    """

    def __init__(self, *, main: Server | None) -> None:
        self._lane: Lane | None = choose_lane(os.environ) if main is None else None
        self._main = main
        self._others: dict[PostgresBinaries, EmbeddedPostgres] = {}

    @property
    def description(self) -> str:
        lane = self._lane or self._main
        assert lane is not None
        return f"{lane.version} ({lane.lane if isinstance(lane, Server) else lane.name})"

    def main(self) -> Server:
        """The server of the run, started by the first call."""
        if self._main is None:
            assert self._lane is not None
            self._main = Server(dsn=self._lane.start(), lane=self._lane.name, version=self._lane.version)
        return self._main

    def of(self, binaries: PostgresBinaries | None) -> Server:
        """The server of these binaries, started by this process's first call; None means the main one."""
        if binaries is None:
            return self.main()
        main = self.main()
        if (main.lane, main.version) == (binaries.source, binaries.version):
            return main
        if binaries not in self._others:
            server = self._others[binaries] = EmbeddedPostgres(binaries)
            server.start()
            enter_quickly(server.dsn)
        return Server(dsn=self._others[binaries].dsn, lane=binaries.source, version=binaries.version)

    def stop(self) -> None:
        for server in self._others.values():
            server.stop()
        if self._lane is not None:
            self._lane.stop()


@dataclass(slots=True)
class Database:
    """An empty database of the test's own."""

    dsn: str
    name: str
    connections: list[asyncpg.Connection[asyncpg.Record]] = field(default_factory=list)

    async def connect(self, **options: Any) -> asyncpg.Connection[asyncpg.Record]:  # Any: asyncpg.connect's own
        """A new connection with asyncpg's options; it is closed at the end of the test."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(self.dsn, **options)
        self.connections.append(connection)
        return connection

    async def close(self) -> None:
        for connection in self.connections:
            try:
                await connection.close(timeout=CLOSE_TIMEOUT_S)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()  # the test killed the backend or the server: there is nobody to say goodbye to
