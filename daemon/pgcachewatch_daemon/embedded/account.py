"""As whom a PostgreSQL server may run here, and in which temporary folder that account can work.

PostgreSQL refuses to run as root and as a user without a passwd entry. As root it is run as the first of
SERVER_ACCOUNTS that exists; none is created, and no folder is opened for it. Everybody else runs it as
themselves.
"""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.embedded.binaries import WAYS_OUT

SERVER_ACCOUNTS = ("postgres", "nobody")
COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Account:
    """Whom to switch to; only root gets one."""

    name: str
    uid: int
    gid: int


def server_account() -> Account | None:
    """The account to switch to, or None to stay the present user.

    Raises ConfigurationError if neither can be.
    """
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise ConfigurationError(
                f"this process runs as user id {os.geteuid()}, which has no passwd entry, and PostgreSQL "
                f"refuses "
                "that. Run as a user with a name (in a container image: useradd), or set PGCACHEWATCH_DSN"
            ) from None
        return None
    for name in SERVER_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise ConfigurationError(
        f"PostgreSQL refuses to run as root, and there is no account named {' or '.join(SERVER_ACCOUNTS)} to "
        f"run "
        f"it as. Start as another user, or: {WAYS_OUT}"
    )


def temporary_parent(account: Account | None) -> Path:
    """The system's temporary folder, or one of the usual ones if the account can not reach that."""
    candidates = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")]
    for folder in candidates:
        if account is None or all(_lets_everybody_pass(each) for each in (folder, *folder.parents)):
            return folder
    raise ConfigurationError(
        f"account {account.name if account else ''} can reach none of {', '.join(map(str, candidates))}: set "
        f"TMPDIR "
        "to a folder that everybody may enter"
    )


def run_as(account: Account | None, *command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, at most COMMAND_TIMEOUT_S, and return its output as text.

    Raises PermissionError when the account can not reach the program.
    """
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        env=environment,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )


def _lets_everybody_pass(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return False
