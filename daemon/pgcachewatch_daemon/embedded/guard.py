"""Stands between the owner of an embedded PostgreSQL and its server, and outlives the owner by the clean-up.

Run as a script with one JSON argument, on the standard library alone. It starts the server, prints the
server's process id, and then waits for the first of three things: the pipe on its standard input ends (the
owner has gone, however it died), the owner writes KEEP (an orderly stop, the owner removes its own files) or
RESTART (the same, and the server will run again), or the server ends by itself. In the first two cases the server
is stopped within `stop_s` + QUIT_S, else killed; before it runs again RESTART_S are given to it, since what did not
end in order recovers as after a crash, and loses what a crash does.

Why a process of its own: a child can be tied to the death of its parent only on Linux, and there to the
parent's thread, so that a server started from a thread pool would die with the pool. A pipe works everywhere.
On Linux the server is tied to this process in addition, which has one thread, in case this one is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NotRequired, TypedDict

KEEP = b"k"
RESTART = b"r"
STOP_S = 1.0  # for a fast shutdown, which takes a checkpoint
RESTART_S = 30.0
QUIT_S = 0.5  # for an immediate one, which recovers at the next start
PR_SET_PDEATHSIG = 1


class Order(TypedDict):
    """What to run: as `account` (uid, gid); `remove` is a folder to delete if the owner vanished."""

    command: list[str]
    environment: dict[str, str]
    log: str
    remove: str
    stop_s: float
    account: NotRequired[tuple[int, int]]


def guard(order: Order) -> int:
    """Run the server until it is not wanted any more; return its exit status (negative: by that signal)."""
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: stops.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = _start(order)
    with contextlib.suppress(BrokenPipeError):  # the owner has gone already: the loop below sees that too
        os.write(sys.stdout.fileno(), b"%d\n" % server.pid)
    owner_said: bytes | None = None
    while server.poll() is None and owner_said is None and not stops:
        ready, _, _ = select.select([sys.stdin.fileno(), wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        if sys.stdin.fileno() in ready:
            owner_said = os.read(sys.stdin.fileno(), 1)
    _stop(server, RESTART_S if owner_said == RESTART else order["stop_s"])
    if owner_said == b"":
        shutil.rmtree(order["remove"], ignore_errors=True)
    return server.returncode


def _start(order: Order) -> subprocess.Popen[bytes]:
    account = order.get("account")
    # Only a process with one thread may run Python between fork and exec, and this is one.
    with Path(order["log"]).open("ab") as log:
        return subprocess.Popen(
            order["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=order["environment"],
            user=account[0] if account else None,
            group=account[1] if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_tie_to_parent(),
        )


def _tie_to_parent() -> Callable[[], None] | None:
    """What makes the kernel stop the server when this process dies; must run after the change of user."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above, so no signal would ever come
            os._exit(1)

    return tie


def _stop(server: subprocess.Popen[bytes], stop_s: float) -> None:
    for number, patience_s in ((signal.SIGINT, stop_s), (signal.SIGQUIT, QUIT_S), (signal.SIGKILL, None)):
        if server.poll() is not None:
            return
        server.send_signal(number)
        try:
            server.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue


if __name__ == "__main__":
    sys.exit(guard(json.loads(sys.argv[1])) & 0xFF)
