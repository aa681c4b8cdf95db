"""The locks are in step with pyproject.toml, hold no address, and the client stays thin."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.tidy.tree import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = ROOT / "deploy" / "locks"
LOCKED_EXTRAS = {"dev.txt": ["dev"], "daemon.txt": ["daemon"], "otel.txt": ["daemon", "otel"]}
HEAVY = {
    *("asyncpg", "uvloop", "pydantic_settings", "prometheus_client", "opentelemetry"),
    *("pgcachewatch_daemon", "pgcachewatch_config"),
}


def wanted(extras: list[str]) -> list[Requirement]:
    """What pyproject.toml asks for directly, with its references to its own extras followed."""
    found = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    pending = list(extras)
    while pending:
        for text in PROJECT["project"]["optional-dependencies"][pending.pop()]:
            requirement = Requirement(text)
            if requirement.name == PROJECT["project"]["name"]:
                pending += requirement.extras
            else:
                found.append(requirement)
    return found


def locked(lock: Path) -> dict[str, str]:
    """Version by name."""
    lines = re.findall(r"^([\w.-]+)==([\w.!+-]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


@pytest.mark.parametrize(("name", "extras"), LOCKED_EXTRAS.items())
def test_lock_holds_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    versions = locked(LOCKS / name)
    wrong = [
        str(requirement)
        for requirement in wanted(extras)
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]

    assert wrong == [], "run `make lock`"


def test_build_lock_holds_the_build_backend() -> None:
    versions = locked(LOCKS / "build.txt")

    for requirement in map(Requirement, PROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("name", ["daemon.txt", "otel.txt", "build.txt"])
def test_smaller_lock_agrees_with_the_tested_one(name: str) -> None:
    tested = locked(LOCKS / "dev.txt")

    assert {name: version for name, version in locked(LOCKS / name).items() if tested.get(name) != version} == {}


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.txt")), ids=lambda lock: lock.name)
def test_lock_has_a_hash_for_each_package_and_no_address(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    entries = re.split(r"\n(?=\S)", text.strip())

    assert len(entries) == len(locked(lock)) > 0
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text
    assert not re.search(r"^\s*(?:-i|--(?:extra-)?index-url|--find-links|-f)\b", text, re.MULTILINE)


def test_importing_the_client_loads_nothing_of_the_daemon() -> None:
    program = (
        "import sys, pkgutil, importlib, pgcachewatch\n"
        "from pgcachewatch import errors, models, protocol, strategies, listeners, decorators, utils\n"
        f"sys.exit(' '.join(sorted({HEAVY!r} & set(sys.modules))) or 0)"
    )

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert answer.returncode == 0, f"`import pgcachewatch` loads: {answer.stderr}"


def test_client_needs_two_packages_only() -> None:
    assert {Requirement(text).name for text in PROJECT["project"]["dependencies"]} == {"pydantic", "websockets"}


def test_commands_of_the_daemon_are_found_by_the_client() -> None:
    from importlib.metadata import entry_points

    commands = {command.name: command.value for command in entry_points(group="pgcachewatch.commands")}

    assert commands == PROJECT["project"]["entry-points"]["pgcachewatch.commands"]


def test_the_wheel_has_each_file_of_the_page() -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    page = Path("pgcachewatch_daemon", "page")
    files = {str(page / file.name) for file in (ROOT / "daemon" / page).iterdir()}
    assert len(files) > 5
    assert files <= packed
