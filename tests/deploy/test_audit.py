"""What the audit lane makes of what pip-audit says, told by a program in its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.lanes import audit

CLEAN = {"name": "asyncpg", "version": "1", "vulns": []}
UNASKED = {"name": "uvloop", "skip_reason": "not found"}
VULNERABLE = {"name": "pyjwt", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # a function
    """Puts a pip-audit onto the PATH that prints this and ends so."""

    def put(output: str, *, code: int = 0, error: str = "") -> None:
        program = tmp_path / "pip-audit"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.stdout.write({output!r})\nsys.stderr.write({error!r})\n"
            f"assert any(each.endswith('otel.txt') for each in sys.argv)\nsys.exit({code})\n"
        )
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(audit.REQUIRED_VARIABLE, raising=False)
    return put


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


def test_clean_packages_pass(says: Any, capsys: pytest.CaptureFixture[str]) -> None:
    says(report(CLEAN))

    assert audit.main() == 0
    assert "1 packages audited, 0 known vulnerabilities" in capsys.readouterr().out


def test_vulnerability_fails_and_is_named_with_its_remedy(says: Any, capsys: pytest.CaptureFixture[str]) -> None:
    says(report(CLEAN, VULNERABLE), code=1)

    assert audit.main() == 1
    assert "pyjwt 2: PYSEC-1, fixed in 2.1" in capsys.readouterr().out


def test_database_that_knows_no_package_at_all_is_no_clean_result(
    says: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    says(report(UNASKED))

    assert audit.main() == 0
    assert "audit skipped: the database of vulnerabilities can not be asked" in capsys.readouterr().out


def test_audit_of_a_part_fails(says: Any, capsys: pytest.CaptureFixture[str]) -> None:
    says(report(CLEAN, UNASKED))

    assert audit.main() == 1
    assert "not audited: uvloop" in capsys.readouterr().out


def test_network_that_is_not_there_skips_with_its_reason(says: Any, capsys: pytest.CaptureFixture[str]) -> None:
    says("", code=1, error="Traceback\nConnectionError: name can not be resolved\n")

    assert audit.main() == 0
    assert "audit skipped: pip-audit failed: ConnectionError: name can not be resolved" in capsys.readouterr().out


def test_skip_fails_where_an_audit_is_required(says: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    says(report(UNASKED))
    monkeypatch.setenv(audit.REQUIRED_VARIABLE, "required")

    assert audit.main() == 1
