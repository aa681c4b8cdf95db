"""The files of a server: what is refused, what is handed over, and that nothing stays when it goes wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError, ConnectionFailed
from pgcachewatch_daemon.embedded import binaries as binaries_module
from pgcachewatch_daemon.embedded import cluster as module
from pgcachewatch_daemon.embedded import require_binaries
from pgcachewatch_daemon.embedded.binaries import PostgresBinaries, copy_binaries
from pgcachewatch_daemon.embedded.cluster import Cluster


@pytest.fixture
def parent(reachable_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the clusters of a test are made, so that it can look at all that is left."""
    monkeypatch.setattr(module, "temporary_parent", lambda _account: reachable_folder)
    return reachable_folder


def test_made_cluster_has_its_files_in_one_folder_and_remove_leaves_none(parent: Path) -> None:
    cluster = Cluster(require_binaries(), None)
    entries = {path.name for path in cluster.folder.iterdir()}

    cluster.remove()
    cluster.remove()

    assert {"data", "socket", "owner.lock"} <= entries
    assert list(parent.iterdir()) == []


def test_password_is_not_left_outside_the_data_directory(parent: Path) -> None:
    cluster = Cluster(require_binaries(), None)
    readable = [path for path in cluster.folder.iterdir() if path.is_file() and cluster.password in path.read_text()]
    cluster.remove()

    assert readable == []


def test_failing_initdb_is_reported_with_its_words_and_leaves_nothing(parent: Path) -> None:
    bindir = parent / "bin"
    bindir.mkdir()
    for name, script in {"postgres": "exit 0", "initdb": "echo no room on disk >&2; exit 1"}.items():
        (bindir / name).write_text(f"#!/bin/sh\n{script}\n")
        (bindir / name).chmod(0o755)

    with pytest.raises(ConnectionFailed, match="no room on disk"):
        Cluster(PostgresBinaries(source="system", bindir=bindir, version="99.1"), None)

    assert list(parent.iterdir()) == [bindir]


def test_folder_whose_socket_path_would_be_too_long_does_without_a_socket(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = parent / ("d" * module.SOCKET_PATH_LIMIT_BYTES)
    deep.mkdir()
    monkeypatch.setattr(module, "temporary_parent", lambda _account: deep)

    cluster = Cluster(require_binaries(), None)
    cluster.remove()

    assert cluster.socket_directory is None


def test_database_of_somebody_else_is_refused_and_left_alone(parent: Path) -> None:
    binaries = require_binaries()
    data_directory = parent / "theirs"
    data_directory.mkdir()
    (data_directory / "PG_VERSION").write_text(f"{binaries.major}\n")

    with pytest.raises(ConfigurationError, match="not made here"):
        Cluster(binaries, data_directory)

    assert [path.name for path in data_directory.iterdir()] == ["PG_VERSION"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another account")
def test_binaries_that_the_account_can_not_reach_are_copied(parent: Path, tmp_path: Path) -> None:
    wheel = next(each for each in binaries_module.find_binaries() if each.source == "wheel")
    closed = tmp_path / "closed"
    hidden = copy_binaries(wheel, closed)
    closed.chmod(0o700)

    cluster = Cluster(hidden, None)
    used = cluster.binaries.bindir
    cluster.remove()

    assert used.is_relative_to(cluster.folder)
    assert not used.exists()
