"""`pgcachewatch settings`: every option with the value that counts and where it came from, and what libpq adds.

It takes what `serve` takes and reads what `serve` would read, so the same command line with another word in front
shows what a relay will go by. Exit code 0, or 2 with the sentence that `serve` would end with. Secrets are masked.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import pydantic

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Loaded, Settings
from pgcachewatch_config.command_line import Parser, add_options, read
from pgcachewatch_config.spelling import group_of, is_reloadable
from pgcachewatch_daemon.io.postgres import complete, describe_dsn
from pgcachewatch_daemon.io.postgres.libpq import Variable, variables
from pgcachewatch_daemon.showing import shown

EXIT_CONFIGURATION = 2
DEFAULT = "default"
WIDEST = 60  # a longer value pushes its own line out, and no other
DIM, PLAIN = "\033[2m", "\033[0m"


@dataclass(frozen=True, slots=True)
class Effective:
    """What is shown: the settings, the databases that are connected to, and libpq's variables."""

    loaded: Loaded
    databases: dict[str, str]
    libpq: Sequence[Variable]


def settings(arguments: Sequence[str]) -> int:
    """the value of each option and where it came from, secrets masked"""
    given = _parser().parse_args(arguments)
    try:
        effective = look(given)
    except ConfigurationError as error:
        sys.stderr.write(f"pgcachewatch settings: {error}\n")
        return EXIT_CONFIGURATION
    for warning in effective.loaded.warnings:
        sys.stderr.write(f"pgcachewatch settings: {warning}\n")
    is_colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    sys.stdout.write(render_json(effective) if given.json else render(effective, is_colored=is_colored))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pgcachewatch settings",
        description="What a relay would go by with this command line, and where each value comes from.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_options(parser)
    return parser


def look(given: argparse.Namespace) -> Effective:
    """Read all sources. Raises ConfigurationError."""
    loaded = read(given)
    listens, looks = loaded.settings.listen_dsn, loaded.settings.dsn
    return Effective(
        loaded, {"listens": _connects(listens or looks), "looks": _connects(looks or listens)}, variables()
    )


def _connects(dsn: pydantic.SecretStr | None) -> str:
    return describe_dsn(complete(dsn.get_secret_value() if dsn else None).dsn)


def render(effective: Effective, *, is_colored: bool = False) -> str:
    """A table for people; options at their default are dim on a terminal."""
    rows = [(name, _value(effective, name), _source(effective, name)) for name in Settings.model_fields]
    name_width = max(len(name) for name, _, _ in rows)
    value_width = max(len(value) for _, value, _ in rows if len(value) <= WIDEST)
    lines: list[str] = []
    group = ""
    for name, value, source in rows:
        if group_of(name) != group:
            group = group_of(name)
            lines += ["", group]
        mark = "" if is_reloadable(name) else "  (restart)"
        line = f"  {name:<{name_width}}  {value:<{value_width}}  {source}{mark}"
        lines.append(f"{DIM}{line}{PLAIN}" if is_colored and source == DEFAULT else line)
    lines += ["", "Database", *(f"  {use:<{name_width}}  {place}" for use, place in effective.databases.items())]
    if effective.libpq:
        lines += ["", "Variables of libpq", *(_libpq_line(each, name_width) for each in effective.libpq)]
    lines += ["", "An option takes effect at SIGHUP, or where it says so at a restart."]
    return "\n".join(lines[1:]) + "\n"


def _libpq_line(each: Variable, width: int) -> str:
    return f"  {each.name:<{width}}  {each.shown}{'' if each.is_used else '  (not used)'}"


def render_json(effective: Effective) -> str:
    """The same as one object. Values have their own types, but for secrets, which are masked texts or null."""
    options = {
        name: {
            "value": shown(name, value) if isinstance(value, str | pydantic.SecretStr) else value,
            "source": _source(effective, name),
            "is_default": name not in effective.loaded.sources,
            "is_reloadable": is_reloadable(name),
        }
        for name, value in ((name, getattr(effective.loaded.settings, name)) for name in Settings.model_fields)
    }
    libpq = {each.name: {"value": each.shown, "is_used": each.is_used} for each in effective.libpq}
    content = {"settings": options, "database": effective.databases, "libpq": libpq}
    return json.dumps(content | {"warnings": effective.loaded.warnings}, indent=2) + "\n"


def _value(effective: Effective, name: str) -> str:
    return shown(name, getattr(effective.loaded.settings, name)) or '""'


def _source(effective: Effective, name: str) -> str:
    return effective.loaded.sources.get(name, DEFAULT)
