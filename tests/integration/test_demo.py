"""`python -m pgcachewatch demo`, as a stranger runs it: it shows the point, survives kills, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

WITHIN_S = 60.0
# Two that look for the same free port at one time both find it.
COMMAND = [sys.executable, "-m", "pgcachewatch", "demo", "--port", "0"]
POLL_S = 0.05


class RunningDemo:
    """The demo as a process, with its output read from a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "output"
        self._output = self._path.open("wb")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PGCACHEWATCH_")}
        self.process = subprocess.Popen(
            COMMAND,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**environment, "TMPDIR": str(folder)},
        )

    def text(self) -> str:
        return self._path.read_text()

    def wait_for(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """The first match behind position `after`; fails with everything printed so far."""
        deadline_s = time.monotonic() + WITHIN_S
        while (found := re.compile(pattern).search(self.text(), after)) is None:
            assert self.process.poll() is None, f"the demo ended:\n{self.text()}"
            assert time.monotonic() < deadline_s, f"no {pattern!r} in:\n{self.text()}"
            time.sleep(POLL_S)
        return found

    def pid_of(self, name: str, *, after: int = 0) -> int:
        """The newest process of that name, of those announced behind position `after`."""
        self.wait_for(rf" {name} [^\n]*, pid \d+", after=after)
        return int(re.findall(rf" {name} [^\n]*, pid (\d+)", self.text()[after:])[-1])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._output.close()


@pytest.fixture
def demo() -> Iterator[RunningDemo]:
    # Short, and open to the server's own account: a Unix socket's path must fit in 107 bytes.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="demo-") as folder:
        Path(folder).chmod(0o755)
        running = RunningDemo(Path(folder))
        yield running
        running.close()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_invalidations_and_hits_and_leaves_nothing_behind(demo: RunningDemo, number: signal.Signals) -> None:
    demo.wait_for(r"invalidated \d+\.\d ms after commit")
    demo.wait_for(r"hits.*commit to invalidated p50 \d+\.\d+ ms, stale hits 0")
    pids = [demo.pid_of(name) for name in ("PostgreSQL", "relay", "reader")]
    demo.process.send_signal(number)
    assert demo.process.wait(WITHIN_S) == 0
    assert not [pid for pid in pids if is_alive(pid)]
    left = [path for path in demo._path.parent.iterdir() if path != demo._path]
    assert left == []


def test_it_goes_on_by_itself_after_each_part_was_killed(demo: RunningDemo) -> None:
    demo.wait_for("invalidated")
    for name in ("relay", "PostgreSQL", "reader"):
        before = len(demo.text())
        killed = demo.pid_of(name)
        os.kill(killed, signal.SIGKILL)
        assert demo.pid_of(name, after=before) != killed
        again = demo.wait_for("cache is LIVE", after=before).end()
        demo.wait_for(r"invalidated \d+\.\d ms after commit", after=again)
        demo.wait_for("stale hits 0", after=again)


def test_a_killed_supervisor_leaves_no_process_behind(demo: RunningDemo) -> None:
    demo.wait_for("invalidated")
    pids = [demo.pid_of(name) for name in ("PostgreSQL", "relay", "reader")]
    demo.process.kill()
    demo.process.wait()
    deadline_s = time.monotonic() + WITHIN_S
    while left := [pid for pid in pids if is_alive(pid)]:
        assert time.monotonic() < deadline_s, f"still running: {left}"
        time.sleep(POLL_S)


def test_whoever_stops_looking_ends_it_without_a_complaint_and_nothing_is_left() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="demo-") as folder:
        Path(folder).chmod(0o755)
        environment = {**os.environ, "TMPDIR": folder}
        with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            complaint = process.stderr.read()
            assert process.wait(WITHIN_S) == 0
        assert complaint == b""
        assert list(Path(folder).iterdir()) == []
