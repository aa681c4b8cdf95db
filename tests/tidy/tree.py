"""The files of the checkout that the tidy tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE_ROOTS = {
    "client/pgcachewatch": "tests/client",
    "daemon/pgcachewatch_daemon": "tests/daemon",
    "config/pgcachewatch_config": "tests/config",
}
CODE_FOLDERS = ("client", "config", "daemon", "deploy", "tests")
# Made by tools and kept out of the repository by .gitignore.
NOT_OURS = {".git", ".venv", "__pycache__", "dist", "build", "bench-results", "node_modules", ".idea", ".vscode"}
CACHE_SUFFIX = "_cache"


def files(folder: Path = ROOT) -> Iterator[Path]:
    """All files below the folder that belong in the repository."""
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or path.name.endswith(CACHE_SUFFIX) or path.name == ".hypothesis":
            continue
        if path.is_dir() and not path.is_symlink():
            yield from files(path)
        elif path.is_file():
            yield path


def code() -> list[Path]:
    """All Python files of ours."""
    return [path for folder in CODE_FOLDERS for path in files(ROOT / folder) if path.suffix == ".py"]


def name(path: Path) -> str:
    """The path as people write it, from the checkout's root."""
    return path.relative_to(ROOT).as_posix()
