"""A file that is read again when it becomes another one.

Looked at by name each time, and told apart by what the file system says of it: so a file that is written in place, one
that is moved over it, and a link that is bent to another folder (as Kubernetes does with secrets) are all noticed.
Bound: SIZE_BYTES, so that a path that leads to a log or a device does not fill the memory.
"""

from __future__ import annotations

import os
from pathlib import Path

from pgcachewatch.errors import ConfigurationError

SIZE_BYTES = 4 * 1_048_576

Signature = tuple[int, int, int, int]


class WatchedFile:
    """`what` names the option in errors."""

    def __init__(self, path: str, *, what: str) -> None:
        self.path = path
        self.what = what
        self._signature: Signature | None = None

    def has_changed(self) -> bool:
        """True when it is not the one that `read` saw last; also once when it is gone."""
        return self._look() != self._signature

    def read(self) -> str:
        """Its text. Raises ConfigurationError, and then it counts as unchanged until it is another one."""
        # Before the reading: what is written meanwhile is another file than the one that was looked at.
        self._signature = self._look()
        try:
            with Path(self.path).open("rb") as file:
                content = file.read(SIZE_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(f"{self.what} {self.path!r} can not be read ({error.strerror})") from error
        if len(content) > SIZE_BYTES:
            raise ConfigurationError(
                f"{self.what} {self.path!r} has more than {SIZE_BYTES} bytes; is it the right file?"
            )
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise ConfigurationError(f"{self.what} {self.path!r} is not UTF-8 text; is it the right file?") from None

    def _look(self) -> Signature | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116  # once a second: without an object for the path
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
