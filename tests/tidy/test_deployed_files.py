"""Nothing in deploy/ is only read: each file is named by a test or a lane that exercises it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.tidy.tree import ROOT, files, name

DEPLOY = ROOT / "deploy"
# By path, each with what exercises it although no test writes its name.
EXERCISED_OTHERWISE = {
    "deploy/bootstrap.py": "python3 tests, which is how every test is started",
}
# Folders of which a test takes each file that is in them.
TAKEN_WHOLE = {
    "deploy/kubernetes": "tests/deploy/test_kubernetes.py",
    "deploy/locks": "tests/tidy/test_packaging.py",
}


def texts_of_tests() -> str:
    own = Path(__file__)
    return "\n".join(
        path.read_text(encoding="utf-8") for path in files(ROOT / "tests") if path.suffix == ".py" and path != own
    )


def test_every_file_in_deploy_is_exercised() -> None:
    texts = texts_of_tests()
    taken = [
        path
        for path in files(DEPLOY)
        if not any(name(path).startswith(f"{folder}/") for folder in TAKEN_WHOLE)
        and name(path) not in EXERCISED_OTHERWISE
    ]

    assert taken
    assert [name(path) for path in taken if path.name not in texts] == []


def test_what_exercises_them_is_there() -> None:
    for folder, test in TAKEN_WHOLE.items():
        assert (ROOT / folder).is_dir()
        assert folder.removeprefix("deploy/") in (ROOT / test).read_text(encoding="utf-8")
    assert [path for path in EXERCISED_OTHERWISE if not (ROOT / path).is_file()] == []


def test_every_lane_has_its_last_result_in_the_runbook() -> None:
    lanes = re.findall(r"^(lane-[a-z-]+|audit):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    last = (DEPLOY / "README.md").read_text(encoding="utf-8").partition("## What was tried, when")[2]

    assert lanes
    assert [
        lane for lane in lanes if not re.search(rf"^\| `make {lane}`.* \| \d{{4}}-\d\d-\d\d \|", last, re.MULTILINE)
    ] == []
