"""What a killed owner may leave behind, and how the next start finds and removes it.

Each embedded server has a folder `pgcachewatch-postgres-*` with a marker file in it, which the owner and its
guard keep locked while either lives. A folder whose marker can be locked has no owner: its server is killed
if one still runs, and the folder is removed. Only folders of the own user are looked at, and only processes
named `postgres` that run as the account of the folder's own data are ever signalled, so that a forged folder
can do no harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER_PREFIX = "pgcachewatch-postgres-"
MARKER_NAME = "owner.lock"
DATA_NAME = "data"
# Between the making of a folder and the locking of its marker it looks like one without an owner.
YOUNGEST_SWEPT_S = 60.0
END_TIMEOUT_S = 5.0
PROC = Path("/proc")


def sweep(parent: Path) -> list[Path]:
    """Remove the folders in `parent` that have no owner any more; return those.

    Skips what it can not remove.
    """
    swept = []
    for folder in parent.glob(f"{FOLDER_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid() and _has_no_owner(folder):
                _end_server_of(folder / DATA_NAME)
                shutil.rmtree(folder)
                swept.append(folder)
    return swept


def lock_marker(folder: Path) -> int:
    """Mark the folder as owned for as long as the returned descriptor, or a copy in a child, is open."""
    descriptor = os.open(folder / MARKER_NAME, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def running_server(data_directory: Path) -> int | None:
    """The process id of the server that runs on this data directory, or None.

    A postmaster.pid is no proof: after a crash it stays, and its number may belong to another program by now.
    """
    try:
        pid = int((data_directory / "postmaster.pid").read_text().split("\n")[0])
    except (OSError, ValueError):
        return None
    return pid if pid > 1 and _program_of(pid) == "postgres" else None


def children_of(pid: int) -> list[int]:
    """Process ids of the direct children, by /proc or else by ps.

    A server's backends leave its process group.
    """
    return [child for child, parent in _processes() if parent == pid]


def _has_no_owner(folder: Path) -> bool:
    try:
        descriptor = os.open(folder / MARKER_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - folder.lstat().st_mtime > YOUNGEST_SWEPT_S
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _end_server_of(data_directory: Path) -> None:
    pid = running_server(data_directory)
    if pid is None or (PROC.is_dir() and (PROC / str(pid)).stat().st_uid != data_directory.stat().st_uid):
        return
    deadline = time.monotonic() + END_TIMEOUT_S
    os.kill(pid, signal.SIGQUIT)
    while running_server(data_directory) == pid and time.monotonic() < deadline:
        time.sleep(0.01)
    if running_server(data_directory) == pid:
        os.kill(pid, signal.SIGKILL)


def _program_of(pid: int) -> str | None:
    if PROC.joinpath("self").exists():
        try:
            state = (PROC / str(pid) / "stat").read_text()
        except OSError:
            return None
        name, _, rest = state.partition("(")[2].rpartition(")")
        return None if rest.split()[0] == "Z" else name
    answer = subprocess.run(["ps", "-p", str(pid), "-o", "comm="], capture_output=True, text=True, check=False)
    return Path(answer.stdout.strip()).name or None


def _processes() -> Iterator[tuple[int, int]]:
    """Pairs of process id and parent's process id."""
    if PROC.joinpath("self").exists():
        for entry in PROC.iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    yield int(entry.name), int(fields[1])
        return
    answer = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
    for line in answer.stdout.splitlines():
        pid, parent = line.split()
        yield int(pid), int(parent)
