"""The sweep removes what has no owner, and only that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded import leftovers
from pgcachewatch_daemon.embedded.leftovers import FOLDER_PREFIX, MARKER_NAME, children_of, running_server, sweep


def folder_in(parent: Path, *, marked: bool = True) -> Path:
    folder = parent / f"{FOLDER_PREFIX}made-up"
    (folder / "data").mkdir(parents=True)
    if marked:
        os.close(leftovers.lock_marker(folder))
    return folder


def test_folder_without_owner_is_removed(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)

    assert sweep(tmp_path) == [folder]
    assert not folder.exists()


def test_folder_with_a_living_owner_stays(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    marker = leftovers.lock_marker(folder)

    swept = sweep(tmp_path)
    os.close(marker)

    assert swept == []
    assert folder.exists()


def test_new_folder_that_is_not_marked_yet_stays(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, marked=False)

    assert sweep(tmp_path) == []
    assert folder.exists()


def test_old_folder_that_was_never_marked_is_removed(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, marked=False)
    long_ago = time.time() - 2 * leftovers.YOUNGEST_SWEPT_S
    os.utime(folder, (long_ago, long_ago))

    assert sweep(tmp_path) == [folder]


def test_folder_of_another_name_stays(tmp_path: Path) -> None:
    other = tmp_path / "something-else"
    other.mkdir()

    assert sweep(tmp_path) == []
    assert other.exists()


def test_marker_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = folder_in(tmp_path, marked=False)
    target = tmp_path / "target"
    target.touch()
    (folder / MARKER_NAME).symlink_to(target)

    assert sweep(tmp_path) == []


def test_forged_pid_file_makes_the_sweep_signal_nobody(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        (folder / "data" / "postmaster.pid").write_text(f"{bystander.pid}\n")

        assert sweep(tmp_path) == [folder]
        assert bystander.poll() is None
        bystander.kill()

    assert bystander.returncode == -signal.SIGKILL


@pytest.mark.parametrize("content", ["", "no number\n", "-1\n", "0\n", "1\n", "4194305\n"])
def test_pid_file_without_a_living_server_names_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "postmaster.pid").write_text(content)

    assert running_server(tmp_path) is None


def test_children_are_found_by_their_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children_of(os.getpid())
        child.kill()
