"""Processes: how they are started and ended, and what one and its descendants have used.

CPU time is read in nanoseconds from the scheduler (Linux, /proc/PID/task/TID/schedstat; user and system together),
because the ticks of /proc/PID/stat are too coarse for a server that has little to do.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from tests.bench.fanout.places import ROOT

PROC = Path("/proc")
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 5.0
POLL_S = 0.01
SHOWN_CHARACTERS = 2_000
UNBACKED = ("Pss_Anon:", "Pss_Shmem:")
CALM_US = 3_000.0  # less than this in a tenth of a second is a server at rest
CALM_LOOK_S = 0.1
CALM_LIMIT_S = 20.0


class Failed(Exception):
    """A process did not do what it was started for; the text is what it said."""


def environment(**more: str) -> dict[str, str]:
    """That of a child: ours without the relay's settings, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PGCACHEWATCH_")}
    return {**kept, **more}


class Child(subprocess.Popen[str]):
    """A process whose standard output is ours to read, and whose complaints are kept."""

    def __init__(self, command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> None:
        self._complaints = TemporaryFile("w+b")  # noqa: SIM115  # closed in `end`
        super().__init__(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._complaints.fileno(),
            text=True,
            start_new_session=True,
        )

    def line(self, timeout_s: float = START_TIMEOUT_S) -> str:
        """The next line it prints. Raises Failed when there is none in time."""
        assert self.stdout is not None
        has_line = select.select([self.stdout], [], [], timeout_s)[0]
        line = self.stdout.readline() if has_line else ""
        if not line:
            raise self.failed("said nothing")
        return line

    def failed(self, what: str) -> Failed:
        """The error for a process that did not do its part."""
        handle = self._complaints.fileno()
        said = os.pread(handle, os.fstat(handle).st_size, 0).decode(errors="replace")[-SHOWN_CHARACTERS:].strip()
        name = " ".join(map(str, self.args[:3])) if isinstance(self.args, Sequence) else self.args
        return Failed(f"{name} {what}, exit code {self.poll()}: {said or 'no complaint'}")

    def end(self) -> None:
        """End it and its descendants; harmless when it has ended."""
        members = tree(self.pid) if self.poll() is None else []
        self.terminate()
        try:
            self.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for member in members:
                try:
                    os.kill(member, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it has ended meanwhile
            self.wait()
        if self.stdout is not None:
            self.stdout.close()
        self._complaints.close()


@contextmanager
def child(command: Sequence[str | Path], *, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """A process that is ended with the block."""
    process = Child(command, cwd=cwd, env=environment() if env is None else env)
    try:
        yield process
    finally:
        process.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: Child) -> None:
    """Until somebody listens. Raises Failed when the process ends or takes too long."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(POLL_S)
        else:
            return
    raise process.failed("does not listen on its port")


def tree(pid: int) -> list[int]:
    """The process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
            parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found.extend(parents.get(each, ()))
    return found


def cpu_us(pid: int) -> float:
    """CPU time of the process and its descendants so far."""
    total_ns = 0
    for member in tree(pid):
        try:
            for task in (PROC / str(member) / "task").iterdir():
                total_ns += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # it has ended meanwhile
    return total_ns / 1_000


def kernel_ticks(pid: int) -> tuple[int, int]:
    """Of the ticks of CPU time so far, those in the kernel, and all: coarse, but good for a share."""
    kernel = total = 0
    for member in tree(pid):
        try:
            fields = (PROC / str(member) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile
        kernel += int(fields[12])
        total += int(fields[11]) + int(fields[12])
    return kernel, total


def resident_kb(pid: int) -> float:
    """Memory of the process and its descendants that no file backs; what they share counts once.

    Pages of programs and libraries are left out: they do not depend on clients, and their share here changes with
    every other process on the machine that uses them.
    """
    total_kb = 0
    for member in tree(pid):
        try:
            text = (PROC / str(member) / "smaps_rollup").read_text()
        except OSError:
            continue  # it has ended meanwhile
        total_kb += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(UNBACKED))
    return float(total_kb)


def await_calm(pid: int) -> None:
    """Until a server has nothing left to do after its clients came, so that what follows is due to events alone."""
    deadline_s = time.monotonic() + CALM_LIMIT_S
    before_us = cpu_us(pid)
    while time.monotonic() < deadline_s:
        time.sleep(CALM_LOOK_S)
        now_us = cpu_us(pid)
        if now_us - before_us < CALM_US:
            return
        before_us = now_us
