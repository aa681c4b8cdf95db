"""Flags of a command, and the sources read for it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from pgcachewatch_config import Settings, flag
from pgcachewatch_config.command_line import Parser, add_options, read


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("config", *Settings.model_fields):
        monkeypatch.delenv(f"PGCACHEWATCH_{name.upper()}", raising=False)


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot; did you mean '--port'?"),
        (["--xyzzy"], "unrecognized arguments: --xyzzy; see --help"),
        (["--dns=hunter2"], "unrecognized arguments: --dns; did you mean '--dsn'?"),
        (["--dsnn", "hunter2"], "unrecognized arguments: --dsnn; did you mean '--dsn'?"),
        (["hunter2"], "unrecognized arguments: a value without a flag; see --help"),
        (["--port"], "argument --port: expected one argument; see --help"),
    ],
)
def test_a_command_line_that_can_not_be_read_is_one_sentence_without_values(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser(prog="pgcachewatch serve", allow_abbrev=False)
    add_options(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"pgcachewatch serve: {said}\n"


def test_each_option_has_a_flag() -> None:
    given = parse(*(part for name in Settings.model_fields for part in (flag(name), "x")))
    assert set(vars(given)) == {"config", *Settings.model_fields}


def test_flags_win_over_the_file_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = 1001\nchannels_limit = 3\n")
    loaded = read(parse("--config", str(path), "--port", "1002"))
    assert (loaded.settings.port, loaded.settings.channels_limit) == (1002, 3)


def test_a_service_finds_its_file_where_systemd_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "two").mkdir()
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    given = parse()
    assert read(given).settings.port == 8420
    (tmp_path / "two" / "pgcachewatch.toml").write_text("port = 1001\n")
    assert read(given).settings.port == 1001
    (tmp_path / "named.toml").write_text("port = 1002\n")
    monkeypatch.setenv("PGCACHEWATCH_CONFIG", str(tmp_path / "named.toml"))
    assert read(given).settings.port == 1002
    assert read(parse("--config", str(tmp_path / "two" / "pgcachewatch.toml"))).settings.port == 1001


def test_the_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = 1001\n")
    given = parse("--config", str(path))
    assert read(given).settings.port == 1001
    path.write_text("port = 1002\n")
    assert read(given).settings.port == 1002
