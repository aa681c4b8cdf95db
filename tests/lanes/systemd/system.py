"""A Debian with systemd, PostgreSQL, and in /opt/pgcachewatch what the relay needs: made once, and kept.

The relay itself is not in it. It is installed when the machine runs, as a wheel of the working tree.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.lanes import debian
from tests.lanes.systemd.machine import Machine
from tests.tidy.tree import ROOT

LOCK = ROOT / "deploy" / "locks" / "daemon.txt"
PACKAGES = ("postgresql", "python3-venv", "systemd-sysv")
HOME = "/opt/pgcachewatch"
HOOKS = (
    f"upload {LOCK} /tmp/lock.txt",
    f'chroot "$1" python3 -m venv {HOME}',
    f'chroot "$1" {HOME}/bin/pip install --quiet --require-hashes -r /tmp/lock.txt',
    # It has no kernel of its own to load modules into.
    'chroot "$1" systemctl mask systemd-modules-load.service',
)


def prepare(cache: Path, suite: str) -> Path:
    """The tree, made anew when what goes into it has changed."""
    content = "\n".join([*PACKAGES, *HOOKS, LOCK.read_text(encoding="utf-8")])
    prefix = f"systemd-{suite}-"
    tree = cache / f"{prefix}{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    if not tree.exists():
        for old in cache.glob(f"{prefix}*"):
            debian.remove(old)
        debian.make(tree, suite=suite, packages=PACKAGES, hooks=HOOKS)
    return tree


def install(machine: Machine) -> None:
    """The working tree, as whoever installs a release would have it."""
    with tempfile.TemporaryDirectory() as folder:
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        (wheel,) = Path(folder).glob("*.whl")
        machine.write(f"/tmp/{wheel.name}", wheel.read_bytes())
    machine.run(f"{HOME}/bin/pip", "install", "--quiet", "--no-index", "--no-deps", f"/tmp/{wheel.name}")
