"""A folder that the account of an embedded server can reach."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded.account import server_account, temporary_parent


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """As tmp_path, but not below a folder that pytest made for root alone."""
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="pgcachewatch-test-", dir=temporary_parent(account)))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)
