"""A file is noticed to be another one, however it was replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.watched_file import SIZE_BYTES, WatchedFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text("one")
    return path


def watched(path: Path) -> WatchedFile:
    file = WatchedFile(str(path), what="tokens_file")
    assert file.read() == "one"
    assert not file.has_changed()
    return file


def test_a_file_that_is_written_in_place_has_changed(path: Path) -> None:
    file = watched(path)
    path.write_text("another")

    assert file.has_changed()
    assert file.read() == "another"
    assert not file.has_changed()


def test_a_file_that_is_moved_over_it_is_another_one_also_with_equal_size_and_time(path: Path) -> None:
    file = watched(path)
    other = path.with_name("new")
    other.write_text("two")
    before = path.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)

    assert file.has_changed()


def test_a_link_that_is_bent_to_another_folder_leads_to_another_file(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "tokens").write_text("one")
    (tmp_path / "now").symlink_to("a")
    (tmp_path / "tokens").symlink_to("now/tokens")
    file = watched(tmp_path / "tokens")
    (tmp_path / "next").symlink_to("b")
    (tmp_path / "next").replace(tmp_path / "now")

    assert file.has_changed()


def test_a_file_that_is_gone_has_changed_once(path: Path) -> None:
    file = watched(path)
    path.unlink()

    assert file.has_changed()
    with pytest.raises(ConfigurationError, match="tokens_file"):
        file.read()
    assert not file.has_changed()
    path.write_text("one")
    assert file.has_changed()


@pytest.mark.parametrize(("content", "part"), [(b"\xff", "UTF-8"), (b"x" * (SIZE_BYTES + 1), "more than")])
def test_what_can_not_be_the_right_file_is_refused(path: Path, content: bytes, part: str) -> None:
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=part):
        WatchedFile(str(path), what="tokens_file").read()
