"""A hot standby of a private server: a copy by pg_basebackup, run by our own launcher, that follows its primary.

Replay can be paused, which makes it lag for as long as a test wants. The copy has the primary's password, and lies in a
folder of its own that is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.embedded.account import server_account, temporary_parent
from tests.waiting import eventually

BACKUP_TIMEOUT_S = 60.0


@contextmanager
def hot_standby(primary: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """A running standby of `primary`; skips the test where the program that makes one is missing."""
    program = primary.binaries.bindir / "pg_basebackup"
    if not program.exists():
        pytest.skip(f"no pg_basebackup beside the server's binaries in {primary.binaries.bindir}")
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="pgcw-standby-", dir=temporary_parent(account)))
    try:
        data = folder / "data"
        subprocess.run(
            [program, "-D", data, "-d", primary.dsn, "--write-recovery-conf", "--checkpoint=fast", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=BACKUP_TIMEOUT_S,
        )
        if account is not None:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        with EmbeddedPostgres(primary.binaries, data_directory=data) as standby:
            yield standby
    finally:
        shutil.rmtree(folder)


async def pause_replay(connection: asyncpg.Connection) -> None:
    """From when this returns on the standby shows nothing new."""
    await connection.execute("SELECT pg_wal_replay_pause()")

    async def is_paused() -> bool:
        return bool(await connection.fetchval("SELECT pg_get_wal_replay_pause_state() = 'paused'"))

    await eventually(is_paused)


async def resume_replay(connection: asyncpg.Connection) -> None:
    """Go on."""
    await connection.execute("SELECT pg_wal_replay_resume()")
