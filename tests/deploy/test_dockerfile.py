"""The Dockerfile as it stands, read without an engine: what a linter says, and that it copies what it is given."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pgcachewatch_daemon import tracing
from tests.tidy.tree import ROOT

DOCKERFILE = ROOT / "Dockerfile"
HADOLINT = Path(sys.executable).with_name("hadolint")


def test_linter_finds_nothing() -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint is not in this environment: its package is for Linux on x86-64 only")

    answer = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True, check=False)

    assert (answer.returncode, answer.stdout) == (0, "")


def test_build_context_has_what_the_build_uses() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    used = set(re.findall(r"\bdeploy/[\w./]+", re.sub(r"^#.*", "", DOCKERFILE.read_text(), flags=re.MULTILINE)))

    assert all((ROOT / path).exists() for path in allowed)
    assert {path for path in used if not any(path.startswith(each) for each in allowed)} == set()


def test_extras_that_somebody_is_told_to_build_with_have_a_lock() -> None:
    """By the Dockerfile itself, by the runbook, and by the relay that lacks them."""
    tellers = (DOCKERFILE, ROOT / "deploy/README.md", Path(tracing.__file__))
    told = [set(re.findall(r"\bEXTRAS=(\w+)", teller.read_text())) for teller in tellers]

    assert told == [{"daemon", "otel"}, {"otel"}, {"otel"}]
    assert all((ROOT / f"deploy/locks/{name}.txt").exists() for name in told[0])
    assert DOCKERFILE.read_text().count("deploy/locks/${EXTRAS}.txt") == 2


def test_bytecode_of_every_module_is_made() -> None:
    """By the script of the build, into a folder of its own; the demo and its server are not in the image."""
    target = ROOT / ".bytecode_cache"
    shutil.rmtree(target, ignore_errors=True)
    try:
        subprocess.run(
            [sys.executable, ROOT / "deploy/bytecode.py"],
            env={"PYTHONPYCACHEPREFIX": str(target), "PATH": "/usr/bin:/bin"},
            check=True,
        )
        made = {path.name.split(".")[0] for path in target.rglob("pgcachewatch_*/**/*.pyc")}
    finally:
        shutil.rmtree(target, ignore_errors=True)

    sources = {path for name in ("daemon", "config") for path in (ROOT / name).glob("pgcachewatch_*/**/*.py")}
    left_out = {path.stem for path in sources if "embedded" in path.parts} | {"demo", "__main__"}
    assert {path.stem for path in sources} - left_out <= made


def test_packages_of_an_extra_that_is_not_installed_are_done_without(tmp_path: Path) -> None:
    """The image has no traces: their module can not be imported there, and the build goes on."""
    program = (
        "import sys, runpy; sys.modules['opentelemetry'] = None; "
        f"runpy.run_path({str(ROOT / 'deploy/bytecode.py')!r}, run_name='__main__')"
    )
    environment = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PATH": "/usr/bin:/bin"}

    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stderr
