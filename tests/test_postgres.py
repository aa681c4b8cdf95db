"""The tests' own ground: which PostgreSQL they take, and that what a test leaves behind fails it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests import postgres as module
from tests.postgres import Database, DsnLane, EmbeddedLane, Servers, choose_lane
from tests.tidy.tree import ROOT


@pytest.fixture(autouse=True)
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_problem_with_image", lambda _image: "no engine answers")


def test_wheel_is_taken_when_nothing_is_named_and_no_engine_answers() -> None:
    assert choose_lane({}).name == "wheel"


def test_engine_that_has_the_image_is_taken_before_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_problem_with_image", lambda _image: "")

    assert choose_lane({}).name == "docker"


@pytest.mark.parametrize("forced", ["dsn", "docker", "system"])
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
