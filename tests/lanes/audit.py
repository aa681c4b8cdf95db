"""`make audit`: are vulnerabilities known of the packages that the relay is shipped with?

pip-audit asks a database about each line of deploy/locks/otel.txt; it installs nothing of it. The program is taken
from the PATH, else put into a folder of its own. Where the database can not be reached the lane is skipped and says so:
pip-audit itself calls it clean when it could ask about nothing.

Exit code 0: clean or skipped; 1: vulnerable, or asked about a part only. PGCW_AUDIT=required makes a skip 1 too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tidy.tree import ROOT

LOCK = ROOT / "deploy" / "locks" / "otel.txt"  # which has all of daemon.txt and what traces need
OWN = ROOT / ".audit_cache"
REQUIRED_VARIABLE = "PGCW_AUDIT"
LIMIT_S = 300
SHOWN_CHARACTERS = 200


class Skipped(Exception):
    """Nothing could be asked; the text says why."""


@dataclass(frozen=True)
class Answer:
    """`vulnerable`: one line for each finding. `unasked`: packages that the database was not asked about."""

    asked: int
    vulnerable: tuple[str, ...]
    unasked: tuple[str, ...]


def main() -> int:
    try:
        answer = audit(auditor())
    except Skipped as reason:
        sys.stdout.write(f"audit skipped: {reason}\n")
        return 1 if os.environ.get(REQUIRED_VARIABLE) == "required" else 0
    for line in answer.vulnerable:
        sys.stdout.write(f"{line}\n")
    if answer.unasked:
        sys.stdout.write(f"not audited: {', '.join(answer.unasked)}\n")
    sys.stdout.write(f"{answer.asked} packages audited, {len(answer.vulnerable)} known vulnerabilities\n")
    return 1 if answer.vulnerable or answer.unasked else 0


def auditor() -> str:
    """The program. Raises Skipped when it can not be had."""
    if found := shutil.which("pip-audit"):
        return found
    program = OWN / "bin" / "pip-audit"
    if not program.exists():
        venv.create(OWN, with_pip=True, clear=True)
        _run([str(OWN / "bin" / "python"), "-m", "pip", "install", "--quiet", "pip-audit"])
    return str(program)


def audit(program: str) -> Answer:
    output = _run(
        [program, "--format=json", "--progress-spinner=off", "--require-hashes", "--disable-pip", f"-r{LOCK}"]
    )
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError) as error:
        raise Skipped(f"pip-audit answered what can not be read: {error!r}") from error
    unasked = tuple(each["name"] for each in packages if "skip_reason" in each)
    if len(unasked) == len(packages):
        reason = packages[0]["skip_reason"] if packages else "it found no package in the lock"
        raise Skipped(f"the database of vulnerabilities can not be asked: {reason}")
    vulnerable = tuple(
        f"{each['name']} {each['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version yet'}"
        for each in packages
        for one in each.get("vulns", ())
    )
    return Answer(len(packages) - len(unasked), vulnerable, unasked)


def _run(command: list[str]) -> str:
    """What it prints. pip-audit ends with 1 both when it finds something and when it can not ask."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Skipped(f"{Path(command[0]).name} had no answer in {LIMIT_S} s") from error
    if ended.returncode and not ended.stdout.strip():
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise Skipped(f"{Path(command[0]).name} failed: {last[:SHOWN_CHARACTERS]}")
    return ended.stdout


if __name__ == "__main__":
    sys.exit(main())
