"""deploy/README.md explains each line that the daemon logs at WARNING and above, and none that is gone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.tidy.tree import ROOT, files

LOUD = {"warning", "error", "exception"}
ROW = re.compile(r"^\| (?:WARNING|ERROR) \| `(.+?)` \| .+ \|$", re.MULTILINE)
# Said through a variable, so that the source does not show at which level.
UNSEEN = {"drift", "option needs a restart to change"}


def logged() -> Iterator[str]:
    for path in files(ROOT / "daemon"):
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LOUD
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "logger"
            ):
                event = node.args[0]
                assert isinstance(event, ast.Constant), f"{path}:{node.lineno} the words of a line are constant"
                yield str(event.value)


def test_each_line_that_asks_for_somebody_is_explained() -> None:
    explained = ROW.findall((ROOT / "deploy" / "README.md").read_text(encoding="utf-8"))
    assert len(set(explained)) == len(explained)
    assert set(explained) == {*logged()} | UNSEEN, "compare the table of log lines in deploy/README.md"
