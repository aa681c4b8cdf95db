"""The bill of materials: what is installed is in it, it holds together, and it is the same each time."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.tidy.tree import ROOT

STATUS = """\
Package: libssl3t64
Status: install ok installed
Architecture: amd64
Version: 3.5.1-1+deb13u1
Description: Secure Sockets Layer toolkit
 more text

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """By two runs."""
    status: Path = tmp_path_factory.mktemp("dpkg") / "status"
    status.write_text(STATUS)
    command = [sys.executable, str(ROOT / "deploy/sbom.py"), "--system", str(status)]
    return [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]


@pytest.fixture(scope="module")
def bill(printed: list[str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(printed[0])
    return loaded


def test_same_packages_give_the_same_bytes(printed: list[str]) -> None:
    assert printed[0] == printed[1]


def test_bill_has_what_cyclonedx_demands(bill: dict[str, Any]) -> None:
    components = [bill["metadata"]["component"], *bill["components"]]

    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    assert bill["serialNumber"].startswith("urn:uuid:")
    assert all(each["type"] in {"application", "library", "platform"} and each["name"] for each in components)


def test_every_package_installed_is_listed_once(bill: dict[str, Any]) -> None:
    listed = [each["name"] for each in bill["components"] if each["purl"].startswith("pkg:pypi/")]
    installed = {each.name.lower().replace("_", "-").replace(".", "-") for each in metadata.distributions()}

    assert len(listed) == len(set(listed))
    assert {*listed, bill["metadata"]["component"]["name"]} == installed


def test_references_lead_to_components(bill: dict[str, Any]) -> None:
    references = [bill["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in bill["components"])]
    pointed_at = {each["ref"] for each in bill["dependencies"]}
    pointed_at |= {reference for each in bill["dependencies"] for reference in each["dependsOn"]}

    assert len(references) == len(set(references))
    assert pointed_at <= set(references)


def test_what_the_relay_needs_is_told(bill: dict[str, Any]) -> None:
    subject = bill["metadata"]["component"]["bom-ref"]
    needs = next(each["dependsOn"] for each in bill["dependencies"] if each["ref"] == subject)

    assert {reference.partition("@")[0].removeprefix("pkg:pypi/") for reference in needs} >= {"asyncpg", "websockets"}


def test_debian_packages_that_are_installed_are_listed(bill: dict[str, Any]) -> None:
    debian = [each["purl"] for each in bill["components"] if each["purl"].startswith("pkg:deb/")]

    assert debian == ["pkg:deb/debian/libssl3t64@3.5.1-1%2Bdeb13u1?arch=amd64"]
