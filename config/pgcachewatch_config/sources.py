"""The sources of settings, later wins: defaults, a TOML file, the environment, the command line.

A DSN that is not given is what libpq's own variables (PGHOST, PGUSER, ...) say. `load` remembers where each value came
from, so that a wrong one can be blamed on its source: ConfigurationError names the option, the value, the source and
what is allowed. Values of secret options are never part of a text.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config.settings import Settings
from pgcachewatch_config.spelling import allowed, flag, is_secret, variable

CONFIG_VARIABLE = "PGCACHEWATCH_CONFIG"
VALUE_LENGTH = 80  # of a refused value in an error's text


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and per option the source its value came from, in words. An option at its default is not in it."""

    settings: Settings
    sources: Mapping[str, str]


def load(flags: Mapping[str, str], *, config_file: str | None = None) -> Loaded:
    """Read all sources. `flags` are option names with the text that was given for them.

    Raises ConfigurationError with one sentence that says what to change.

    >>> load({"port": "9000"}).settings.port
    9000
    """
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    if config_file is not None:
        for name, value in _read_file(config_file).items():
            values[name], sources[name] = value, f"the file {config_file}"
    for name in Settings.model_fields:
        if value := os.environ.get(variable(name)):  # one that is empty counts as not set
            values[name], sources[name] = value, f"the environment ({variable(name)})"
    for name, value in flags.items():
        values[name], sources[name] = value, f"the command line ({flag(name)})"
    try:
        settings = Settings.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigurationError(_explain(error, values, sources)) from None  # the cause would show the value
    return Loaded(settings, sources)


def _read_file(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {path} can not be read ({error.strerror}); check --config and {CONFIG_VARIABLE}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"the configuration file {path} is not valid TOML: {error}") from error


def _explain(error: pydantic.ValidationError, values: Mapping[str, object], sources: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    source = sources.get(name, "the defaults")
    if first["type"] == "extra_forbidden":
        return f"there is no option {name!r}, but {source} sets it; see config/pgcachewatch.toml for those there are"
    value = "what was given (not shown)" if is_secret(name) else repr(values.get(name))[:VALUE_LENGTH]
    return f"option {name!r} can not be {value}, set by {source}; it must be {allowed(name)}"
