"""A Docker engine of one's own, on a plain Debian machine where none runs: started by root, gone when it is left.

It touches no firewall (`--iptables=false`), has a bridge of its own, and keeps images in the given folder, so that the
next start finds them. Another engine on the machine is not disturbed. Its limits for containers are named because an
engine asks for more than a container that it runs in itself may give.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lanes.debian import CanNot

BRIDGE = "pgcw-lane0"
BRIDGE_ADDRESS = "10.213.77.1/24"
NETWORKS = "base=10.214.0.0/16,size=24"
ULIMITS = ("nofile=20000:20000", "nproc=4096:4096")
PACKAGES = {"dockerd": "docker.io", "docker-compose": "docker-compose", "mmdebstrap": "mmdebstrap", "ip": "iproute2"}
START_S = 60.0
STOP_S = 30.0
POLL_S = 0.1


def require_tools() -> None:
    """Raises CanNot."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if missing:
        raise CanNot(f"apt-get install --no-install-recommends {' '.join(missing)}")
    if os.geteuid() != 0:
        raise CanNot("an engine has to be started by root")


@contextmanager
def engine(data: Path) -> Iterator[str]:
    """DOCKER_HOST of an engine that answers."""
    scratch = Path(tempfile.mkdtemp(prefix="pgcw-engine-"))  # short: a socket's path has 107 bytes at most
    host = f"unix://{scratch}/docker.sock"
    with _bridge(), (scratch / "log").open("wb") as log:
        process = subprocess.Popen(_command(data, scratch, host), stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(process, host, scratch / "log")
            yield host
        finally:
            _end(process, scratch)


def _command(data: Path, scratch: Path, host: str) -> list[str]:
    return [
        "dockerd",
        "--iptables=false",
        "--ip6tables=false",
        f"--bridge={BRIDGE}",
        f"--default-address-pool={NETWORKS}",
        *(f"--default-ulimit={each}" for each in ULIMITS),
        f"--data-root={data}",
        f"--exec-root={scratch}/exec",
        f"--pidfile={scratch}/dockerd.pid",
        f"--host={host}",
    ]


@contextmanager
def _bridge() -> Iterator[None]:
    subprocess.run(["ip", "link", "del", BRIDGE], check=False, capture_output=True)  # of a lane that was killed
    subprocess.run(["ip", "link", "add", BRIDGE, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "address", "add", BRIDGE_ADDRESS, "dev", BRIDGE], check=True)
        subprocess.run(["ip", "link", "set", BRIDGE, "up"], check=True)
        yield
    finally:
        subprocess.run(["ip", "link", "del", BRIDGE], check=False)


def _wait(process: subprocess.Popen[bytes], host: str, log: Path) -> None:
    import docker

    deadline_s = time.monotonic() + START_S
    while True:
        with contextlib.suppress(docker.errors.DockerException, OSError):
            client = docker.DockerClient(base_url=host, timeout=2)
            try:
                client.ping()
                return
            finally:
                client.close()
        if process.poll() is not None or time.monotonic() > deadline_s:
            last = log.read_text(errors="replace").splitlines()[-5:]
            raise CanNot("dockerd does not start:\n" + "\n".join(last))
        time.sleep(POLL_S)


def _end(process: subprocess.Popen[bytes], scratch: Path) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the containerd that it started
        process.wait()
    for mount in (scratch / "exec/netns").glob("*"):
        subprocess.run(["umount", str(mount)], check=False, capture_output=True)
    shutil.rmtree(scratch, ignore_errors=True)
