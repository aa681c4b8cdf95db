"""`make lane-container`: the image, compose.yaml and testcontainers on a real engine; ends with what was run.

Needs root and a few of Debian's packages, and names them when they are missing. An engine that answers already is used
as it is; else one is started, and everything of it is gone at the end but the images (`--clean` takes them too).
`--wait` runs no test, for who wants to run one by himself:  make lane-container ARGS=--wait
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests import docker_engine
from tests.lanes.container import images
from tests.lanes.container.engine import engine, require_tools
from tests.lanes.debian import CanNot
from tests.tidy.tree import ROOT

CACHE = ROOT / ".container_cache"
LIMIT_S = 1_200
CONTAINER_TESTS = ["-m", "container", "tests/deploy"]
# PostgreSQL in a container, through testcontainers, for tests that use much of it.
DOCKER_LANE_TESTS = [
    "tests/test_postgres.py",
    "tests/integration/test_client_relay.py",
    "tests/integration/test_roles.py",
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make lane-container")
    parser.add_argument("--clean", action="store_true", help="remove the images that an own engine keeps, and end")
    parser.add_argument("--wait", action="store_true", help="make engine and images ready, and wait to be ended")
    options = parser.parse_args()
    if options.clean:
        shutil.rmtree(CACHE, ignore_errors=True)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what was started is ended
    try:
        with some_engine() as host:
            prepare(host)
            return wait(host) if options.wait else run(host)
    except KeyboardInterrupt:
        return 0
    except CanNot as reason:
        sys.stderr.write(f"the container lane can not run here: {reason}\n")
        return 1


@contextmanager
def some_engine() -> Iterator[str]:
    """DOCKER_HOST of the engine that answers, else of one of our own."""
    try:
        with docker_engine.engine() as client:
            host = str(client.api.base_url)
            say(f"engine {client.version()['Version']}, which was there")
        yield os.environ.get("DOCKER_HOST", host)
    except docker_engine.Unavailable:
        require_tools()
        with engine(CACHE / "engine") as own:
            say("an engine of our own")
            yield own


def prepare(host: str) -> None:
    os.environ["DOCKER_HOST"] = host
    with docker_engine.engine() as client:
        client.api.timeout = LIMIT_S
        for line in images.prepare(client, CACHE):
            say(line)


def wait(host: str) -> int:
    say(f"ready: export DOCKER_HOST={host} TESTCONTAINERS_RYUK_DISABLED=true; Ctrl-C ends it")
    while True:
        signal.pause()


def run(host: str) -> int:
    # testcontainers' reaper is an image too, which can not be pulled; this process ends what it starts.
    environment = {
        **os.environ,
        "DOCKER_HOST": host,
        "TESTCONTAINERS_RYUK_DISABLED": "true",
        docker_engine.REQUIRED_VARIABLE: "1",
    }
    failed = [
        name
        for name, arguments, lane in (
            ("image and compose", CONTAINER_TESTS, "wheel"),
            ("testcontainers", DOCKER_LANE_TESTS, "docker"),
        )
        if not passes(name, arguments, {**environment, "PGCW_TEST_PG": lane})
    ]
    say(f"failed: {', '.join(failed)}" if failed else "all passed")
    return 1 if failed else 0


def passes(name: str, arguments: list[str], environment: dict[str, str]) -> bool:
    say(name)
    command = [sys.executable, "-m", "pytest", "-q", "--durations=5", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=LIMIT_S, check=False).returncode == 0


def say(text: str) -> None:
    sys.stdout.write(f"[container lane] {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
