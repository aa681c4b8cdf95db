"""Sources of settings: which wins, and what a wrong value is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import allowed, flag, load


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith("PGCACHEWATCH_"):
            monkeypatch.delenv(name)


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
        ("channel", "", "a name of 1 to 63 bytes"),
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


# --- files that hold a value


def test_a_value_may_be_in_a_file_without_the_newline_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "port"
    path.write_text("9001\n")
    monkeypatch.setenv("PGCACHEWATCH_PORT_FILE", str(path))
    loaded = load({})
    assert loaded.settings.port == 9001
    assert loaded.sources["port"] == f"the file {path} (PGCACHEWATCH_PORT_FILE)"
    assert load({"port": "9002"}).settings.port == 9002


def test_a_value_and_a_file_for_it_are_one_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCACHEWATCH_PORT", "9001")
    monkeypatch.setenv("PGCACHEWATCH_PORT_FILE", str(tmp_path / "port"))
    with pytest.raises(ConfigurationError, match="both PGCACHEWATCH_PORT and PGCACHEWATCH_PORT_FILE"):
        load({})


def test_a_wrong_value_of_a_file_names_file_and_variable_and_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "dsn"
    path.write_text("host=db password=hunter2")
    monkeypatch.setenv("PGCACHEWATCH_DSN_FILE", str(path))
    with pytest.raises(ConfigurationError) as caught:
        load({})
    assert f"set by the file {path} (PGCACHEWATCH_DSN_FILE)" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_secret_that_others_may_read_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("dsn", "postgresql://u:p@h/d"), ("port", "1"), ("relay.toml", 'dsn = "postgresql://h"')):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o644)
    monkeypatch.setenv("PGCACHEWATCH_DSN_FILE", str(tmp_path / "dsn"))
    monkeypatch.setenv("PGCACHEWATCH_PORT_FILE", str(tmp_path / "port"))
    loaded = load({}, config_file=str(tmp_path / "relay.toml"))
    assert ["relay.toml" in each or "/dsn" in each for each in loaded.warnings] == [True, True]
    (tmp_path / "dsn").chmod(0o600)
    (tmp_path / "relay.toml").chmod(0o600)
    assert load({}, config_file=str(tmp_path / "relay.toml")).warnings == ()


# --- names that are none


def test_an_option_that_is_misspelled_in_the_file_is_told_which_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "relay.toml"
    path.write_text("log-levl = 'debug'\n")
    with pytest.raises(ConfigurationError, match=r"no option 'log-levl'.*did you mean 'log_level'"):
        load({}, config_file=str(path))


def test_a_variable_that_is_misspelled_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCACHEWATCH_CONECTIONS_LIMIT", "5")
    loaded = load({})
    assert loaded.settings.connections_limit == 10_000
    (warning,) = loaded.warnings
    assert "did you mean 'PGCACHEWATCH_CONNECTIONS_LIMIT'" in warning


def test_a_link_of_kubernetes_is_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCACHEWATCH_PORT", "tcp://10.0.0.1:8420")
    loaded = load({})
    assert loaded.settings.port == 8420
    (warning,) = loaded.warnings
    assert "enableServiceLinks: false" in warning


def test_values_that_can_not_go_together_name_their_sources() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"reconnect_min_s": "5"})
    assert "reconnect_min_s = 5.0 (from the command line (--reconnect-min-s))" in str(caught.value)
    assert "reconnect_max_s = 3.0 (from the defaults)" in str(caught.value)
