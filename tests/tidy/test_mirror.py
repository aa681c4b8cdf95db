"""Each source module has its test module at the same place below tests/."""

from __future__ import annotations

from pathlib import Path

from tests.tidy.tree import ROOT, SOURCE_ROOTS, files, name

# By name: a package's front door, and the program's, are tested with what they lead to.
EXEMPT_NAMES = {"__init__.py", "__main__.py"}
# By path, each with its reason.
EXEMPT: dict[str, str] = {}


def modules() -> list[Path]:
    return [
        path
        for root in SOURCE_ROOTS
        for path in files(ROOT / root)
        if path.suffix == ".py" and path.name not in EXEMPT_NAMES and name(path) not in EXEMPT
    ]


def place_of_tests(path: Path) -> Path:
    root = next(root for root in SOURCE_ROOTS if path.is_relative_to(ROOT / root))
    place = path.relative_to(ROOT / root)
    return ROOT / SOURCE_ROOTS[root] / place.parent / f"test_{place.name}"


def test_every_source_module_has_its_test_module() -> None:
    missing = [
        f"{name(path)} wants {name(place_of_tests(path))}" for path in modules() if not place_of_tests(path).is_file()
    ]

    assert missing == []


def test_exemptions_are_still_needed() -> None:
    assert [path for path in EXEMPT if not (ROOT / path).is_file()] == []
