"""Formatting, lint, import contracts and types, one test each, so that `python3 tests` covers them too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT

BIN = Path(sys.executable).parent
CHECKS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "."],
    "import contracts": ["lint-imports"],
    "types": ["mypy"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_static_check_passes(check: str) -> None:
    program, *arguments = CHECKS[check]

    answer = subprocess.run(
        [BIN / program, *arguments], cwd=ROOT, capture_output=True, text=True, errors="replace", check=False
    )

    assert answer.returncode == 0, answer.stdout + answer.stderr
