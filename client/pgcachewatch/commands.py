"""The commands of `pgcachewatch`: which one is meant, and whose it is.

They are found where packages announce theirs, in the entry point group `pgcachewatch.commands`, because the client
may not import the daemon. `install` and `uninstall` come with the client too, for the original's table-level triggers:
they are its own when that is asked for, by `--mode table` or by a flag that only the original has, and when the daemon,
whose triggers tell rows apart, is not installed. `tail` and `status URL` speak to a relay and are the client's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from importlib import metadata

from pgcachewatch import cli

GROUP = "pgcachewatch.commands"
OWN = {"install": "watch tables: put a trigger on each", "uninstall": "stop watching all tables of a channel"}
ORIGINAL_FLAGS = ("--function-name", "--trigger-name")
MODE = "--mode"
OF_RELAYS = {"tail": "follow changes as they are committed", "status URL": "the state of a relay, live in a terminal"}
SCHEMES = ("ws://", "wss://", "http://", "https://")
DAEMON = {"serve", "demo", "settings", "status", "doctor", "token"}
ONLY_TABLES = (
    "pgcachewatch: without the daemon package only table-level triggers can be installed, whose events concern the "
    "whole table: pip install 'pgcachewatch[daemon]' for triggers that tell which rows changed\n"
)
NEEDS_DAEMON = "the {name!r} command needs the daemon, which is not installed: pip install 'pgcachewatch[daemon]'"


def run(arguments: Sequence[str]) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 the command line can not work."""
    given = list(arguments)
    name = given[0] if given else "--help"
    commands = {one.name: one for one in metadata.entry_points(group=GROUP)}
    if name == "tail" or (name == "status" and _is_of_a_relay(given[1:])):
        return _ask_relay(name, given[1:])
    if name in OWN:
        return _triggers(given, commands.get(name))
    if name in commands:
        return _run(commands[name], given[1:])
    if name in ("-h", "--help", "help"):
        sys.stdout.write(_help(commands))
        return 0
    if name in ("-V", "--version"):
        sys.stdout.write(f"pgcachewatch {metadata.version('pgcachewatch')}\n")
        return 0
    if name in DAEMON:
        sys.stderr.write(f"pgcachewatch: {NEEDS_DAEMON.format(name=name)}\n")
        return 1
    sys.stderr.write(f"pgcachewatch: there is no command {name!r}\n\n{_help(commands)}")
    return 2


def _triggers(given: list[str], command: metadata.EntryPoint | None) -> int:
    """`install` or `uninstall`: the daemon's, or the client's own."""
    mode, rest = _split_mode(given)
    if mode == "table" or any(_is_original(argument) for argument in rest):
        return asyncio.run(cli.main(rest))
    if command is not None and _can_load(command):
        return _run(command, given[1:])
    if mode is not None:
        sys.stderr.write(f"pgcachewatch: {NEEDS_DAEMON.format(name=f'{given[0]} {MODE} {mode}')}\n")
        return 1
    sys.stderr.write(ONLY_TABLES)
    return asyncio.run(cli.main(rest))


def _is_of_a_relay(arguments: list[str]) -> bool:
    """True for `status` of a relay. The one of a database, which is the daemon's, has flags only."""
    is_first = bool(arguments) and not arguments[0].startswith("-")
    return is_first or any(argument.startswith(SCHEMES) for argument in arguments)


def _ask_relay(name: str, arguments: list[str]) -> int:
    # Not at the top: `serve` needs none of it, and starts sooner without.
    from pgcachewatch.status import status
    from pgcachewatch.tail import tail

    return tail(arguments) if name == "tail" else status(arguments)


def _split_mode(given: list[str]) -> tuple[str | None, list[str]]:
    """The value of the last --mode, and the command line without it."""
    mode, rest, arguments = None, [], iter(given)
    for argument in arguments:
        if argument == MODE:
            mode = next(arguments, "")
        elif argument.startswith(f"{MODE}="):
            mode = argument.removeprefix(f"{MODE}=")
        else:
            rest.append(argument)
    return mode, rest


def _is_original(argument: str) -> bool:
    """True for a flag that only the original has, which took it abbreviated too."""
    name = argument.partition("=")[0]
    return len(name) > len("--") and any(flag.startswith(name) for flag in ORIGINAL_FLAGS)


def _can_load(command: metadata.EntryPoint) -> bool:
    try:
        command.load()
    except ImportError:
        return False
    return True


def _run(command: metadata.EntryPoint, arguments: list[str]) -> int:
    try:
        function = command.load()
    except ImportError as error:
        sys.stderr.write(f"pgcachewatch: {NEEDS_DAEMON.format(name=command.name)} ({error})\n")
        return 1
    code: int = function(arguments)
    return code


def _help(commands: dict[str, metadata.EntryPoint]) -> str:
    rows = {**OWN, **OF_RELAYS}
    for name in sorted(commands):
        if name not in OWN or _can_load(commands[name]):
            rows[name] = _summary(commands[name])
    for name in sorted(DAEMON - rows.keys()):
        rows[name] = "needs pip install 'pgcachewatch[daemon]'"
    width = max(len(name) for name in rows)
    lines = [f"  {name:<{width}}  {text}" for name, text in rows.items()]
    return "\n".join(
        ["usage: pgcachewatch COMMAND ...", "", *lines, "", "pgcachewatch COMMAND --help tells more about one.", ""]
    )


def _summary(command: metadata.EntryPoint) -> str:
    try:
        lines = (command.load().__doc__ or "").strip().splitlines()
    except ImportError:
        return "needs pip install 'pgcachewatch[daemon]'"
    return lines[0] if lines else ""
