"""JSON Web Tokens: the keys they are signed with, where these come from, and the check of a token."""

from __future__ import annotations

from pgcachewatch_daemon.io.jwt.keys import ALGORITHMS, Key, read_keys, secret_key
from pgcachewatch_daemon.io.jwt.remote import RemoteKeys
from pgcachewatch_daemon.io.jwt.verifier import Keys, Rules, UnknownKey, Unverified, verify

__all__ = [
    "ALGORITHMS",
    "Key",
    "Keys",
    "RemoteKeys",
    "Rules",
    "UnknownKey",
    "Unverified",
    "read_keys",
    "secret_key",
    "verify",
]
