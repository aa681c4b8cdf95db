"""The bill of materials of an image, as CycloneDX 1.6 in JSON: `python deploy/sbom.py [--system DPKG_STATUS]`.

Tells what is installed beside the interpreter that runs it, not what somebody meant to install, and with --system the
Debian packages of the base image. The same input gives the same bytes: no time, no random number. The image has it at
/opt/pgcachewatch/sbom.cdx.json; scanners read that, and so can `docker run --rm --entrypoint cat IMAGE ...`.
"""

import argparse
import json
import platform
import re
import sys
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

SUBJECT = "pgcachewatch"
NAMESPACE = uuid.UUID("6c4c2f0c-5f53-5b8e-9a55-0d6b8f0f2f9e")  # any; says that the rest of the number is ours
EXTRA_MARKER = re.compile(r";.*\bextra\b")
REQUIREMENT_NAME = re.compile(r"^[A-Za-z0-9._-]+")

Json = dict[str, Any]


def bill_of_materials(system: str) -> Json:
    """`system`: the text of dpkg's status file, or nothing."""
    packages = sorted(metadata.distributions(), key=lambda each: normal(each.name))
    subject = next((each for each in packages if normal(each.name) == SUBJECT), None)
    if subject is None:
        raise SystemExit(f"{SUBJECT} is not installed for {sys.executable}; run this with the interpreter that has it")
    components = [interpreter(), *(python_package(each) for each in packages if each is not subject)]
    components += [debian_package(each) for each in debian_entries(system)]
    bill: Json = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": python_package(subject) | {"type": "application"}},
        "components": components,
        "dependencies": dependencies(packages),
    }
    bill["serialNumber"] = f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps(bill, sort_keys=True))}"
    return bill


def python_package(package: metadata.Distribution) -> Json:
    reference = python_reference(package)
    component: Json = {
        "type": "library",
        "bom-ref": reference,
        "name": normal(package.name),
        "version": package.version,
        "purl": reference,
    }
    told = package.metadata.json
    expression, name = told.get("license_expression"), told.get("license")
    if expression:
        component["licenses"] = [{"expression": expression}]
    elif name and "\n" not in name:
        component["licenses"] = [{"license": {"name": name}}]
    return component


def interpreter() -> Json:
    version = platform.python_version()
    purl = f"pkg:generic/python@{version}"
    return {"type": "platform", "bom-ref": purl, "name": "python", "version": version, "purl": purl}


def debian_package(fields: dict[str, str]) -> Json:
    name, version = fields["Package"], fields["Version"]
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}?arch={fields['Architecture']}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def debian_entries(status: str) -> Iterator[dict[str, str]]:
    for entry in status.split("\n\n"):
        fields = dict(re.findall(r"^([A-Za-z-]+): (.*)$", entry, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            yield fields


def dependencies(packages: list[metadata.Distribution]) -> list[Json]:
    """Who needs whom, among what is installed. Extras are left out: nothing installed says which were asked for."""
    references = {normal(each.name): python_reference(each) for each in packages}
    graph = []
    for package in packages:
        names = {
            normal(match[0])
            for text in package.requires or ()
            if (match := REQUIREMENT_NAME.match(text)) and not is_extra(package, text)
        }
        needed = sorted(references[name] for name in names if name in references)
        graph.append({"ref": python_reference(package), "dependsOn": needed})
    return graph


def is_extra(package: metadata.Distribution, requirement: str) -> bool:
    # Of the subject the daemon's packages are extras, and they are what the image is for.
    return normal(package.name) != SUBJECT and EXTRA_MARKER.search(requirement) is not None


def python_reference(package: metadata.Distribution) -> str:
    return f"pkg:pypi/{normal(package.name)}@{package.version}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the bill of materials of this interpreter's packages.")
    parser.add_argument("--system", metavar="FILE", type=Path, help="dpkg's status file, for the Debian packages")
    system = parser.parse_args().system
    bill = bill_of_materials(system.read_text(encoding="utf-8") if system else "")
    json.dump(bill, sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
