"""The sources of settings, later wins: defaults, a TOML file, the environment, the command line.

In the environment each option may be given itself, or as the path of a file that holds it: PGCACHEWATCH_DSN_FILE, as
containers are handed secrets. A DSN that is not given is what libpq's own variables (PGHOST, PGUSER, ...) say.

`load` remembers where each value came from, so that a wrong one can be blamed on its source: ConfigurationError names
the option, the value, the source and what is allowed. Values of secret options are never part of a text. What is odd
but can work is a warning.
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
from pgcachewatch_config.combinations import check
from pgcachewatch_config.environment import NamedFile, named_file, odd_variables, plain_value
from pgcachewatch_config.secret_files import exposure, read_value
from pgcachewatch_config.settings import Settings
from pgcachewatch_config.spelling import allowed, did_you_mean, flag, is_secret, variable

CONFIG_VARIABLE = "PGCACHEWATCH_CONFIG"
FOLDERS_VARIABLE = "CONFIGURATION_DIRECTORY"  # set by ConfigurationDirectory= of a systemd unit
CONFIG_NAME = "pgcachewatch.toml"
VALUE_LENGTH = 80  # of a refused value in an error's text


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and per option the source its value came from, in words. An option at its default is not in it."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Given:
    """What one source said of one option, and that source in words."""

    value: object
    source: str


def load(flags: Mapping[str, str], *, config_file: str | None = None) -> Loaded:
    """Read all sources. `flags` are option names with the text that was given for them.

    Raises ConfigurationError with one sentence that says what to change.

    >>> load({"port": "9000"}).settings.port
    9000
    """
    warnings = odd_variables(os.environ)
    given: dict[str, Given] = {}
    if config_file is not None:
        for name, value in _read_file(config_file).items():
            given[name] = Given(value, f"the file {config_file}")
        if any(is_secret(name) for name in given.keys() & Settings.model_fields.keys()):
            warnings += exposure(config_file)
    given |= _from_environment(warnings)
    for name, value in flags.items():
        given[name] = Given(value, f"the command line ({flag(name)})")
    sources = {name: each.source for name, each in given.items()}
    try:
        settings = Settings.model_validate({name: each.value for name, each in given.items()})
    except pydantic.ValidationError as error:
        raise ConfigurationError(_explain(error, given)) from None  # the cause would show the value
    check(settings, sources)
    return Loaded(settings, sources, tuple(warnings))


def find_config_file(environment: Mapping[str, str]) -> str | None:
    """The file that the environment names, or the one that lies where systemd keeps a service's configuration."""
    if named := environment.get(CONFIG_VARIABLE):
        return named
    folders = [Path(folder) for folder in environment.get(FOLDERS_VARIABLE, "").split(os.pathsep) if folder]
    return next((str(folder / CONFIG_NAME) for folder in folders if (folder / CONFIG_NAME).exists()), None)


def _from_environment(warnings: list[str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    for name in Settings.model_fields:
        match plain_value(name, os.environ), named_file(name, os.environ):
            case str(), NamedFile() as named:
                raise ConfigurationError(f"both {variable(name)} and {named.variable} are set; keep one of them")
            case str() as value, _:
                given[name] = Given(value, f"the environment ({variable(name)})")
            case _, NamedFile() as named:
                given[name] = Given(read_value(name, named), f"the file {named.path} ({named.variable})")
                if is_secret(name):
                    warnings += exposure(named.path)
    return given


def _read_file(path: str) -> dict[str, Any]:  # Any: whatever TOML can hold
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"the configuration file {path} can not be read ({error.strerror}); check --config and {CONFIG_VARIABLE}"
        ) from error
    except ValueError as error:
        raise ConfigurationError(f"the configuration file {path} is not valid TOML: {error}") from error


def _explain(error: pydantic.ValidationError, given: Mapping[str, Given]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    value, source = given[name].value, given[name].source
    if first["type"] == "extra_forbidden":
        advice = did_you_mean(name) or "see config/pgcachewatch.toml for those there are"
        return f"there is no option {name!r}, but {source} sets it; {advice}"
    shown = "what was given (not shown)" if is_secret(name) else repr(value)[:VALUE_LENGTH]
    return f"option {name!r} can not be {shown}, set by {source}; it must be {allowed(name)}"
