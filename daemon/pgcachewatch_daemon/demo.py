"""`pgcachewatch demo`: an embedded PostgreSQL, the relay and a cached reader, as three processes that may be killed.

This process supervises: it starts the three, starts again whichever dies, and stops all of them on Ctrl-C or SIGTERM.
They are processes, not tasks, because that is how they run in production, and because the point of the demo is that
any of them may be killed with -9 while it goes on. The reader is `pgcachewatch.demo`, a program on the client's public
interface; it is started by name, since the daemon imports nothing of the client but the protocol.

Bounds: one restart of a process per RESTART_PAUSE_S; everything has ended STOP_WITHIN_S after the signal.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

from pgcachewatch_daemon.embedded import EmbeddedPostgres, require_binaries

DEFAULT_PORT = 8420
RESTART_PAUSE_S = 0.3
POLL_S = 0.05
STOP_WITHIN_S = 1.0
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    """One supervised process: how to start it, and the one that runs now."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0

    def start(self) -> None:
        self.started_s = time.monotonic()
        # A session of its own: Ctrl-C reaches only the supervisor, which stops the children in order.
        self.process = subprocess.Popen(
            self.command,
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )

    def stop(self, deadline_s: float) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def _die_with_parent() -> None:
    # Runs between fork and exec: a supervisor that is killed leaves no process behind.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Supervisor:
    """Keeps PostgreSQL, relay and reader running until `stop` is called; `run` returns the exit code."""

    def __init__(self, postgres: EmbeddedPostgres, *, port: int = DEFAULT_PORT) -> None:
        self._postgres = postgres
        self._wanted_port = port
        self._started_s = time.monotonic()
        self._stopping = threading.Event()
        self._children: list[Child] = []

    def stop(self) -> None:
        """May be called from a signal handler."""
        self._stopping.set()

    def run(self) -> int:
        try:
            self._postgres.start()
            port = _free_port(self._wanted_port)
            self._say(
                f"PostgreSQL {self._postgres.binaries.version} on port {self._postgres.port}, pid {self._postgres.pid}"
            )
            self._children = [_relay(self._postgres.dsn, port), _reader(self._postgres.dsn, port, self._started_s)]
            for child in self._children:
                self._start(child)
            self._say(f"to see it: http://127.0.0.1:{port}/")
            return self._supervise()
        finally:
            deadline_s = time.monotonic() + STOP_WITHIN_S
            for child in reversed(self._children):
                child.stop(deadline_s)
            self._postgres.stop()
            self._say("stopped; nothing is left behind")

    def _say(self, text: str) -> None:
        try:
            sys.stdout.write(f"{time.monotonic() - self._started_s:7.1f} s  {text}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever looked has gone, as `head` does: nobody is left to show anything to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self.stop()

    def _start(self, child: Child) -> None:
        child.start()
        assert child.process is not None
        self._say(f"{child.name} started, pid {child.process.pid}")

    def _supervise(self) -> int:
        while not self._stopping.wait(POLL_S):
            if not self._postgres.is_running():
                self._say("PostgreSQL died; starting it again on the same data")
                self._postgres.restart()
                self._say(f"PostgreSQL is back, pid {self._postgres.pid}")
            for child in self._children:
                assert child.process is not None
                code = child.process.poll()
                if code is None or time.monotonic() - child.started_s < RESTART_PAUSE_S:
                    continue
                if code == 1 and child.name == "reader":
                    self._say("the reader ended with an error; see above")
                    return 1
                self._say(f"{child.name} {_how_it_ended(code)}; starting it again")
                self._start(child)
        return 0


def _how_it_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _relay(dsn: str, port: int) -> Child:
    return Child(
        "relay",
        [sys.executable, "-m", "pgcachewatch", "serve", "--port", str(port), "--log-level", "warning"],
        # The environment, not an argument: a DSN has a password in it, and arguments are public.
        {"PGCACHEWATCH_DSN": dsn},
    )


def _reader(dsn: str, port: int, started_s: float) -> Child:
    return Child(
        "reader",
        [sys.executable, "-m", "pgcachewatch.demo", "--relay", f"ws://127.0.0.1:{port}", "--started", str(started_s)],
        {"PGCACHEWATCH_DSN": dsn},
    )


def _free_port(wanted: int) -> int:
    """The wanted port, or any free one when it is taken."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1; end a process that listens there")


def demo(arguments: list[str]) -> int:
    """the relay at work on a PostgreSQL of its own, until Ctrl-C"""
    parser = argparse.ArgumentParser(prog="pgcachewatch demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--postgres", type=int, metavar="MAJOR", help="major version to prefer, as 16 or 18")
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        help="of the relay; 0 or one that is taken: any free one (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    supervisor = Supervisor(EmbeddedPostgres(require_binaries(options.postgres)), port=options.port)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: supervisor.stop())
    return supervisor.run()
