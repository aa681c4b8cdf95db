"""Each rule of PROTOCOL.md is shown by a test that names it, and nobody names a rule that does not exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.tidy.tree import ROOT, files, name

SPECIFICATION = ROOT / "client/pgcachewatch/protocol/PROTOCOL.md"
STATED = re.compile(r"\*\*(W-[A-Z]+-\d+)\*\*")
MENTIONED = re.compile(r"\bW-[A-Z]+-\d+\b")
SOURCES = ("client/pgcachewatch", "daemon/pgcachewatch_daemon")
ERROR_CODE = re.compile(r"`([a-z_]+)`")


def stated() -> list[str]:
    """The ids of the specification, in its order."""
    return STATED.findall(SPECIFICATION.read_text(encoding="utf-8"))


def named() -> dict[str, list[str]]:
    """Rule -> the tests marked with it."""
    tests: dict[str, list[str]] = {}
    for path in files(ROOT / "tests"):
        if path.suffix == ".py":
            for rule, test in marked(path):
                tests.setdefault(rule, []).append(f"{name(path)}::{test}")
    return tests


def marked(path: Path) -> Iterator[tuple[str, str]]:
    """Rule and test of each `@pytest.mark.rule("...")` above a function whose name makes it a test."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
                    yield ast.literal_eval(decorator.args[0]), node.name


def test_each_rule_is_stated_once_and_the_numbers_of_a_family_have_no_hole() -> None:
    rules = stated()
    families: dict[str, list[int]] = {}
    for rule in rules:
        family, _, number = rule.rpartition("-")
        families.setdefault(family, []).append(int(number))

    assert [rule for rule, count in Counter(rules).items() if count > 1] == []
    assert families == {family: list(range(1, len(numbers) + 1)) for family, numbers in families.items()}


def test_each_rule_is_named_by_a_test() -> None:
    tests = named()

    assert len(stated()) > 40
    assert [rule for rule in stated() if rule not in tests] == []


def test_each_rule_that_a_test_names_exists() -> None:
    rules = stated()

    assert {rule: tests for rule, tests in named().items() if rule not in rules} == {}


def test_each_rule_that_the_code_or_the_specification_mentions_exists() -> None:
    rules = stated()
    mentioned = {
        f"{name(path)}: {rule}"
        for source in SOURCES
        for path in files(ROOT / source)
        if path.suffix in (".py", ".md")
        for rule in MENTIONED.findall(path.read_text(encoding="utf-8"))
        if rule not in rules
    }

    assert mentioned == set()


def test_the_specification_lists_the_error_codes_that_the_relay_sends() -> None:
    text = SPECIFICATION.read_text(encoding="utf-8")
    sentence = text[text.index("**W-ERR-1**") :].partition("A client")[0]
    listed = set(ERROR_CODE.findall(sentence)) - {"code", "err"}
    sources = (
        ROOT / "client/pgcachewatch/protocol/relay_session.py",
        ROOT / "daemon/pgcachewatch_daemon/reception.py",
        ROOT / "daemon/pgcachewatch_daemon/barriers.py",
        ROOT / "daemon/pgcachewatch_daemon/consuming.py",
        ROOT / "daemon/pgcachewatch_daemon/inspection.py",
        ROOT / "daemon/pgcachewatch_daemon/wishes.py",
        ROOT / "daemon/pgcachewatch_daemon/sql/columns.py",
    )

    assert listed == {code for path in sources for code in sent(path)}


def sent(path: Path) -> Iterator[str]:
    """The words given as `code` to what makes an `err`."""
    place_of_code = {"_err": 1, "_send_error": 2, "Refusal": 0, "NotServed": 0}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if isinstance(node, ast.Call) and called in place_of_code and node.args:
            code = node.args[place_of_code[called]]
            yield from (
                inner.value
                for inner in ast.walk(code)
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
            )
        elif isinstance(node, ast.Call) and called == "Err":
            yield from (
                each.value.value
                for each in node.keywords
                if each.arg == "code" and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
            )
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "code":
            yield from (
                inner.value
                for inner in (getattr(node.value, "body", None), getattr(node.value, "orelse", None))
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
            )
