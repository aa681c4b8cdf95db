"""The files of one embedded server: data directory, password, sockets, log, and the folder they live in.

Invariants. The folder is marked as owned before anything is in it, and `remove` leaves nothing of it. A data
directory that was made by something else, or by another major version, is refused and left as it is.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from pgcachewatch.errors import ConfigurationError, ConnectionFailed
from pgcachewatch_daemon.embedded import leftovers
from pgcachewatch_daemon.embedded.account import Account, run_as, server_account, temporary_parent
from pgcachewatch_daemon.embedded.binaries import WAYS_OUT, PostgresBinaries, copy_binaries

SOCKET_PATH_LIMIT_BYTES = 103  # the smaller of Linux's 107 and macOS's 103
LONGEST_SOCKET_NAME = ".s.PGSQL.65535.lock"
PASSWORD_NAME = "pgcachewatch.password"
SHOWN_OUTPUT_CHARACTERS = 2_000


class Cluster:
    """Prepared files, with nothing running on them yet."""

    def __init__(self, binaries: PostgresBinaries, data_directory: Path | None) -> None:
        """Make the folder and, unless `data_directory` holds one already, the database in it (0.5 s).

        Removes what killed owners left behind first. Raises ConfigurationError or ConnectionFailed, and then
        leaves nothing but what was in `data_directory` before.
        """
        self.account: Account | None = server_account()
        parent = temporary_parent(self.account)
        leftovers.sweep(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=leftovers.FOLDER_PREFIX, dir=parent))
        self.marker = leftovers.lock_marker(self.folder)
        self.binaries = binaries
        self.data_directory = data_directory.absolute() if data_directory else self.folder / leftovers.DATA_NAME
        self.socket_directory = self._usable_socket_directory()
        self.log_file = self.folder / "log"
        self.password = secrets.token_urlsafe(18)
        try:
            self._prepare()
        except BaseException:
            self.remove()
            raise

    @property
    def environment(self) -> dict[str, str]:
        """For the server's programs.

        Not the owner's, where PGDATA, PGPORT or LC_ALL would change what they do.
        """
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "TZ": "UTC",
            "HOME": str(self.folder),
        }

    @property
    def log(self) -> str:
        """The end of what the server wrote, at most SHOWN_OUTPUT_CHARACTERS."""
        try:
            return self.log_file.read_text(errors="replace")[-SHOWN_OUTPUT_CHARACTERS:].strip()
        except OSError:
            return ""

    def remove(self) -> None:
        """Remove the folder; a data directory that was given stays. Harmless when done twice."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.marker >= 0:
            os.close(self.marker)
            self.marker = -1

    def _usable_socket_directory(self) -> Path | None:
        directory = self.folder / "socket"
        return directory if len(os.fsencode(directory / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES else None

    def _prepare(self) -> None:
        if self.account is not None:
            self.folder.chmod(0o711)
            if not self._can_run():
                self.binaries = copy_binaries(self.binaries, self.folder / "binaries")
        for directory in filter(None, (self.data_directory, self.socket_directory)):
            if not directory.exists():
                directory.mkdir(mode=0o700, parents=True)
                self._hand_over(directory)
        if (self.data_directory / "PG_VERSION").exists():
            self.password = self._known_password()
        else:
            self._initialise()

    def _can_run(self) -> bool:
        try:
            postgres = str(self.binaries.bindir / "postgres")
            return run_as(self.account, postgres, "--version", environment=self.environment).returncode == 0
        except PermissionError:
            return False

    def _hand_over(self, path: Path) -> None:
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def _known_password(self) -> str:
        found_major = (self.data_directory / "PG_VERSION").read_text().strip()
        if found_major != str(self.binaries.major):
            raise ConfigurationError(
                f"{self.data_directory} was made by PostgreSQL {found_major}, and the binaries at hand are "
                f"{self.binaries.version}: take binaries of that version, or another folder"
            )
        try:
            return (self.data_directory / PASSWORD_NAME).read_text().strip()
        except FileNotFoundError:
            raise ConfigurationError(
                f"{self.data_directory} holds a database that was not made here, so its password is not "
                f"known: start "
                "it with its own tools and set PGCACHEWATCH_DSN, or name an empty folder"
            ) from None

    def _initialise(self) -> None:
        password_file = self.folder / PASSWORD_NAME
        password_file.touch(mode=0o600)
        password_file.write_text(self.password + "\n")
        self._hand_over(password_file)
        answer = run_as(
            self.account,
            str(self.binaries.bindir / "initdb"),
            *("-D", str(self.data_directory), "-U", "postgres", "-E", "UTF8", "--no-locale"),
            *("--auth=scram-sha-256", f"--pwfile={password_file}", "--no-sync", "--no-instructions"),
            environment=self.environment,
        )
        if answer.returncode != 0:
            raise ConnectionFailed(
                f"initdb of PostgreSQL {self.binaries.version} could not fill {self.data_directory}: "
                f"{(answer.stderr or answer.stdout).strip()[-SHOWN_OUTPUT_CHARACTERS:]}\n"
                f"Mend that, name another folder, or: {WAYS_OUT}"
            )
        shutil.move(password_file, self.data_directory / PASSWORD_NAME)
