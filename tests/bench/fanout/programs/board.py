"""The board of native/board.h from Python: what publisher and load tell one another in a mapped file."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

STAMPS_AT = 64
RECEIVED_AT, SENT_AT = 0, 4


class Board:
    """`has_stamps` tells whether it says when each event left."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 0)
        self.has_stamps = len(self._map) > STAMPS_AT

    @property
    def received(self) -> int:
        """Events that each client has."""
        return int(struct.unpack_from("=I", self._map, RECEIVED_AT)[0])

    @received.setter
    def received(self, events: int) -> None:
        struct.pack_into("=I", self._map, RECEIVED_AT, events)

    @property
    def sent(self) -> int:
        """Events that the publisher has sent."""
        return int(struct.unpack_from("=I", self._map, SENT_AT)[0])

    @sent.setter
    def sent(self, events: int) -> None:
        struct.pack_into("=I", self._map, SENT_AT, events)

    def stamp(self, seq: int, at_ns: int) -> None:
        struct.pack_into("=Q", self._map, STAMPS_AT + 8 * seq, at_ns)

    def stamp_of(self, seq: int) -> int:
        return int(struct.unpack_from("=Q", self._map, STAMPS_AT + 8 * seq)[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()
        self._file.close()


@contextmanager
def new_board(*, stamps: int = 0) -> Iterator[Path]:
    """The file of a new board, with room for so many stamps."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "board"
        with path.open("wb") as file:
            file.truncate(STAMPS_AT + 8 * stamps)
        yield path
