"""How options are written: on the command line, in the environment, in the file, and in sentences about them."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable
from typing import Any

import pydantic

from pgcachewatch_config.settings import Settings

ENVIRONMENT_PREFIX = "PGCACHEWATCH_"


def flag(name: str) -> str:
    """How an option is spelled on the command line.

    >>> flag("log_level")
    '--log-level'
    """
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """How an option is spelled in the environment.

    >>> variable("log_level")
    'PGCACHEWATCH_LOG_LEVEL'
    """
    return ENVIRONMENT_PREFIX + name.upper()


def is_secret(name: str) -> bool:
    """True for an option whose value must not be shown.

    >>> is_secret("dsn"), is_secret("port")
    (True, False)
    """
    return _holds_secret(Settings.model_fields[name].annotation)


def is_reloadable(name: str) -> bool:
    """True for an option that takes effect at SIGHUP."""
    return bool(_extra(name)["is_reloadable"])


def is_switch(name: str) -> bool:
    """True for an option that is on or off; its flag may stand without a value."""
    return Settings.model_fields[name].annotation is bool


def group_of(name: str) -> str:
    """The heading that an option stands under."""
    return str(_extra(name)["group"])


def allowed(name: str) -> str:
    """What an option accepts, in words.

    >>> allowed("port")
    'a whole number from 0 to 65535'
    """
    schema = _schema()["properties"][name]
    if "allowed" in schema:
        return str(schema["allowed"])
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return f"a text of {schema.get('minLength', 0)} to {schema.get('maxLength', 'any number of')} characters"
    kind = "a whole number" if schema["type"] == "integer" else "a number"
    least = f"from {schema['minimum']}" if "minimum" in schema else f"above {schema['exclusiveMinimum']}"
    return f"{kind} {least}" + (f" to {schema['maximum']}" if "maximum" in schema else "")


def did_you_mean(name: str, *, spell: Callable[[str], str] = str) -> str:
    """A question with the option that is written most like this; empty when none is.

    >>> did_you_mean("prot")
    "did you mean 'port'?"
    """
    close = difflib.get_close_matches(name.replace("-", "_").lower(), Settings.model_fields, n=1)
    return f"did you mean {spell(close[0])!r}?" if close else ""


@functools.cache
def _schema() -> dict[str, Any]:  # Any: a JSON schema
    return Settings.model_json_schema()


def _extra(name: str) -> dict[str, pydantic.JsonValue]:
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict), "each option is declared with option()"
    return extra


def _holds_secret(annotation: object) -> bool:
    if annotation is pydantic.SecretStr:
        return True
    return any(_holds_secret(part) for part in getattr(annotation, "__args__", ()))
