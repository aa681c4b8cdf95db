"""Runs one PostgreSQL server for one owner, on 127.0.0.1 and a Unix socket, and removes all of it at the end.

Invariants. The server never outlives its owner, not even one that was killed: see `guard`. Loopback is open
to every local user, so the password is random and connections are checked by scram. What was committed
survives the crash of any process, because it is in the operating system's hands before it is confirmed, but
not a crash of the machine: fsync is off.

All methods block, for START_TIMEOUT_S at most; in asyncio call them through `asyncio.to_thread`. They may be
called from any thread, but by one at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pgcachewatch.errors import ConfigurationError, ConnectionFailed
from pgcachewatch_daemon.embedded import guard as guard_script
from pgcachewatch_daemon.embedded.binaries import WAYS_OUT, PostgresBinaries
from pgcachewatch_daemon.embedded.cluster import Cluster
from pgcachewatch_daemon.embedded.leftovers import children_of, running_server

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = guard_script.STOP_S + guard_script.QUIT_S + 3.0
RESTART_TIMEOUT_S = guard_script.RESTART_S + guard_script.QUIT_S + 3.0
READY_POLL_S = 0.005
READY_LINE = 7  # of postmaster.pid, counted from 0
PORT_ATTEMPTS = 5
# Below the range from which the system takes ports for outgoing connections: in there, a client that tries
# again and again to reach a server that is down would in the end be given the server's own port, and meet
# itself.
PORTS = range(15_000, 32_000)
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "log_timezone": "UTC",
    "max_connections": "200",
    "timezone": "UTC",
    "wal_level": "logical",
}


class EmbeddedPostgres:
    """A server to start, stop, kill and start again; also a context manager.

    Without `data_directory` the data lives in a temporary folder that `stop` removes; with it, `stop` leaves
    the data, and a later object over the same folder finds it again. `settings` are PostgreSQL's, by name.
    Port 0 means a free one, chosen at the first start and kept. Example:

        server = EmbeddedPostgres(require_binaries(), settings={"max_connections": "20"})
    """

    def __init__(
        self,
        binaries: PostgresBinaries,
        *,
        data_directory: Path | None = None,
        settings: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.binaries = binaries
        self._given_data_directory = data_directory
        self._settings = {**SETTINGS, **(settings or {})}
        self._port = port
        self._port_may_change = port == 0
        self._pid = 0
        self._cluster: Cluster | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """`postgresql://` address of the superuser and the database `postgres`, with the password in it."""
        return f"postgresql://postgres:{self._started.password}@127.0.0.1:{self._port}/postgres"

    @property
    def port(self) -> int:
        """TCP port, the same over every restart; 0 before the first start."""
        return self._port

    @property
    def pid(self) -> int:
        """Process id of the postmaster that was started last; 0 before the first start."""
        return self._pid

    @property
    def data_directory(self) -> Path:
        return self._started.data_directory

    @property
    def socket_directory(self) -> Path | None:
        """Folder of the Unix socket, or None where its path would be too long for one."""
        return self._started.socket_directory

    @property
    def log(self) -> str:
        """The end of what the server wrote, some 2,000 characters."""
        return self._started.log

    @property
    def _started(self) -> Cluster:
        if self._cluster is None:
            raise ConfigurationError("this embedded PostgreSQL was not started, or was stopped: call start() first")
        return self._cluster

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the data directory if there is none, start the server, and return when it takes connections.

        Also after `kill` or a crash, with the same data, port and password. Raises ConnectionFailed with the
        end of the server's log when it does not come up, ConfigurationError when it can not; then nothing is
        left.
        """
        if self.is_running():
            raise ConfigurationError(f"the embedded PostgreSQL runs already, as process {self._pid}: call restart()")
        try:
            self._halt()
            if self._cluster is None:
                self._cluster = Cluster(self.binaries, self._given_data_directory)
            self._start_on_a_free_port(self._cluster)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server within STOP_TIMEOUT_S and remove its files.

        Does nothing if it was stopped before.
        """
        self._halt()
        if self._cluster is not None:
            self._cluster.remove()
            self._cluster = None

    def restart(self) -> None:
        """An orderly stop, if it runs, and a start with the same data, port and password."""
        self._halt(guard_script.RESTART, RESTART_TIMEOUT_S)
        self.start()

    def kill(self) -> None:
        """SIGKILL for the postmaster and all its children at once, as in a crash; returns when it is gone."""
        if self._guard is None or not self.is_running():
            raise ConfigurationError("the embedded PostgreSQL does not run, so it can not be killed: call start()")
        _kill_family(self._pid)
        self._guard.wait(STOP_TIMEOUT_S)

    def is_running(self) -> bool:
        """Whether the postmaster lives; it may still be on its way down.

        Its connections are another matter.
        """
        return self._guard is not None and self._guard.poll() is None

    def _start_on_a_free_port(self, cluster: Cluster) -> None:
        for _ in range(PORT_ATTEMPTS):
            if self._port_may_change:
                self._port = _free_port()
            if self._comes_up(cluster):
                self._port_may_change = False
                return
            if not self._port_may_change or "could not bind" not in cluster.log:
                break
        raise ConnectionFailed(
            f"PostgreSQL {self.binaries.version} did not come up on port {self._port}; its log ends with:\n"
            f"{cluster.log}\nMend that, or: {WAYS_OUT}"
        )

    def _comes_up(self, cluster: Cluster) -> bool:
        """Start the guard and through it the server; True once it takes connections, False if it ends."""
        self._remove_stale_pid_file(cluster)
        self._guard = _start_guard(cluster, self._command(cluster))
        assert self._guard.stdout is not None
        answer = self._guard.stdout.readline()
        if not answer:
            return False
        self._pid = int(answer)
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.is_running() and time.monotonic() < deadline:
            if _is_ready(cluster.data_directory, self._pid):
                return True
            time.sleep(READY_POLL_S)
        self._halt()
        return False

    def _command(self, cluster: Cluster) -> list[str]:
        places = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": str(cluster.socket_directory or ""),
        }
        options = [f"--{name}={value}" for name, value in {**self._settings, **places}.items()]
        return [str(cluster.binaries.bindir / "postgres"), "-D", str(cluster.data_directory), *options]

    def _remove_stale_pid_file(self, cluster: Cluster) -> None:
        # PostgreSQL removes the file itself, unless its number belongs to another program by now.
        pid = running_server(cluster.data_directory)
        if pid is not None:
            raise ConfigurationError(
                f"a PostgreSQL server, process {pid}, runs on {cluster.data_directory} already: stop it, or name "
                "another folder"
            )
        (cluster.data_directory / "postmaster.pid").unlink(missing_ok=True)

    def _halt(self, word: bytes = guard_script.KEEP, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server and its guard, in order if they can be; the files stay."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        with guard:  # closes the pipes and reaps
            assert guard.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                guard.stdin.write(word)
                guard.stdin.flush()
            try:
                guard.wait(timeout_s)
            except subprocess.TimeoutExpired:
                _kill_family(self._pid)
                guard.kill()


def _start_guard(cluster: Cluster, command: list[str]) -> subprocess.Popen[bytes]:
    order: guard_script.Order = {
        "command": command,
        "environment": cluster.environment,
        "log": str(cluster.log_file),
        "remove": str(cluster.folder),
        "stop_s": guard_script.STOP_S,
    }
    if cluster.account is not None:
        order["account"] = (cluster.account.uid, cluster.account.gid)
    with cluster.log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guard_script.__file__, json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            pass_fds=(cluster.marker,),
            start_new_session=True,  # so that Ctrl-C reaches the owner alone, who then stops in its own order
        )


def _is_ready(data_directory: Path, pid: int) -> bool:
    # Both: a file left from before a crash says "ready" too, with the pid of the dead.
    try:
        lines = (data_directory / "postmaster.pid").read_text().split("\n")
    except OSError:
        return False
    return lines[0] == str(pid) and len(lines) > READY_LINE and lines[READY_LINE].strip() == "ready"


def _kill_family(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # so that no child is born between the look and the blow
        for each in (*children_of(pid), pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)


def _free_port() -> int:
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
