"""Files that hold the value of one option each, mostly a secret that a container is handed.

Bound: VALUE_BYTES, should somebody name a file that is none of that kind.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config.environment import NamedFile

VALUE_BYTES = 65_536
# Engines mount secrets here for all users of a container, which has only one.
MOUNTED_BY_ENGINES = Path("/run/secrets")


def read_value(name: str, named: NamedFile) -> str:
    """The file's text without the newline at its end. Raises ConfigurationError."""
    try:
        with Path(named.path).open("rb") as file:
            content = file.read(VALUE_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(_sentence(name, named, f"can not be read ({error.strerror})")) from error
    except UnicodeDecodeError:
        raise ConfigurationError(_sentence(name, named, "is not UTF-8 text")) from None  # the cause would show it
    if not text:
        raise ConfigurationError(_sentence(name, named, "is empty"))
    if len(content) > VALUE_BYTES:
        raise ConfigurationError(_sentence(name, named, f"has more than {VALUE_BYTES} bytes"))
    return text


def exposure(path: str) -> list[str]:
    """A sentence when others than the relay's user may read the file. The group may when it is root's, as in libpq."""
    if os.name != "posix":
        return []
    place = Path(path).absolute()
    found = place.stat()
    private = stat.S_IROTH if found.st_uid == 0 else stat.S_IROTH | stat.S_IRGRP
    if not found.st_mode & private or place.is_relative_to(MOUNTED_BY_ENGINES):
        return []
    return [
        f"the file {path} holds a secret, and others may read it (mode {stat.S_IMODE(found.st_mode):04o}); chmod 600"
    ]


def _sentence(name: str, named: NamedFile, what: str) -> str:
    return f"the file {named.path}, named by {named.variable} for option {name!r}, {what}; check path, mode and content"
