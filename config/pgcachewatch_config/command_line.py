"""Options as flags of a command, and all sources read for it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from typing import NoReturn

from pgcachewatch_config.reference import render_help
from pgcachewatch_config.settings import Settings
from pgcachewatch_config.sources import CONFIG_VARIABLE, Loaded, find_config_file, load
from pgcachewatch_config.spelling import did_you_mean, flag, is_switch


class Parser(argparse.ArgumentParser):
    """A wrong command line is one sentence, without the usage: with so many options that hides what is wrong."""

    def error(self, message: str) -> NoReturn:
        before, arguments, given = message.partition("unrecognized arguments: ")
        if arguments:  # their values are left out: among them may be a password
            flags = [part.partition("=")[0] for part in given.split() if part.startswith("-")]
            message = f"{before}{arguments}{' '.join(flags) or 'a value without a flag'}"
            advice = did_you_mean(flags[0].lstrip("-"), spell=flag) if flags else ""
        else:
            advice = ""
        self.exit(2, f"{self.prog}: {message}; {advice or 'see --help'}\n")


def add_options(parser: argparse.ArgumentParser, names: Collection[str] = tuple(Settings.model_fields)) -> None:
    """A flag for each of these options, and --config."""
    group = parser.add_argument_group(
        "settings", "Each may also stand in the configuration file or the environment; the command line wins."
    )
    group.add_argument("--config", metavar="FILE", help=f"TOML file. Also {CONFIG_VARIABLE}.")
    for name in names:
        group.add_argument(
            flag(name),
            dest=name,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=render_help(name).replace("%", "%%"),
            nargs="?" if is_switch(name) else None,
            const="true" if is_switch(name) else None,
        )


def read(given: argparse.Namespace) -> Loaded:
    """The settings as all sources say now. Raises ConfigurationError."""
    flags = {name: value for name, value in vars(given).items() if name in Settings.model_fields}
    return load(flags, config_file=given.config or find_config_file(os.environ))
