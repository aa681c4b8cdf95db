"""Values of options for people: in log lines and tables, without secrets."""

from __future__ import annotations

import pydantic

from pgcachewatch_daemon.io.postgres.dsn import MASK, describe_dsn


def shown(name: str, value: object) -> str:
    """A value as text. Of a secret nothing is left, of a DSN who and where.

    >>> shown("port", 8420), shown("allowed_origins", ("https://a", "https://b"))
    ('8420', 'https://a,https://b')
    >>> shown("dsn", pydantic.SecretStr("postgresql://u:secret@h/d"))
    'postgresql://u:***@h/d'
    """
    if isinstance(value, pydantic.SecretStr):
        return describe_dsn(value.get_secret_value()) if name.endswith("dsn") else MASK
    if isinstance(value, str) and "://" in value:
        return describe_dsn(value)  # an address may hold a password too
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(str(each) for each in value)
    return str(value)
