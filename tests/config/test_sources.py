"""Sources of settings: which wins, and what a wrong value is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Settings, allowed, flag, load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PGCACHEWATCH_{name.upper()}", raising=False)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "relay.toml"
    path.write_text('port = 1001\nheartbeat_s = 0.25\nlog_level = "debug"\n')
    return path


def test_later_sources_win(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCACHEWATCH_PORT", "1002")
    monkeypatch.setenv("PGCACHEWATCH_HEARTBEAT_S", "0.75")
    loaded = load({"port": "1003"}, config_file=str(config_file))
    assert (loaded.settings.port, loaded.settings.heartbeat_s, loaded.settings.log_level) == (1003, 0.75, "debug")
    assert loaded.sources["port"] == "the command line (--port)"
    assert loaded.sources["heartbeat_s"] == "the environment (PGCACHEWATCH_HEARTBEAT_S)"
    assert loaded.sources["log_level"] == f"the file {config_file}"
    assert "host" not in loaded.sources


@pytest.mark.parametrize(
    ("name", "value", "allowed_text"),
    [
        ("port", "99999", "a whole number from 0 to 65535"),
        ("port", "http", "a whole number from 0 to 65535"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("heartbeat_s", "0", "a number above 0 to 86400"),
        ("heartbeat_s", "nan", "a number above 0 to 86400"),
        ("channel", "", "a text of 1 to 63 characters"),
        ("subscriptions_limit", "1001", "a whole number from 1 to 1000"),
    ],
)
def test_a_wrong_value_is_told_option_value_source_and_what_is_allowed(
    name: str, value: str, allowed_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert allowed(name) == allowed_text
    with pytest.raises(ConfigurationError) as by_flag:
        load({name: value})
    for part in (repr(name), repr(value), flag(name), allowed_text):
        assert part in str(by_flag.value)
    if not value:
        return  # a variable that is empty counts as not set
    monkeypatch.setenv(f"PGCACHEWATCH_{name.upper()}", value)
    with pytest.raises(ConfigurationError, match=f"PGCACHEWATCH_{name.upper()}"):
        load({})


def test_a_wrong_value_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("port = -1\n")
    with pytest.raises(ConfigurationError, match=r"relay\.toml"):
        load({}, config_file=str(path))


def test_an_option_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("prot = 1\n")
    with pytest.raises(ConfigurationError, match="no option 'prot'"):
        load({}, config_file=str(path))


def test_a_file_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can not be read"):
        load({}, config_file=str(tmp_path / "missing.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("port 1\n")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load({}, config_file=str(broken))


def test_a_dsn_never_appears_in_a_message_or_a_representation() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"dsn": "host=db password=hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "postgresql://" in str(caught.value), "it says what is allowed"
    assert caught.value.__cause__ is None
    settings = load({"dsn": "postgresql://u:hunter2@db/d"}).settings
    assert "hunter2" not in repr(settings)
    assert settings.dsn is not None
    assert settings.dsn.get_secret_value() == "postgresql://u:hunter2@db/d"


def test_a_variable_that_is_empty_counts_as_not_set(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCACHEWATCH_PORT", "")
    assert load({}, config_file=str(config_file)).settings.port == 1001
