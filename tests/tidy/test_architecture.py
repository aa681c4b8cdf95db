"""ARCHITECTURE.md opens with the path of one event, and each file that it names exists."""

from __future__ import annotations

import re

from tests.tidy.tree import ROOT, files, name

DOCUMENT = ROOT / "ARCHITECTURE.md"
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"\b(?:client|daemon|config)/[\w./]+")
MODULE = re.compile(r"\b[\w/]+\.py\b")
NUMBERED = re.compile(r"^ ?(\d+) ")
THE_WIRE = "- - -"
STEPS = 12


def steps() -> list[str]:
    """The lines of the first fenced block."""
    block = FENCED.search(DOCUMENT.read_text(encoding="utf-8"))
    assert block is not None, "ARCHITECTURE.md has no fenced block"
    return block[1].splitlines()


def test_path_of_one_event_has_its_steps_in_order() -> None:
    numbers = [int(match[1]) for line in steps() if (match := NUMBERED.match(line))]

    assert numbers == list(range(1, STEPS + 1))


def test_each_step_of_the_path_names_one_place_that_exists() -> None:
    wrong = [
        line
        for line in steps()
        if len(places := PLACE.findall(line)) != 1 or not (ROOT / places[0].rstrip("/.")).exists()
    ]

    assert wrong == []


def test_daemon_comes_before_the_wire_and_client_after_it() -> None:
    lines = steps()
    wire = next(number for number, line in enumerate(lines) if THE_WIRE in line)
    before, after = lines[1:wire], lines[wire + 1 :]

    assert [line for line in before if "daemon/" not in line] == []
    assert [line for line in after if "client/" not in line] == []


def test_each_module_that_is_named_exists() -> None:
    known = {name(path) for path in files()}
    named = set(MODULE.findall(DOCUMENT.read_text(encoding="utf-8")))

    assert len(named) > STEPS
    assert [each for each in sorted(named) if not any(f"/{path}".endswith(f"/{each}") for path in known)] == []
