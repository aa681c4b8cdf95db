"""What the processes of the checker write down while they run: fixed-size records, in files of their own.

One file per reader and one per writer. A reader's file is in the order in which its calls ended; that order is what
lets the analysis stream it. All instants are seconds of CLOCK_MONOTONIC, which on one Linux machine is one clock for
all processes and does not stop for a process that is stopped.

Only the standard library is imported here, because the reader of the original library runs in an environment of its
own. Bounds: a buffer of BUFFER_BYTES per file; a record cut short by a killed process is ignored.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

# key, version, started, ended, kind
READ = struct.Struct("<IIddB")
# key, version, commit called, commit returned
WRITE = struct.Struct("<IIdd")
BUFFER_BYTES = 1 << 16
CHUNK_RECORDS = 1 << 14

HIT = 0  # a call whose value was there, or being made, before the call
RUN = 1  # a call for which the function ran
BARRIER = 2  # not a read: `started` is when the barrier was called, `ended` when it had passed

NEVER_RETURNED = math.inf  # a commit whose connection broke before the answer came


class ReadRecord(NamedTuple):
    """A call of the cached function, or a barrier. A NamedTuple: ten million of them are read per run."""

    key: int
    version: int
    started_s: float
    ended_s: float
    kind: int


class WriteRecord(NamedTuple):
    """A committed row, or one in doubt: `returned_s` is then NEVER_RETURNED."""

    key: int
    version: int
    called_s: float
    returned_s: float


class RecordFile:
    """Appends records of one kind to a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=BUFFER_BYTES)
        self._write = self._file.write
        self.reads = 0

    def read(self, key: int, version: int, started_s: float, ended_s: float, kind: int) -> None:  # hot path
        self._write(READ.pack(key, version, started_s, ended_s, kind))
        self.reads += 1

    def barrier(self, called_s: float, returned_s: float) -> None:
        self._write(READ.pack(0, 0, called_s, returned_s, BARRIER))

    def wrote(self, key: int, version: int, called_s: float, returned_s: float) -> None:
        self._write(WRITE.pack(key, version, called_s, returned_s))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def reads_of(path: Path) -> Iterator[ReadRecord]:
    """The records of a reader, in the order in which the calls ended."""
    return map(ReadRecord._make, _records(path, READ))


def writes_of(path: Path) -> Iterator[WriteRecord]:
    return map(WriteRecord._make, _records(path, WRITE))


def _records(path: Path, layout: struct.Struct) -> Iterator[tuple[float, ...]]:
    with path.open("rb") as file:
        while chunk := file.read(layout.size * CHUNK_RECORDS):
            whole = len(chunk) - len(chunk) % layout.size
            yield from layout.iter_unpack(chunk[:whole])
