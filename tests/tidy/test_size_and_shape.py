"""Files fit one sitting, functions one screen, and each module says what it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import code, name

FILE_LIMIT_LINES = 500
FUNCTION_LIMIT_LINES = 60
# Programs of users, kept as they wrote them.
VERBATIM_SUFFIX = "_original.py"
FORBIDDEN_MODULE_NAMES = {"helpers", "common", "misc", "base", "manager", "processor"}
# The folders at the top resolve as packages inside a checkout, but do not exist for somebody who installed
# the wheel.
FOLDERS_THAT_ARE_NO_PACKAGES = {"client", "config", "daemon"}


def parsed() -> Iterator[tuple[Path, ast.Module]]:
    for path in code():
        if not path.name.endswith(VERBATIM_SUFFIX):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert function.end_lineno is not None
    return function.end_lineno - function.lineno + 1


def test_every_file_fits_one_sitting() -> None:
    lines = {name(path): path.read_text(encoding="utf-8").count("\n") for path in code()}

    assert {path: count for path, count in lines.items() if count > FILE_LIMIT_LINES} == {}


def test_every_function_fits_one_screen() -> None:
    too_long = [
        f"{name(path)}:{node.lineno} {node.name} has {lines_of(node)} lines"
        for path, module in parsed()
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > FUNCTION_LIMIT_LINES
    ]

    assert too_long == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name(path) for path, module in parsed() if not ast.get_docstring(module)] == []


def test_every_module_is_named_for_one_concept() -> None:
    assert [name(path) for path in code() if path.stem in FORBIDDEN_MODULE_NAMES] == []


def test_nothing_is_imported_through_the_top_level_folders() -> None:
    wrong = [
        f"{name(path)}: {imported}"
        for path, module in parsed()
        for imported in imports(module)
        if imported.split(".")[0] in FOLDERS_THAT_ARE_NO_PACKAGES
    ]

    assert wrong == []


def imports(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
