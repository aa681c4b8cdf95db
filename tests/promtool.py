"""Prometheus' own checker, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here; Debian has it in `prometheus`")


def promtool(*arguments: str | Path, given: bytes = b"") -> str:
    """What it says; AssertionError when it finds fault, warnings of its linter included."""
    assert PROMTOOL is not None, "mark the test with needs_promtool"
    command = [PROMTOOL, *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said
