"""`pgcachewatch settings`: what it shows, and what it never does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pgcachewatch_config import Settings
from pgcachewatch_daemon.commands.settings import DIM, look, render, settings
from pgcachewatch_daemon.commands.settings import _parser as parser_of_settings

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in tuple(os.environ):
        if name.startswith(("PGCACHEWATCH_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:  # Any: JSON
    assert settings(["--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_option_is_shown_with_its_value_and_where_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "relay.toml").write_text("channels_limit = 7\n")
    monkeypatch.setenv("PGCACHEWATCH_HEARTBEAT_S", "0.25")
    shown = as_json(capsys, "--config", str(tmp_path / "relay.toml"), "--port", "9000")["settings"]
    assert list(shown) == list(Settings.model_fields)
    assert shown["port"] == {
        "value": 9000,
        "source": "the command line (--port)",
        "is_default": False,
        "is_reloadable": False,
    }
    assert (shown["channels_limit"]["value"], shown["channels_limit"]["source"]) == (
        7,
        f"the file {tmp_path / 'relay.toml'}",
    )
    assert shown["heartbeat_s"]["source"] == "the environment (PGCACHEWATCH_HEARTBEAT_S)"
    assert (shown["host"]["source"], shown["host"]["is_default"]) == ("default", True)


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_secret_is_shown_wherever_it_stands(
    form: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret_file = tmp_path / "secret"
    secret_file.write_text(SECRET * 5)
    monkeypatch.setenv("PGCACHEWATCH_JWT_SECRET_FILE", str(secret_file))
    monkeypatch.setenv("PGCACHEWATCH_LISTEN_DSN", f"postgresql://v:{SECRET}@direct/d?sslpassword={SECRET}")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("PGSERVICE", "main")
    (tmp_path / ".pg_service.conf").write_text(f"[main]\nhost=served\npassword={SECRET}\n")
    addresses = ["--dsn", f"postgresql://u:{SECRET}@pooled/d", "--jwt-jwks-url", f"https://u:{SECRET}@h/keys"]
    assert settings([*form, *addresses]) == 0
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
    for part in ("postgresql://u:***@pooled/d", "postgresql://v:***@direct/d?sslpassword=***", "PGPASSWORD"):
        assert part in said.out


def test_the_databases_are_those_that_would_be_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_json(capsys)["database"]["listens"] == "as the PG* environment says"
    (tmp_path / ".pg_service.conf").write_text("[main]\nhost=served\ndbname=d\n")
    monkeypatch.setenv("PGSERVICE", "main")
    monkeypatch.setenv("PGOPTIONS", "-c x=y")
    shown = as_json(capsys)
    assert shown["database"]["listens"] == "postgresql://?host=served&dbname=d"
    assert shown["libpq"] == {
        "PGSERVICE": {"value": "main", "is_used": True},
        "PGOPTIONS": {"value": "-c x=y", "is_used": False},
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--port", "x"], "option 'port'"), (["--dsn", "postgresql://?service=none"], "no service")],
)
def test_what_serve_would_refuse_is_the_same_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert settings(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_columns_are_aligned_and_defaults_dim_where_there_is_colour() -> None:
    effective = look(parser_of_settings().parse_args(["--port", "9000"]))
    rows = [line for line in render(effective).splitlines() if "  default" in line or "(--port)" in line]
    assert len({line.find("default") for line in rows if "default" in line}) == 1
    assert next(line for line in rows if "(--port)" in line).endswith("the command line (--port)  (restart)")
    colored = render(effective, is_colored=True).splitlines()
    assert all(line.startswith(DIM) == ("  default" in line) for line in colored)


def test_the_program_finds_it_and_reads_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("relay.toml", "page = false\n"), ("node", "me\n")):
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("PGCACHEWATCH_CONFIG", str(tmp_path / "relay.toml"))
    monkeypatch.setenv("PGCACHEWATCH_NODE_FILE", str(tmp_path / "node"))
    monkeypatch.setenv("PGCACHEWATCH_PORT", "tcp://10.0.0.1:8420")
    command = [sys.executable, "-m", "pgcachewatch", "settings", "--json", "--allow-anonymous"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    given = {name: one["value"] for name, one in json.loads(ended.stdout)["settings"].items() if not one["is_default"]}
    assert given == {"page": False, "node": "me", "allow_anonymous": True}
    assert "enableServiceLinks: false" in ended.stderr


def test_warnings_are_told_beside_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PGCACHEWATCH_PROT", "1")
    assert settings([]) == 0
    assert "did you mean 'PGCACHEWATCH_PORT'" in capsys.readouterr().err
