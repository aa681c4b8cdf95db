"""From a bare Python to a ready environment: when it is made, made again, left alone, and refused.

Installing is replaced by writing a file, so these run without a network; `python3 tests` itself is the whole
test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy import bootstrap
from tests.waiting import LIMIT_S

ROOT = Path(bootstrap.__file__).parent.parent
PARALLEL = ["-n", "auto", "--maxprocesses", "8", "-o", "faulthandler_exit_on_timeout=true"]


class Installer:
    """Stands in for venv, pip and uv; counts its runs and can be told to fail or to be slow."""

    def __init__(self) -> None:
        self.runs = 0
        self.before: Callable[[], None] = lambda: None

    def __call__(self, environment: Path) -> None:
        self.runs += 1
        (environment / "bin").mkdir()
        self.before()
        (environment / "bin" / "python").touch()


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Installer:
    installer = Installer()
    monkeypatch.setattr(bootstrap, "_install", installer)
    return installer


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PGCACHEWATCH_VENV", str(tmp_path / "environment"))
    return tmp_path / "environment"


def test_first_start_installs_and_second_does_not(installer: Installer, environment: Path) -> None:
    first = bootstrap.ready_python()
    second = bootstrap.ready_python()

    assert first == second == environment / "bin" / "python"
    assert installer.runs == 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("disk full"), bootstrap.SetupFailed("no network")])
def test_interrupted_set_up_is_done_again(installer: Installer, environment: Path, failure: BaseException) -> None:
    def fail() -> None:
        raise failure

    installer.before = fail
    with pytest.raises((KeyboardInterrupt, bootstrap.SetupFailed)):
        bootstrap.ready_python()
    installer.before = lambda: None

    assert bootstrap.ready_python().exists()
    assert installer.runs == 2


@pytest.mark.parametrize("what", ["interpreter", "lock file", "packaging", "place of the checkout"])
def test_environment_made_from_something_else_is_made_again(
    installer: Installer, environment: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    bootstrap.ready_python()
    (environment / "left-from-before").touch()
    changed = {**bootstrap._wanted_stamp(), what: "another"}
    monkeypatch.setattr(bootstrap, "_wanted_stamp", lambda: changed)

    bootstrap.ready_python()

    assert installer.runs == 2
    assert not (environment / "left-from-before").exists()


def test_environment_whose_python_vanished_is_made_again(installer: Installer, environment: Path) -> None:
    bootstrap.ready_python().unlink()

    assert bootstrap.ready_python().exists()
    assert installer.runs == 2


def test_environment_of_somebody_else_is_left_alone(installer: Installer, environment: Path) -> None:
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "precious").touch()

    with pytest.raises(bootstrap.SetupFailed, match="left alone"):
        bootstrap.ready_python()

    assert (environment / "bin" / "precious").exists()
    assert installer.runs == 0


def test_two_starts_at_once_install_once(installer: Installer, environment: Path) -> None:
    second_waits = threading.Event()
    installer.before = lambda: assert_soon(second_waits)
    starts = [threading.Thread(target=bootstrap.ready_python) for _ in range(2)]
    said = bootstrap.say

    def say(text: str) -> None:
        said(text)
        if "waiting" in text:
            second_waits.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "say", say)
        for start in starts:
            start.start()
        for start in starts:
            start.join()

    assert installer.runs == 1


def test_folder_that_can_not_be_written_is_reported_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGCACHEWATCH_VENV", str(tmp_path / "file" / "environment"))

    with pytest.raises(bootstrap.SetupFailed, match="PGCACHEWATCH_VENV"):
        bootstrap.ready_python()


def test_python_without_ensurepip_and_uv_is_told_how_to_get_one(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(bootstrap.SetupFailed, match="apt install python3-venv"):
        bootstrap.ready_python()


def test_failing_step_is_shown_with_its_last_lines() -> None:
    program = "print(*range(100), sep=chr(10)); print('the cause'); raise SystemExit(3)"

    with pytest.raises(bootstrap.SetupFailed, match="the cause") as caught:
        bootstrap._call([sys.executable, "-c", program])

    assert "status 3" in str(caught.value)
    assert len(str(caught.value).splitlines()) < bootstrap.KEPT_OUTPUT_LINES + 10


def test_too_old_python_ends_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 8, 0))
    monkeypatch.setattr("shutil.which", lambda _name: None)

    with pytest.raises(SystemExit) as caught:
        bootstrap.require_new_python()

    assert "needs Python 3.11 or newer; this is 3.8" in str(caught.value)


def test_too_old_python_goes_on_under_the_newest_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):
        pass

    def execv(program: str, _arguments: list[str]) -> None:
        raise Replaced(program)

    monkeypatch.setattr(sys, "version_info", (3, 8, 0))
    monkeypatch.setattr("shutil.which", lambda name: f"/made/up/{name}")
    monkeypatch.setattr(bootstrap, "_answers", lambda python: python.endswith(("3.12", "3.11")))
    monkeypatch.setattr(os, "execv", execv)

    with pytest.raises(Replaced, match=r"/made/up/python3\.12"):
        bootstrap.require_new_python()


@pytest.mark.parametrize(
    ("variables", "arguments", "command"),
    [
        ({}, [], ["demo"]),
        ({"PGCACHEWATCH_DSN": "postgresql://made-up"}, ["--port", "1"], ["serve", "--port", "1"]),
        ({}, ["--port", "1"], ["demo", "--port", "1"]),
        ({}, ["--dsn=postgresql://made-up"], ["serve", "--dsn=postgresql://made-up"]),
    ],
)
def test_daemon_folder_runs_the_demo_or_serves_the_named_database(
    tmp_path: Path, variables: dict[str, str], arguments: list[str], command: list[str]
) -> None:
    assert run_folder("daemon", arguments, variables, tmp_path) == ["pgcachewatch", command]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], PARALLEL),
        (["-k", "resume", "-x"], [*PARALLEL, "-k", "resume", "-x"]),
        (["-n0"], ["-n0"]),
        (["--pdb"], ["--pdb"]),
    ],
)
def test_tests_folder_runs_pytest_in_parallel_unless_told_otherwise(
    tmp_path: Path, arguments: list[str], command: list[str]
) -> None:
    assert run_folder("tests", arguments, {}, tmp_path) == ["pytest", command]


def assert_soon(event: threading.Event) -> None:
    assert event.wait(LIMIT_S), "the second start never waited for the first"


def run_folder(folder: str, arguments: list[str], variables: dict[str, str], scratch: Path) -> object:
    """What `python3 folder arguments` would become, told by a stand-in for bootstrap.run."""
    program = (
        "import sys, runpy, json; sys.path.insert(0, sys.argv.pop(1)); import bootstrap; "
        "bootstrap.run = lambda module, arguments, *_: print(json.dumps([module, arguments])); "
        "folder = sys.argv.pop(1); sys.argv[0] = folder; runpy.run_path(folder, run_name='__main__')"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, str(ROOT / "deploy"), str(ROOT / folder), *arguments],
        env={**os.environ, "PGCACHEWATCH_DSN": "", **variables},
        cwd=scratch,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(answer.stdout)
