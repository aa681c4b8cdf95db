"""The reference file `config/pgcachewatch.toml`, written from the Settings class so that it can not go stale.

python -m pgcachewatch_config.reference > config/pgcachewatch.toml
"""

from __future__ import annotations

import json
import sys
import textwrap

from pgcachewatch_config.settings import ENVIRONMENT_PREFIX, Settings, allowed, flag

WIDTH = 100
UNITS = {"_s": "seconds", "_bytes": "bytes"}

HEAD = """\
# Every option of the relay, with its default. Generated: python -m pgcachewatch_config.reference
#
# Copy what you change into a file of your own and start the relay with --config FILE (or PGCACHEWATCH_CONFIG=FILE).
# An environment variable wins over the file, a flag of the command line over both: port = 8420 is the same as
# PGCACHEWATCH_PORT=8420 and as --port 8420. Unknown options and wrong values are refused at start.
#
# On Kubernetes set enableServiceLinks: false. A Service named "pgcachewatch" would else set PGCACHEWATCH_PORT.
"""


def render_reference() -> str:
    """The whole file. A default that is "nothing" is shown as a comment, since TOML has no null."""
    parts = [HEAD]
    group = ""
    for name, field in Settings.model_fields.items():
        extra = field.json_schema_extra
        assert isinstance(extra, dict), "each option is declared with option()"
        if extra["group"] != group:
            group = str(extra["group"])
            parts.append(f"\n# --- {group}\n")
        unit = next((word for ending, word in UNITS.items() if name.endswith(ending)), "")
        note = f"{field.description} ({allowed(name)}{', ' + unit if unit else ''})"
        parts.append("\n" + textwrap.fill(note, WIDTH, initial_indent="# ", subsequent_indent="# ") + "\n")
        parts.append(f"# {name} =\n" if field.default is None else f"{name} = {json.dumps(field.default)}\n")
    return "".join(parts)


def render_help(name: str) -> str:
    """One option for `--help`."""
    field = Settings.model_fields[name]
    default = "" if field.default in (None, "") else f" Default: {field.default}."
    return f"{field.description}{default} Also {ENVIRONMENT_PREFIX}{name.upper()}."


__all__ = ["flag", "render_help", "render_reference"]

if __name__ == "__main__":
    sys.stdout.write(render_reference())
