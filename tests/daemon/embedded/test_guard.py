"""The guard alone, over stand-ins for the server: what it does when the owner goes, asks, or the server ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded import guard as guard_script
from tests.waiting import LIMIT_S, wait_until

SAYS_READY_THEN_SLEEPS = "print('up', flush=True); import time; time.sleep(1000)"
ENDS_WHEN_TOLD_TWICE = """
import os, signal, sys
def told(*_):
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    print("first", flush=True)
signal.signal(signal.SIGINT, told)
print(os.getpid(), flush=True)
while True:
    signal.pause()
"""
IGNORES_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "
IGNORES_QUITS = "import signal; signal.signal(signal.SIGQUIT, signal.SIG_IGN); "


def started_guard(program: str, folder: Path, *, stop_s: float = LIMIT_S) -> subprocess.Popen[bytes]:
    order: guard_script.Order = {
        "command": [sys.executable, "-c", program],
        "environment": dict(os.environ),
        "log": str(folder / "log"),
        "remove": str(folder / "removed"),
        "stop_s": stop_s,
    }
    (folder / "removed").mkdir()
    guard = subprocess.Popen(
        [sys.executable, guard_script.__file__, json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert guard.stdout is not None
    assert int(guard.stdout.readline()) > 0
    return guard


def test_owner_that_goes_away_stops_the_server_and_its_folder_is_removed(tmp_path: Path) -> None:
    with started_guard(SAYS_READY_THEN_SLEEPS, tmp_path) as guard:
        wait_until((tmp_path / "log").read_text)  # type: ignore[arg-type]  # text is true when there is some
        guard.stdin.close()  # type: ignore[union-attr]  # a pipe, by started_guard

    assert not (tmp_path / "removed").exists()
    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()


def test_owner_that_stops_in_order_keeps_its_folder(tmp_path: Path) -> None:
    with started_guard(SAYS_READY_THEN_SLEEPS, tmp_path) as guard:
        guard.stdin.write(guard_script.KEEP)  # type: ignore[union-attr]  # a pipe, by started_guard

    assert (tmp_path / "removed").exists()


def test_server_that_ends_by_itself_ends_the_guard_with_its_status(tmp_path: Path) -> None:
    with started_guard("raise SystemExit(7)", tmp_path) as guard:
        assert guard.wait() == 7

    assert (tmp_path / "removed").exists()


@pytest.mark.parametrize(
    ("deafness", "ended_by"),
    [("", 2), (IGNORES_INTERRUPTS, signal.SIGQUIT), (IGNORES_INTERRUPTS + IGNORES_QUITS, signal.SIGKILL)],
)
def test_server_that_does_not_listen_is_ended_by_stronger_signals(tmp_path: Path, deafness: str, ended_by: int) -> None:
    stop_s = 0.1 if deafness else LIMIT_S
    with started_guard(deafness + SAYS_READY_THEN_SLEEPS, tmp_path, stop_s=stop_s) as guard:
        wait_until((tmp_path / "log").read_text)  # type: ignore[arg-type]  # text is true when there is some
        guard.stdin.write(guard_script.KEEP)  # type: ignore[union-attr]  # a pipe, by started_guard
        status = guard.wait()

    # An interrupted Python ends by the signal it was given, so all three are seen as minus the signal's number.
    assert status == -int(ended_by) & 0xFF


def test_server_that_is_to_run_again_is_given_the_time_to_end_in_order(tmp_path: Path) -> None:
    with started_guard(ENDS_WHEN_TOLD_TWICE, tmp_path, stop_s=0.0) as guard:
        wait_until((tmp_path / "log").read_text)  # type: ignore[arg-type]  # text is true when there is some
        guard.stdin.write(guard_script.RESTART)  # type: ignore[union-attr]  # a pipe, by started_guard
        wait_until(lambda: "first" in (tmp_path / "log").read_text())
        os.kill(int((tmp_path / "log").read_text().split()[0]), signal.SIGINT)
        assert guard.wait() == 0

    assert (tmp_path / "removed").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signalled_guard_stops_the_server_first(tmp_path: Path, number: signal.Signals) -> None:
    with started_guard(SAYS_READY_THEN_SLEEPS, tmp_path) as guard:
        wait_until((tmp_path / "log").read_text)  # type: ignore[arg-type]  # text is true when there is some
        guard.send_signal(number)
        guard.wait()

    assert "KeyboardInterrupt" in (tmp_path / "log").read_text()
