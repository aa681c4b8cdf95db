"""`pgcachewatch token NAME`: a new static token, and the lines that the file of tokens needs of it.

    pgcachewatch token billing --tables orders,shop.* --expires 90d >> tokens.toml

The lines go to standard output and hold the token's hash. The token itself goes to standard error, once: nothing keeps
it. `--hash` reads a token from standard input instead, so that it is no argument, which each user of the machine could
read. Exit code 0, or 2 for what can not work.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import secrets
import sys
from collections.abc import Sequence

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.core.access import USES
from pgcachewatch_daemon.core.credentials import TOKEN_PREFIX, Limits, Roster, digest, entry, is_plausible

EXIT_CONFIGURATION = 2
RANDOM_BYTES = 32  # nobody guesses it, which is why a plain hash of it is enough
LEAST_LENGTH = 32  # of one that somebody brings
UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def token(arguments: Sequence[str]) -> int:
    """a new token for clients, and its lines for tokens_file"""
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.hash and given.name is None:
        parser.error("give the token a name, which is the client's subject and stands in the log")
    try:
        made = _brought() if given.hash else TOKEN_PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        if given.name is None:
            sys.stdout.write(digest(made).hex() + "\n")
            return 0
        lines = entry(given.name, digest(made), _fields(given))
        Roster.parse(lines)
    except ConfigurationError as error:
        sys.stderr.write(f"pgcachewatch token: {error}\n")
        return EXIT_CONFIGURATION
    sys.stdout.write(lines)
    sys.stdout.flush()
    if not given.hash:
        sys.stderr.write(f"\nthe token, which is shown this once:\n\n    {made}\n\n")
    return 0


def _brought() -> str:
    text = sys.stdin.read().strip()
    if not is_plausible(text) or len(text) < LEAST_LENGTH:
        raise ConfigurationError(
            f"what came from standard input is no token: one line of {LEAST_LENGTH} or more characters without spaces, "
            "as random as `openssl rand -hex 32` makes them"
        )
    return text


def _fields(given: argparse.Namespace) -> dict[str, str]:
    """What the entry has beside the hash, as TOML; a JSON list of texts is one of TOML's."""
    fields = {}
    for name in Limits.model_fields:
        listed = [part.strip() for text in getattr(given, name) or () for part in text.split(",") if part.strip()]
        if getattr(given, name):
            fields[name] = json.dumps(listed)
    if given.expires is not None:
        fields["expires"] = _instant(given.expires).strftime("%Y-%m-%dT%H:%M:%SZ")
    return fields


def _instant(text: str) -> datetime.datetime:
    now = datetime.datetime.now(tz=datetime.UTC)
    span = re.fullmatch(r"([0-9]{1,5})([mhdw])", text)
    if span is not None:
        return now + datetime.timedelta(**{UNITS[span[2]]: int(span[1])})
    try:
        instant = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--expires {text[:40]!r} can not be read; write 90d, 12h, or 2027-01-31T00:00:00Z"
        ) from None
    return instant.replace(tzinfo=instant.tzinfo or datetime.UTC).astimezone(datetime.UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pgcachewatch token",
        description="A new token. What is not limited is allowed, but for the relay's state (--modes status).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", type=_name, help="letters, digits, _ and -; two can not share one"
    )
    parser.add_argument("--hash", action="store_true", help="of a token that is read from standard input")
    parser.add_argument("--expires", metavar="WHEN", help="90d, 12h, or 2027-01-31T00:00:00Z; never by itself without")
    what = {
        "channels": "names, * only at the end",
        "tables": "table, schema.table, prefix_*, schema.*",
        "operations": "insert, update, delete, truncate",
        "modes": ", ".join(sorted(USES)),
        "consumers": "names of durable consumers; needed with any other limit",
    }
    for name, text in what.items():
        parser.add_argument(f"--{name}", action="append", metavar="A,B", help=text)
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} has other characters than letters, digits, _ and -")
    return text
