"""What a run is told, and what each of its processes is told.

A task travels to its process as one JSON argument. Only the standard library is imported here: the reader of the
original library runs in an environment of its own.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

TABLE = "items"
CHANNEL = "ch_pgcachewatch_table_change"

Mode = Literal["direct", "journal"]
MODES: tuple[Mode, ...] = ("direct", "journal")


class Task(Protocol):
    """A frozen dataclass of what JSON can say."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # as the standard library's own stubs have it

    @property
    def name(self) -> str: ...
    @property
    def directory(self) -> str: ...


AnyTask = TypeVar("AnyTask", bound=Task)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """One run of the checker. The same seed gives the same faults at the same times, not the same interleaving."""

    seed: int
    duration_s: float
    directory: Path
    is_original: bool = False
    mode: Mode = "direct"
    staleness_s: float = 2.0
    keys: int = 16
    writers: int = 2
    writes_per_s: float = 60.0  # of each writer
    async_readers: int = 3
    sync_readers: int = 2
    reads_per_s: float = 10_000.0  # of each reader, at most


@dataclass(frozen=True, slots=True)
class WriterTask:
    """`keys` belong to this writer alone, so it knows the next version of each."""

    name: str
    dsn: str
    directory: str
    seed: int
    keys: list[int]
    writes_per_s: float


@dataclass(frozen=True, slots=True)
class ReaderTask:
    """`dsn` is where the cached function reads; `url` is the relay, or for the original's direct path a DSN.

    `is_by_row`: each entry depends on its row, not on the table.
    """

    name: str
    dsn: str
    url: str
    directory: str
    seed: int
    keys: list[int]
    reads_per_s: float
    staleness_s: float
    is_by_row: bool = False


def to_argument(task: Task) -> str:
    return json.dumps(dataclasses.asdict(task))


def from_argument(kind: type[AnyTask], argument: str) -> AnyTask:
    """The task that `to_argument` made."""
    return kind(**json.loads(argument))


@dataclass(frozen=True, slots=True)
class ReaderFiles:
    """Where a reader leaves what it saw."""

    reads: Path
    states: Path
    summary: Path

    @classmethod
    def of(cls, directory: Path | str, name: str) -> ReaderFiles:
        """The files of the reader called `name`."""
        folder = Path(directory)
        return cls(folder / f"{name}.reads", folder / f"{name}.states", folder / f"{name}.summary.json")


def writes_path(directory: Path | str, name: str) -> Path:
    return Path(directory) / f"{name}.writes"
