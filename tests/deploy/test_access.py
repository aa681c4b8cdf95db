"""What deploy/README.md shows of tokens is what the relay reads."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from pgcachewatch_daemon.commands.token import token
from pgcachewatch_daemon.core.access import Grant
from pgcachewatch_daemon.core.credentials import Limits, Roster, StaticToken, read_claims
from tests.tidy.tree import ROOT

TEXT = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
SECTION = TEXT[TEXT.index("### Access") : TEXT.index("### Security checklist")]


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_file_that_is_shown_has_each_field_there_is() -> None:
    assert len(Roster.parse(block("toml"))) == 1
    shown = set(re.findall(r"^(\w+) =", block("toml"), re.MULTILINE))
    assert shown == {*Limits.model_fields, *StaticToken.model_fields}


def test_the_claims_that_are_shown_grant_what_they_say() -> None:
    assert read_claims(json.loads(block("json"))) == Grant("user-7", tables=("tenant7_*",), expires_at=1893456000.0)


def test_the_commands_that_are_shown_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"^    pgcachewatch token (.+) >> tokens.toml$", SECTION, re.MULTILINE)
    for command in commands:
        assert token(shlex.split(command)) == 0
    assert len(Roster.parse(capsys.readouterr().out)) == len(commands) == 2
