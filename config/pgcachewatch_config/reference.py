"""The reference file `config/pgcachewatch.toml`, written from the Settings class so that it can not go stale.

python -m pgcachewatch_config.reference > config/pgcachewatch.toml
"""

from __future__ import annotations

import json
import sys
import textwrap

from pgcachewatch_config.settings import Settings
from pgcachewatch_config.spelling import allowed, group_of, is_reloadable, is_switch, variable

WIDTH = 100
UNITS = {"_s": "seconds", "_bytes": "bytes"}

HEAD = """\
# Every option of the relay, with its default. Generated: python -m pgcachewatch_config.reference
#
# Copy what you change into a file of your own and start the relay with --config FILE (or PGCACHEWATCH_CONFIG=FILE);
# as a service of systemd it finds pgcachewatch.toml in its ConfigurationDirectory by itself.
# An environment variable wins over the file, a flag of the command line over both: port = 8420 is the same as
# PGCACHEWATCH_PORT=8420 and as --port 8420. PGCACHEWATCH_DSN_FILE=/run/secrets/dsn reads the value of dsn from that
# file, and so for each option. Unknown options and wrong values are refused at start; an unknown variable is warned
# about, and one that is empty counts as not set. `pgcachewatch settings` shows what all of it comes to.
#
# "reloadable": SIGHUP makes a running relay read its sources anew and use it. The others wait for a restart.
#
# On Kubernetes set enableServiceLinks: false: a Service named "pgcachewatch" would else set PGCACHEWATCH_PORT, which
# is recognized and not used.
"""


def render_reference() -> str:
    """The whole file. A default that is "nothing" is shown as a comment, since TOML has no null."""
    parts = [HEAD]
    group = ""
    for name, field in Settings.model_fields.items():
        if group_of(name) != group:
            group = group_of(name)
            parts.append(f"\n# --- {group}\n")
        unit = next((word for ending, word in UNITS.items() if name.endswith(ending)), "")
        notes = [allowed(name), unit, "reloadable" if is_reloadable(name) else ""]
        note = f"{field.description} ({', '.join(part for part in notes if part)})"
        parts.append("\n" + textwrap.fill(note, WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n")
        parts.append(f"# {name} =\n" if field.default is None else f"{name} = {json.dumps(field.default)}\n")
    return "".join(parts)


def render_help(name: str) -> str:
    """One option for `--help`."""
    field = Settings.model_fields[name]
    shown = json.dumps(field.default) if is_switch(name) else field.default
    default = f" Default: {shown}." if shown not in (None, "", ()) else ""
    return f"{field.description}{default} Also {variable(name)}."


if __name__ == "__main__":
    sys.stdout.write(render_reference())
