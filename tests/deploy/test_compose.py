"""compose.yaml as it stands: both versions of Compose read it, nothing is open to the network, no file is missing."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tidy.tree import ROOT

COMPOSE = ROOT / "deploy" / "compose.yaml"
OURS = ("relay", "triggers", "example")


def services() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return loaded


def test_file_has_the_form_that_compose_specifies() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")

    answer = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE], capture_output=True, text=True, check=False
    )

    assert answer.returncode == 0, answer.stdout


def test_old_compose_reads_it_too() -> None:
    """Its dialect is smaller than the specification's: Debian's is 1.29."""
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed; Debian has it as a package of that name")

    answer = subprocess.run([program, "-f", COMPOSE, "config"], capture_output=True, text=True, check=False)

    assert answer.returncode == 0, answer.stderr
    assert set(yaml.safe_load(answer.stdout)["services"]) == set(services())


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]

    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", OURS)
def test_our_containers_can_change_nothing(name: str) -> None:
    service = services()[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_file_that_is_mounted_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in services().values()
        for volume in service.get("volumes", ())
        if volume.startswith(".")
    ]

    assert mounted
    assert [path for path in mounted if not (COMPOSE.parent / path).exists()] == []


def test_relay_connects_with_a_role_that_may_nothing_else() -> None:
    schema = (COMPOSE.parent / "example" / "schema.sql").read_text(encoding="utf-8")
    role = services()["relay"]["environment"]["PGUSER"]

    assert f"CREATE ROLE {role} LOGIN" in schema
    assert f"TO {role}" not in schema


def test_example_runs_with_what_its_image_has() -> None:
    tree = ast.parse((COMPOSE.parent / "example" / "shop.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "deploy/locks/daemon.txt").read_text(), re.MULTILINE))

    assert imported - sys.stdlib_module_names <= locked | {"pgcachewatch"}
