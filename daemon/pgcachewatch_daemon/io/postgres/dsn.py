"""DSNs taken apart for two ends: one attempt per host, and log lines without a password.

asyncpg tries the hosts of a DSN one after another under one common timeout, so that a first host which does not even
refuse would keep the relay from the others for ever. The relay therefore asks for one host at a time.
"""

from __future__ import annotations

import os
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

import asyncpg

MASK = "***"
POOLED = (
    "the session is not with the backend that was announced: a connection pooler such as PgBouncer stands between, and "
    "would lose notifications; give a direct DSN in PGCACHEWATCH_LISTEN_DSN"
)


class Unfit(Exception):
    """The server answered and can not serve as a source; the text says what to do."""


def split_hosts(dsn: str | None) -> list[str | None]:
    """One DSN per host, in order; hosts that it does not name are those of PGHOST. None stays None where that is one.

    >>> split_hosts("postgresql://u@a:1,b:2/d")
    ['postgresql://u@a:1/d', 'postgresql://u@b:2/d']
    >>> split_hosts("postgresql:///d?host=a,b&port=1")
    ['postgresql:///d?host=a&port=1', 'postgresql:///d?host=b&port=1']
    """
    parts = urlsplit(dsn or "postgresql://")
    user, at, hosts = parts.netloc.rpartition("@")
    if "," in hosts:
        return [join(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    names = (query.get("host") or os.environ.get("PGHOST", "")).split(",")
    if hosts or len(names) == 1:
        return [dsn]
    ports = query.get("port") or os.environ.get("PGPORT", "")
    return [_with_host(dsn or "postgresql://", name, _nth(ports, index)) for index, name in enumerate(names)]


def _nth(ports: str, index: int) -> str:
    """libpq's rule: one port for all hosts, or one each."""
    given = ports.split(",")
    return given[index] if len(given) > 1 and index < len(given) else given[0]


def _with_host(dsn: str, host: str, port: str) -> str:
    parts = urlsplit(dsn)
    query = dict(parse_qsl(parts.query, keep_blank_values=True)) | {"host": host}
    if port:
        query["port"] = port
    return join(parts._replace(query=urlencode(query, safe="/")))


def join(parts: SplitResult) -> str:
    """A DSN of its parts."""
    # Not urlunsplit: without a host it leaves out the two slashes, which libpq demands.
    return f"{parts.scheme}://{parts.netloc}{parts.path}{'?' if parts.query else ''}{parts.query}"


def describe_dsn(dsn: str | None) -> str:
    """A DSN for people: who and where, never the password.

    >>> describe_dsn("postgresql://u:secret@a:1/d?password=secret&sslmode=require")
    'postgresql://u:***@a:1/d?password=***&sslmode=require'
    """
    if dsn is None:
        return "as the PG* environment says"
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return MASK
    if "@" in parts.path or parts.fragment:
        return f"{parts.scheme}://{MASK}"  # a character of the password stands for itself: where it ends is unknown
    user, at, hosts = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    query = [(key, MASK if "password" in key else value) for key, value in parse_qsl(parts.query)]
    netloc = f"{name}{colon}{MASK if colon else ''}{at}{hosts}"
    return join(parts._replace(netloc=netloc, query=urlencode(query, safe="*/,:")))


def advise(error: BaseException) -> str:
    """What a failed attempt means and what to do about it, in one sentence. Never repeats a password."""
    match error:
        case Unfit():
            return str(error)
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return f"the server refused the login ({error}); check user and password of the DSN, and pg_hba.conf"
        case asyncpg.InvalidCatalogNameError():
            return f"{error}; check the database name of the DSN"
        case asyncpg.TargetServerAttributeNotMatched():
            return "the server is a standby or in recovery, where LISTEN is refused; waiting for a primary"
        case asyncpg.CannotConnectNowError() | asyncpg.TooManyConnectionsError():
            return f"the server takes no connection now ({error})"
        case asyncpg.ClientConfigurationError():
            return f"the DSN can not work ({error})"
        case TimeoutError():
            return "the server did not answer in time; check host, port and firewall"
        case KeyError() | OSError() if "uid not found" in str(error) or "No username" in str(error):
            return "the DSN names no user, and the account of this process has no name; name one there, or in PGUSER"
        case OSError():
            return f"the server can not be reached ({error}); check host and port of the DSN"
        case _ if "unsupported startup parameter" in str(error):
            return f"a connection pooler answered ({error}); give a direct DSN in PGCACHEWATCH_LISTEN_DSN"
        case _:
            return f"{type(error).__name__}: {error}"
