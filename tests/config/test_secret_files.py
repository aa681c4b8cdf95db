"""Files of one value each: what is read of them, and who else may read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config.environment import NamedFile
from pgcachewatch_config.secret_files import VALUE_BYTES, exposure, read_value


def named(path: Path) -> NamedFile:
    return NamedFile(str(path), "PGCACHEWATCH_DSN_FILE")


@pytest.mark.parametrize("content", ["text", "text\n", "text\r\n", " text\n\n"])
def test_newlines_at_the_end_are_no_part_of_a_value(tmp_path: Path, content: str) -> None:
    path = tmp_path / "value"
    path.write_bytes(content.encode())
    assert read_value("dsn", named(path)) == content.rstrip("\r\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8"), (b"x" * (VALUE_BYTES + 1), "more than 65536")],
)
def test_a_file_without_a_usable_value_is_named_with_its_variable_and_option(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "value"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=words) as caught:
        read_value("dsn", named(path))
    for part in (str(path), "PGCACHEWATCH_DSN_FILE", "'dsn'"):
        assert part in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_value("dsn", named(tmp_path / "missing"))
    with pytest.raises(ConfigurationError, match="can not be read"):
        read_value("dsn", named(tmp_path))


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_others_may_not_read_a_secret_and_the_group_only_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "value"
    path.write_text("x")
    is_roots = path.stat().st_uid == 0
    for mode, is_exposed in ((0o600, False), (0o400, False), (0o640, not is_roots), (0o604, True), (0o644, True)):
        path.chmod(mode)
        assert bool(exposure(str(path))) == is_exposed, oct(mode)
    assert f"{path} holds a secret" in exposure(str(path))[0]
    monkeypatch.setattr("pgcachewatch_config.secret_files.MOUNTED_BY_ENGINES", tmp_path)
    assert exposure(str(path)) == []
