"""The supervisor of the demo: whatever dies is started again, and the end leaves nothing.

PostgreSQL is real here; in the place of relay and reader stand programs that a test can tell what to do. The whole
demo, as a stranger runs it, is in tests/integration/test_demo.py.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from pgcachewatch_daemon import demo
from pgcachewatch_daemon.demo import Child, Supervisor
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.postgres import all_binaries
from tests.waiting import wait_until

IDLE = "import threading; print(flush=True); threading.Event().wait()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + IDLE


def program(text: str, name: str = "relay", **environment: str) -> Child:
    return Child(name, [sys.executable, "-c", text], environment)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Performance:
    """A supervisor in a thread, and what it said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        binaries = next(iter(all_binaries()), None)
        if binaries is None:
            pytest.skip("no PostgreSQL server binaries on this machine")
        self._capsys = capsys
        self._said = ""
        self.code: int | None = None
        self.supervisor = Supervisor(EmbeddedPostgres(binaries), port=0)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.code = self.supervisor.run()

    def start(self) -> None:
        self._thread.start()

    def text(self) -> str:
        self._said += self._capsys.readouterr().out
        return self._said

    def wait_for(self, words: str, *, times: int = 1) -> None:
        wait_until(lambda: self.text().count(words) >= times or not self._thread.is_alive())
        assert self.text().count(words) >= times, self.text()

    def pids_of(self, name: str) -> list[int]:
        return [int(pid) for pid in re.findall(rf" {name} .*pid (\d+)", self.text())]

    def end(self) -> None:
        self.supervisor.stop()
        if self._thread.ident is not None:
            self._thread.join()


@pytest.fixture
def performance(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Performance]:
    monkeypatch.setattr(demo, "_relay", lambda dsn, port: program(IDLE, "relay"))
    monkeypatch.setattr(demo, "_reader", lambda dsn, port, started_s: program(IDLE, "reader"))
    performance = Performance(capsys)
    yield performance
    performance.end()


def test_a_killed_child_is_started_again_and_its_death_is_told(performance: Performance) -> None:
    performance.start()
    performance.wait_for("reader started")
    (first,) = performance.pids_of("relay")
    os.kill(first, signal.SIGKILL)
    performance.wait_for("relay was killed by SIGKILL; starting it again")
    performance.wait_for("relay started", times=2)
    again = performance.pids_of("relay")[-1]
    assert again != first
    assert is_alive(again)
    assert len(performance.pids_of("reader")) == 1, "who did not die goes on"


def test_a_killed_postgresql_is_started_again_beside_its_children(performance: Performance) -> None:
    performance.start()
    performance.wait_for("reader started")
    os.kill(performance.pids_of("PostgreSQL")[0], signal.SIGKILL)
    performance.wait_for("PostgreSQL is back, pid")
    assert len(set(performance.pids_of("PostgreSQL"))) == 2
    assert len(performance.pids_of("relay")) == 1


def test_a_child_that_dies_at_once_is_not_started_without_pause(
    performance: Performance, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[float] = []
    start = Child.start

    def remember(child: Child) -> None:
        start(child)
        if child.name == "relay":
            starts.append(child.started_s)

    monkeypatch.setattr(Child, "start", remember)
    monkeypatch.setattr(demo, "_relay", lambda dsn, port: program("raise SystemExit(3)"))
    performance.start()
    performance.wait_for("relay exited with code 3; starting it again", times=2)
    wait_until(lambda: len(starts) >= 3)
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert min(pauses) >= demo.RESTART_PAUSE_S


def test_a_reader_that_found_an_error_ends_the_demo_with_code_1(
    performance: Performance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_reader", lambda dsn, port, started_s: program("raise SystemExit(1)", "reader"))
    performance.start()
    performance.wait_for("the reader ended with an error")
    performance.wait_for("nothing is left behind")
    performance.end()
    assert performance.code == 1
    assert not [pid for name in ("PostgreSQL", "relay") for pid in performance.pids_of(name) if is_alive(pid)]


def test_a_stop_ends_everything_with_code_0(performance: Performance) -> None:
    performance.start()
    performance.wait_for("to see it: http://127.0.0.1:")
    performance.end()
    assert performance.code == 0
    pids = [pid for name in ("PostgreSQL", "relay", "reader") for pid in performance.pids_of(name)]
    assert len(pids) == 3
    assert not [pid for pid in pids if is_alive(pid)]


def test_a_child_that_will_not_go_is_killed_at_the_deadline(capfd: pytest.CaptureFixture[str]) -> None:
    child = program(DEAF)
    child.start()
    assert child.process is not None
    wait_until(lambda: "\n" in capfd.readouterr().out)  # it ignores SIGTERM by now
    child.stop(time.monotonic())
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_goes_by_itself_is_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    child = program("import os; print(os.environ['GIVEN'], os.environ['PATH'], flush=True)", GIVEN="a value")
    child.stop(time.monotonic())  # was never started: nothing to do
    child.start()
    assert child.process is not None
    child.process.wait()
    child.stop(time.monotonic())
    assert child.process.returncode == 0
    assert capfd.readouterr().out == f"a value {os.environ['PATH']}\n", "its environment is ours, and what was added"


def test_no_password_stands_in_the_arguments_of_a_child() -> None:
    dsn = "postgresql://postgres:hunter2@127.0.0.1:1/postgres"
    for child in (demo._relay(dsn, 8420), demo._reader(dsn, 8420, 0.0)):
        assert "hunter2" not in " ".join(child.command)
        assert child.environment == {"PGCACHEWATCH_DSN": dsn}


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wanted = taken.getsockname()[1]
        assert demo._free_port(wanted) not in (0, wanted)


def test_a_port_that_is_free_is_taken_as_wanted() -> None:
    free = {demo._free_port(0) for _ in range(5)}
    assert any(demo._free_port(wanted) == wanted for wanted in free), "one of five may go to somebody else"
