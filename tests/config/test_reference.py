"""The reference file says what the Settings class says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pgcachewatch_config import Settings, load
from pgcachewatch_config.reference import render_help, render_reference

REFERENCE = Path(__file__).parents[2] / "config" / "pgcachewatch.toml"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"PGCACHEWATCH_{name.upper()}", raising=False)


def test_the_reference_file_is_what_the_settings_say() -> None:
    assert REFERENCE.read_text() == render_reference(), "run python -m pgcachewatch_config.reference > config/..."


def test_the_reference_file_loads_and_changes_nothing() -> None:
    assert load({}, config_file=str(REFERENCE)).settings == Settings()


def test_every_option_is_in_the_reference_file_with_its_default_and_in_the_help() -> None:
    text = REFERENCE.read_text()
    values = tomllib.loads(text)
    for name, field in Settings.model_fields.items():
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert values.get(name) == default, name
        assert f"{name} =" in text, name
        assert f"PGCACHEWATCH_{name.upper()}" in render_help(name)
        assert field.description, name
