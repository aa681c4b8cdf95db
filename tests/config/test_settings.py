"""Settings: what the declarations themselves promise."""

from __future__ import annotations

import pytest

from pgcachewatch_config import Settings


def test_settings_without_load_are_the_defaults_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCACHEWATCH_PORT", "1002")
    assert Settings().port == 8420


def test_each_default_is_allowed() -> None:
    defaults = {name: field.default for name, field in Settings.model_fields.items() if field.default is not None}
    assert Settings.model_validate(defaults) == Settings()
