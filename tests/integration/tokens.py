"""A file of static tokens, and relays that need them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from pgcachewatch_daemon.authentication import AccessOptions
from pgcachewatch_daemon.core.credentials import digest, entry
from pgcachewatch_daemon.relay import RelayOptions
from tests.postgres import Database
from tests.raw_client import options

Limits = dict[str, Any]  # JSON, which TOML's lists and texts are alike


def write_tokens(path: Path, tokens: dict[str, Limits]) -> None:
    """By the token itself, its limits; `expires` is seconds of the Unix epoch."""
    texts = []
    for number, (token, limits) in enumerate(tokens.items()):
        lines = {name: json.dumps(value) for name, value in limits.items() if name != "expires"}
        if "expires" in limits:
            lines["expires"] = datetime.datetime.fromtimestamp(limits["expires"], tz=datetime.UTC).isoformat()
        texts.append(entry(f"t{number}", digest(token), lines))
    # As it is to be done: a relay that looks meanwhile sees the one or the other.
    whole = path.with_suffix(".new")
    whole.write_text("".join(texts))
    whole.replace(path)


def guarded(database: Database, path: Path, tokens: dict[str, Limits], **access: Any) -> RelayOptions:
    """`access`: further AccessOptions."""
    write_tokens(path, tokens)
    return options(database.dsn, access=AccessOptions(tokens_file=str(path), **access))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
