"""Variables PGCACHEWATCH_*: options, files of options, and what else there may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgcachewatch_config import Settings
from pgcachewatch_config.environment import FILE_SUFFIX, NamedFile, named_file, odd_variables, plain_value

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\bPGCACHEWATCH_[A-Z_]+[A-Z]\b")
SERVICE_LINKS = {
    "PGCACHEWATCH_SERVICE_HOST": "10.0.0.1",
    "PGCACHEWATCH_SERVICE_PORT": "8420",
    "PGCACHEWATCH_SERVICE_PORT_HTTP": "8420",
    "PGCACHEWATCH_PORT": "tcp://10.0.0.1:8420",
    "PGCACHEWATCH_PORT_8420_TCP": "tcp://10.0.0.1:8420",
    "PGCACHEWATCH_PORT_8420_TCP_PROTO": "tcp",
    "PGCACHEWATCH_PORT_8420_TCP_PORT": "8420",
    "PGCACHEWATCH_PORT_8420_TCP_ADDR": "10.0.0.1",
    "PGCACHEWATCH_METRICS_SERVICE_HOST": "10.0.0.2",
    "PGCACHEWATCH_METRICS_PORT_9090_TCP_ADDR": "10.0.0.2",
}


def test_an_empty_variable_says_nothing() -> None:
    environment = {"PGCACHEWATCH_PORT": "", "PGCACHEWATCH_DSN_FILE": "", "PGCACHEWATCH_PROT": ""}
    assert plain_value("port", environment) is None
    assert named_file("dsn", environment) is None
    assert odd_variables(environment) == []


def test_what_kubernetes_says_of_a_service_of_that_name_is_one_warning_about_the_port() -> None:
    assert plain_value("port", SERVICE_LINKS) is None
    (warning,) = odd_variables(SERVICE_LINKS)
    assert "PGCACHEWATCH_PORT=tcp://10.0.0.1:8420" in warning
    assert "enableServiceLinks: false" in warning


def test_each_option_may_be_in_a_file_and_none_is_taken_for_the_file_of_another() -> None:
    for name in Settings.model_fields:
        variable = f"PGCACHEWATCH_{name.upper()}"
        assert named_file(name, {variable + FILE_SUFFIX: "/x"}) == NamedFile("/x", variable + FILE_SUFFIX)
        assert odd_variables({variable: "1", variable + FILE_SUFFIX: "/x"}) == []


def test_variables_of_clients_and_of_this_checkout_are_known() -> None:
    sources = [*(ROOT / "client").rglob("*.py"), ROOT / "deploy" / "bootstrap.py"]
    found = {name for source in sources for name in VARIABLE.findall(source.read_text(encoding="utf-8"))}
    assert "PGCACHEWATCH_URL" in found
    assert odd_variables(dict.fromkeys(found | {"PGCACHEWATCH_CONFIG", "PATH", "PGPORT"}, "x")) == []


@pytest.mark.parametrize(
    ("name", "meant"), [("LISTENDSN", "LISTEN_DSN"), ("TOKEN_FILE", "TOKENS_FILE"), ("LOGLEVEL", "LOG_LEVEL")]
)
def test_what_is_misspelled_is_told_what_was_meant(name: str, meant: str) -> None:
    (warning,) = odd_variables({f"PGCACHEWATCH_{name}": "hunter2"})
    assert f"PGCACHEWATCH_{name}" in warning
    assert f"did you mean 'PGCACHEWATCH_{meant}" in warning
    assert "hunter2" not in warning, "it may have been meant to be a secret"
