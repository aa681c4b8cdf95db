"""`make lane-systemd`: the unit under a real systemd that is process 1; ends with what was run.

Needs root, mmdebstrap and control groups of version 2, and says so when one is missing. The first time it makes a
Debian, which it keeps (`make lane-container ARGS=--clean` takes it too). `--wait` runs no test, for who wants a look.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lanes.debian import SUITE, CanNot
from tests.lanes.systemd import system
from tests.lanes.systemd.machine import VARIABLE, Machine, require, running
from tests.tidy.tree import ROOT

CACHE = ROOT / ".container_cache"
LIMIT_S = 1_200
TESTS = "tests/deploy/test_systemd_running.py"
VERSIONS = (("systemctl", "--version"), ("python3", "--version"), ("uname", "-r"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make lane-systemd")
    parser.add_argument("--wait", action="store_true", help="start the machine, and wait to be ended")
    parser.add_argument("--suite", default=SUITE, help=f"of Debian, {SUITE} unless told otherwise")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what was started is ended
    try:
        require()
        tree = system.prepare(CACHE, options.suite)
        with tempfile.TemporaryDirectory() as folder, running(tree, Path(folder, "log")) as machine:
            system.install(machine)
            versions = [machine.run(*words).splitlines()[0] for words in VERSIONS]
            say(f"Debian {options.suite}: {', '.join(versions)}")
            return wait(machine) if options.wait else run(machine)
    except KeyboardInterrupt:
        return 0
    except CanNot as reason:
        sys.stderr.write(f"the systemd lane can not run here: {reason}\n")
        return 1


def wait(machine: Machine) -> int:
    say(f"ready: {' '.join(machine.command('bash'))}; Ctrl-C ends it")
    while True:
        signal.pause()


def run(machine: Machine) -> int:
    """The tests, in the machine's network and otherwise in this one."""
    pytest = [sys.executable, "-m", "pytest", "-q", "--durations=5", TESTS]
    command = ["nsenter", f"--net=/proc/{machine.pid}/ns/net", "--", *pytest]
    environment = {**os.environ, VARIABLE: str(machine.pid)}
    code = subprocess.run(command, cwd=ROOT, env=environment, timeout=LIMIT_S, check=False).returncode
    say("failed" if code else "all passed")
    return 1 if code else 0


def say(text: str) -> None:
    sys.stdout.write(f"[systemd lane] {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
