"""JSON Web Tokens: the keys they are signed with, where these come from, and the check of a token."""

from __future__ import annotations

from pgcachewatch_daemon.io.jwt.keys import ALGORITHMS, Key, read_keys, secret_key
from pgcachewatch_daemon.io.jwt.remote import RemoteKeys, check_url
from pgcachewatch_daemon.io.jwt.verifier import Rules, UnknownKey, Unverified, Verified, looks_like_jwt, verify

__all__ = [
    "ALGORITHMS",
    "Key",
    "RemoteKeys",
    "Rules",
    "UnknownKey",
    "Unverified",
    "Verified",
    "check_url",
    "looks_like_jwt",
    "read_keys",
    "secret_key",
    "verify",
]
