"""Where the bench keeps what it makes: compiled programs and installed peers in a cache, results in a folder.

Both lie in the checkout and out of the repository. The C programs are compiled when their source has changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CACHE = ROOT / ".bench_cache"
PYTHON_PACKAGES = CACHE / "python"
NODE_PACKAGES = CACHE / "node"
RESULTS = ROOT / "bench-results"
NATIVE = Path(__file__).resolve().parent / "native"
COMPILE_TIMEOUT_S = 60
PROFILE_VARIABLE = "PGCW_BENCH_PROFILE"  # names the file for a profile of programs/fanout_alone.py
FLAGS = ("-O2", "-std=gnu11", "-D_GNU_SOURCE", "-Wall")


class NoCompiler(Exception):
    """There is no C compiler; the text says what to install."""


def compiled(name: str) -> Path:
    """The program of `native/NAME.c`. Raises NoCompiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise NoCompiler("no C compiler: install one that is found as `cc`, as Debian's package gcc")
    sources = sorted(NATIVE.glob("*.[ch]"))
    identity = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    program = CACHE / "bin" / f"{name}-{identity}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        begun = program.with_suffix(".begun")
        command = [compiler, *FLAGS, str(NATIVE / f"{name}.c"), "-o", str(begun)]
        subprocess.run(command, check=True, timeout=COMPILE_TIMEOUT_S)
        begun.rename(program)
    return program
