"""The original library (PyPI pgcachewatch 0.4.2, websockets 13) in an environment of its own.

It can not share ours: the name is the same. The environment is made on demand from the hash-locked
`deploy/locks/original.txt`, once per checkout and interpreter, below `.venv/original`; a lock file keeps two workers
from making it at once. `original_python()` gives its interpreter, or raises OriginalUnavailable with the reason when
the packages can not be had, so that what needs it can skip by name.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "deploy" / "locks" / "original.txt"
INSTALL_TIMEOUT_S = 300


class OriginalUnavailable(Exception):
    """The environment can not be made here; the text says why."""


def original_python() -> Path:
    """Interpreter of the environment that holds the original library."""
    identity = hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = ROOT / ".venv" / "original" / identity
    python = home / "bin" / "python"
    home.parent.mkdir(parents=True, exist_ok=True)
    with (home.parent / f"{identity}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        done = home / "installed"
        if not done.exists():
            venv.create(home, with_pip=True, clear=True)
            _install(python)
            done.touch()
    return python


def _install(python: Path) -> None:
    command: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "--requirement", LOCK]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise OriginalUnavailable(f"installing the original took over {INSTALL_TIMEOUT_S} s") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise OriginalUnavailable(f"the original can not be installed: {reason}") from error
