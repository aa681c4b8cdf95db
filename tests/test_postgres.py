"""The tests' own ground: which PostgreSQL they take, and that what a test leaves behind fails it."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests import docker_engine
from tests import postgres as module
from tests.postgres import (
    DEFAULT_IMAGE,
    IMAGE_VARIABLE,
    Database,
    DsnLane,
    EmbeddedLane,
    Server,
    Servers,
    choose_lane,
    scram_verifier,
)
from tests.tidy.tree import ROOT

NOWHERE = "unix:///nowhere"
REAPER = "testcontainers/ryuk:test"


@dataclass
class FakeEngine:
    """What a Docker engine says of its images, over its real protocol: names it has, and names a registry has."""

    has: set[str] = field(default_factory=set)
    registry: set[str] = field(default_factory=set)
    pulled: list[str] = field(default_factory=list)

    def answer(self, address: str) -> tuple[int, object]:
        parts = urlsplit(address)
        if parts.path == "/version":
            return 200, {"ApiVersion": "1.41"}
        if parts.path.endswith("/images/create"):
            query = parse_qs(parts.query)
            name = f"{query['fromImage'][0]}:{query['tag'][0]}"
            self.pulled.append(name)
            self.has |= {name} & self.registry
            return (200, {}) if name in self.registry else (500, {"message": "no route to the registry"})
        name = parts.path.partition("/images/")[2].removesuffix("/json")
        if name in self.has:
            return 200, {"Id": "sha256:0", "Config": {"Env": ["PATH=/bin", "PG_VERSION=18.4"]}}
        return 404, {"message": "no such image"}


async def test_a_password_is_kept_with_one_round_and_no_other_opens_the_server(postgres_server: Server) -> None:
    if postgres_server.lane not in ("wheel", "system"):
        pytest.skip(f"the server of the lane {postgres_server.lane!r} has a password of its own making")
    connection = await asyncpg.connect(postgres_server.dsn)
    try:
        kept = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'")
    finally:
        await connection.close()

    assert kept.startswith("SCRAM-SHA-256$1:")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(postgres_server.dsn, password="guessed")


def test_a_verifier_is_that_of_the_rfc() -> None:
    """RFC 7677, section 3: from its salt and its 4,096 rounds follows the signature that its server sends."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    messages = (
        "n=user,r=rOprNGfwEbeRWgbNEkqO,"
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    server_key = base64.b64decode(scram_verifier("pencil", salt=salt, rounds=4096).rpartition(":")[2])

    signature = hmac.digest(server_key, messages.encode(), "sha256")
    assert base64.b64encode(signature).decode() == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever runs on this machine, no engine is found, and none needs a reaper."""
    from testcontainers.core.config import testcontainers_config

    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    monkeypatch.setattr(testcontainers_config, "tc_properties", {})
    monkeypatch.setenv("DOCKER_HOST", NOWHERE)


@pytest.fixture
def fake_engine(no_engine: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    engine = FakeEngine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = engine.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{server.server_port}")
        yield engine
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("no_engine")
def test_wheel_is_taken_when_nothing_is_named_and_no_engine_answers() -> None:
    assert choose_lane({}).name == "wheel"


def test_engine_that_has_the_image_is_taken_before_the_wheel(fake_engine: FakeEngine) -> None:
    fake_engine.has = {DEFAULT_IMAGE}

    lane = choose_lane({})

    assert (lane.name, lane.version) == ("docker", "18.4")
    assert fake_engine.pulled == []


def test_image_that_the_engine_can_get_is_pulled_under_its_full_name(fake_engine: FakeEngine) -> None:
    fake_engine.has, fake_engine.registry = {"postgres:16"}, {"postgres:17"}

    assert choose_lane({IMAGE_VARIABLE: "postgres:17"}).name == "docker"

    assert fake_engine.pulled == ["postgres:17"]


def test_wheel_is_taken_when_the_engine_can_not_get_the_image(fake_engine: FakeEngine) -> None:
    assert choose_lane({}).name == "wheel"

    assert fake_engine.pulled == [DEFAULT_IMAGE]


def test_forced_engine_that_can_not_get_the_image_fails_and_names_it(fake_engine: FakeEngine) -> None:
    with pytest.raises(pytest.UsageError, match=rf"{DEFAULT_IMAGE} can not be had.*no route to the registry"):
        choose_lane({"PGCW_TEST_PG": "docker"})


def test_engine_without_the_reaper_is_not_taken_and_a_forced_one_says_how_to_do_without(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from testcontainers.core.config import testcontainers_config

    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", False)
    monkeypatch.setattr(testcontainers_config, "ryuk_image", REAPER)
    fake_engine.has = {DEFAULT_IMAGE}

    assert choose_lane({}).name == "wheel"
    with pytest.raises(pytest.UsageError, match=rf"{REAPER} can not be had.*TESTCONTAINERS_RYUK_DISABLED=true"):
        choose_lane({"PGCW_TEST_PG": "docker"})


@pytest.mark.usefixtures("no_engine")
def test_forced_engine_that_does_not_answer_fails_and_says_where_it_was_looked_for() -> None:
    with pytest.raises(pytest.UsageError, match=f"no engine answers at {NOWHERE}.*DOCKER_HOST"):
        choose_lane({"PGCW_TEST_PG": "docker"})


def test_header_names_version_and_lane_before_and_after_the_start(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine.has = {DEFAULT_IMAGE}
    monkeypatch.setattr(os, "environ", {**os.environ, "PGCW_TEST_PG": "docker"})

    assert Servers(main=None).description == "18.4 (docker)"
    assert Servers(main=Server(dsn="", lane="dsn", version="17.9")).description == "17.9 (dsn)"


@pytest.mark.container
def test_docker_lane_runs_a_server_of_its_own_and_leaves_no_container(monkeypatch: pytest.MonkeyPatch) -> None:
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.labels import LABEL_SESSION_ID, SESSION_ID

    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    image = os.environ.get(IMAGE_VARIABLE, DEFAULT_IMAGE)
    with docker_engine.engine_with(image) as client:

        def containers() -> set[str]:
            of_this_process = {"label": f"{LABEL_SESSION_ID}={SESSION_ID}"}
            return {each.id for each in client.containers.list(all=True, filters=of_this_process)}

        before = containers()
        lane = choose_lane({IMAGE_VARIABLE: image, "PGCW_TEST_PG": "docker"})
        try:
            dsn = lane.start()
            assert len(containers() - before) == 1
            assert asyncio.run(shown(dsn, "server_version")) == lane.version
            assert asyncio.run(shown(dsn, "wal_level")) == "logical"
        finally:
            lane.stop()
        assert containers() == before


async def shown(dsn: str, setting: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetchval(f"show {setting}"))
    finally:
        await connection.close()


@pytest.mark.parametrize("forced", ["dsn", "wheel", "system"])
def test_forced_lane_that_can_not_be_had_fails_and_does_not_fall_back(
    forced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "all_binaries", lambda: ())

    with pytest.raises(pytest.UsageError, match=forced):
        choose_lane({"PGCW_TEST_PG": forced})


def test_misspelt_lane_is_refused_with_the_right_spellings() -> None:
    with pytest.raises(pytest.UsageError, match="dsn, docker, wheel, system"):
        choose_lane({"PGCW_TEST_PG": "weel"})


def test_named_server_that_does_not_answer_fails_the_run() -> None:
    with pytest.raises(pytest.UsageError, match="can not be reached"):
        choose_lane({"PGCW_TEST_DSN": "postgresql://nobody@127.0.0.1:1/none"})


def test_named_server_is_taken_before_all_others(private_server: EmbeddedPostgres) -> None:
    lane = choose_lane({"PGCW_TEST_DSN": private_server.dsn})

    assert isinstance(lane, DsnLane)
    assert lane.version.startswith(private_server.binaries.version)
    lane.stop()
    assert private_server.is_running()


def test_server_is_started_by_the_first_request_and_stopped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "PGCW_TEST_PG": "wheel"})
    servers = Servers(main=None)
    lane = servers._lane
    assert isinstance(lane, EmbeddedLane)
    assert not lane._server.is_running()

    first, second = servers.main(), servers.main()
    assert first is second
    assert lane._server.is_running()

    servers.stop()
    assert not lane._server.is_running()


async def test_two_connections_of_a_test_see_one_database(database: Database) -> None:
    one, other = await database.connect(), await database.connect()

    await one.execute("create table seen (id int)")

    assert await other.fetchval("select count(*) from seen") == 0


CARELESS = """
import asyncio, socket, subprocess, sys

async def test_task(): asyncio.get_running_loop().keep = asyncio.create_task(asyncio.sleep(1000), name="forgotten")
async def test_socket(): socket.socket()
async def test_process(): subprocess.Popen([sys.executable, "-c", ""])
async def test_careful(): await asyncio.sleep(0)
"""


def test_task_socket_and_process_that_are_left_behind_fail_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_careless.py").write_text(CARELESS)

    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-c", "pyproject.toml", "-rA", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PGCW_TEST_PG": "wheel"},
        capture_output=True,
        text=True,
        check=False,
    )

    blamed = {
        line.split("::")[1].split()[0] for line in answer.stdout.splitlines() if line.startswith(("ERROR", "FAILED"))
    }
    assert blamed == {"test_task", "test_socket", "test_process"}, answer.stdout


HANGING = """
import time

def test_before(): pass
def test_hanging(): time.sleep(1000)
def test_after(): pass
"""


def test_a_test_that_hangs_says_where_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(HANGING)
    limits = [f"-ofaulthandler_{option}" for option in ("timeout=0.5", "exit_on_timeout=true")]

    answer = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-n1", *limits, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "in test_hanging" in answer.stderr
    assert "1 failed, 2 passed" in answer.stdout
