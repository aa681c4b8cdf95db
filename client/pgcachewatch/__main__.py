"""The `pgcachewatch` command: `python -m pgcachewatch` is the same program.

`install` and `uninstall` come with the client. Every other command is found where packages announce theirs, in the
entry point group `pgcachewatch.commands`, because the client may not import the daemon.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from importlib import metadata

from pgcachewatch import cli

GROUP = "pgcachewatch.commands"
OWN = {"install": "watch tables: put a trigger on each", "uninstall": "stop watching all tables of a channel"}
DAEMON = {"serve", "demo", "status", "tail", "doctor", "settings"}
NEEDS_DAEMON = "the {name!r} command needs the daemon, which is not installed: pip install 'pgcachewatch[daemon]'"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0 done, 1 failed, 2 the command line can not work."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = given[0] if given else "--help"
    commands = {one.name: one for one in metadata.entry_points(group=GROUP)}
    if name in OWN:
        return asyncio.run(cli.main(given))
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


def _run(command: metadata.EntryPoint, arguments: list[str]) -> int:
    try:
        function = command.load()
    except ImportError as error:
        sys.stderr.write(f"pgcachewatch: {NEEDS_DAEMON.format(name=command.name)} ({error})\n")
        return 1
    code: int = function(arguments)
    return code


def _help(commands: dict[str, metadata.EntryPoint]) -> str:
    rows = dict(OWN)
    for name in sorted(commands):
        rows.setdefault(name, _summary(commands[name]))
    for name in sorted({"serve", "demo"} - rows.keys()):
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


if __name__ == "__main__":
    sys.exit(main())
