"""Where the bench keeps what it makes: compiled programs and installed peers in a cache, results in a folder.

Both lie in the checkout and out of the repository. The C programs are compiled when their source has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# A checkout that can not be written to keeps nothing.
ELSEWHERE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgcachewatch-bench"
CACHE = ROOT / ".bench_cache" if os.access(ROOT, os.W_OK) else ELSEWHERE
PYTHON_PACKAGES = CACHE / "python"
NODE_PACKAGES = CACHE / "node"
RESULTS = ROOT / "bench-results"
NATIVE = Path(__file__).resolve().parent / "native"
COMPILE_TIMEOUT_S = 60
PROFILE_VARIABLE = "PGCW_BENCH_PROFILE"  # names the file for a profile of programs/fanout_alone.py
FLAGS = ("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall")


class NoCompiler(Exception):
    """The programs can not be made here; the text says why, and what to install."""


def compiled(name: str) -> Path:
    """The program of `native/NAME.c`. Raises NoCompiler."""
    if sys.platform != "linux":
        raise NoCompiler("the bench's programs are for Linux: they use epoll and futexes")
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompiler("no C compiler: install one that is found as `cc`, as Debian's package gcc")
    sources = sorted(NATIVE.glob("*.[ch]"))
    parts = [*(source.read_bytes() for source in sources), repr(FLAGS).encode()]
    identity = hashlib.sha256(b"".join(parts)).hexdigest()[:12]
    program = CACHE / "bin" / f"{name}-{identity}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        begun = program.with_suffix(f".{os.getpid()}")  # another process may be at it too
        command = [compiler, *FLAGS, str(NATIVE / f"{name}.c"), "-o", str(begun)]
        subprocess.run(command, check=True, timeout=COMPILE_TIMEOUT_S)
        begun.rename(program)
    return program
