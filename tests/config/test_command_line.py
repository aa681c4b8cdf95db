"""Flags of a command, and the sources read for it."""

from __future__ import annotations

import argparse
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


@pytest.mark.parametrize(("argument", "words"), [("--prot", "did you mean '--port'?"), ("--xyzzy", "see --help")])
def test_a_flag_that_is_none_is_one_sentence(argument: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="pgcachewatch serve", allow_abbrev=False)
    add_options(parser)
    with pytest.raises(SystemExit) as caught:
        parser.parse_args([argument, "1"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"pgcachewatch serve: unrecognized arguments: {argument} 1; {words}\n"


def test_each_option_has_a_flag() -> None:
    given = parse(*(part for name in Settings.model_fields for part in (flag(name), "x")))
    assert set(vars(given)) == {"config", *Settings.model_fields}


def test_flags_win_over_the_file_that_is_named(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = 1001\nchannels_limit = 3\n")
    loaded = read(parse("--config", str(path), "--port", "1002"))
    assert (loaded.settings.port, loaded.settings.channels_limit) == (1002, 3)


def test_the_file_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = 1001\n")
    given = parse("--config", str(path))
    assert read(given).settings.port == 1001
    path.write_text("port = 1002\n")
    assert read(given).settings.port == 1002
