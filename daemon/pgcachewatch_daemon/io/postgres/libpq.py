"""What operators expect of a DSN beyond what asyncpg does with one: services, and parameters of libpq.

asyncpg reads PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGPASSFILE, PGSSLMODE and the like by itself. It does not
read PGSERVICE, and of a service file that it reads by `service=` it passes over a name that is not in it. What it does
not know it hands to the server, which then refuses the connection: connect_timeout or channel_binding, as managed
databases put them into the DSN that they show. So a DSN is completed here, once, before anybody connects.

Source: PostgreSQL manual, "Database Connection Control Functions" and "The Connection Service File".
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.postgres.dsn import MASK, join

SERVICE, SERVICE_FILE = "PGSERVICE", "PGSERVICEFILE"
USER_FILE = Path("~/.pg_service.conf")
SYSTEM_FILE = "pg_service.conf"
SYSTEM_FOLDER = "/etc/postgresql-common"  # Debian's; others name theirs in PGSYSCONFDIR
# Parameters of libpq that mean nothing to asyncpg nor to the server.
UNUSED = frozenset({
    "channel_binding", "connect_timeout", "fallback_application_name", "gssdelegation", "gssencmode", "hostaddr",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "load_balance_hosts",
    "max_protocol_version", "min_protocol_version", "replication", "require_auth", "requirepeer", "requiressl",
    "scram_client_key", "scram_server_key", "servicefile", "sslcertmode", "sslcompression", "sslkeylogfile", "sslsni",
    "tcp_user_timeout",
})  # fmt: skip
CERTIFICATE_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
# Those that ask for more safety than is had without them.
DEMANDS = frozenset({"channel_binding", "gssencmode", "require_auth", "requirepeer"})
USED_VARIABLES = (
    "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE",
    "PGSYSCONFDIR", "PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCERT", "PGSSLKEY",
    "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION", "PGKRBSRVNAME", "PGGSSLIB",
)  # fmt: skip
UNUSED_VARIABLES = (
    "PGHOSTADDR", "PGOPTIONS", "PGAPPNAME", "PGCONNECT_TIMEOUT", "PGCHANNELBINDING", "PGREQUIREAUTH", "PGREQUIREPEER",
    "PGSSLCERTMODE", "PGSSLCRLDIR", "PGSSLSNI", "PGSSLCOMPRESSION", "PGGSSENCMODE", "PGGSSDELEGATION",
    "PGCLIENTENCODING", "PGLOADBALANCEHOSTS", "PGTZ", "PGDATESTYLE", "PGTARGETSESSIONATTRS",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Completed:
    """`dsn` for asyncpg, None for what the environment says. `unmet` are demands on safety that nobody enforces."""

    dsn: str | None
    unmet: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """One that libpq would read, its value without secrets, and whether it means anything here."""

    name: str
    shown: str
    is_used: bool


def complete(dsn: str | None, environment: Mapping[str, str] = os.environ) -> Completed:
    """The DSN with what its service says, and without what nobody here understands.

    The DSN wins over the service, the service over the other variables. Raises ConfigurationError for a service that
    is in none of its files.

    >>> complete("postgresql://u@h/d?connect_timeout=5&channel_binding=require&sslmode=require", {})
    Completed(dsn='postgresql://u@h/d?sslmode=require', unmet=('channel_binding',))
    """
    parts = urlsplit(dsn or "postgresql://")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    service = query.pop("service", "") or environment.get(SERVICE, "")
    if service:
        known = set(query) | _given_before_the_query(dsn or "postgresql://")
        query |= {name: value for name, value in read_service(service, environment).items() if name not in known}
    unmet = tuple(sorted(name for name in query.keys() & DEMANDS if query[name] not in ("prefer", "disable")))
    if query.get("hostaddr") and not query.get("host") and not parts.netloc.rpartition("@")[2]:
        query["host"] = query["hostaddr"]
    query = {name: value for name, value in query.items() if name not in UNUSED} | _trust(query, environment)
    for name in CERTIFICATE_FILES:
        _check_file(name, query.get(name) or environment.get(f"PG{name.upper()}", ""))
    if query == dict(parse_qsl(parts.query, keep_blank_values=True)):
        return Completed(dsn)
    return Completed(join(parts._replace(query=urlencode(query, safe="/", quote_via=quote))), unmet)


def _trust(query: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """`sslrootcert=system` as libpq has it: what the system trusts, and the server's name is checked."""
    if (query.get("sslrootcert") or environment.get("PGSSLROOTCERT")) != "system":
        return {}
    bundle = ssl.get_default_verify_paths().cafile
    if bundle is None:
        raise ConfigurationError("sslrootcert=system, but this system has no certificates; install ca-certificates")
    return {"sslrootcert": bundle, "sslmode": "verify-full"}


def _check_file(name: str, path: str) -> None:
    """asyncpg says only that a file is not there, and not which."""
    if path and not Path(path).is_file():
        raise ConfigurationError(f"there is no file {path}, which {name} or PG{name.upper()} names; check the path")


def _given_before_the_query(dsn: str) -> set[str]:
    parts = urlsplit(dsn)
    login, _, hosts = parts.netloc.rpartition("@")
    user, colon, _ = login.partition(":")
    given = {"host": hosts, "port": hosts, "user": user, "password": colon, "dbname": parts.path.strip("/")}
    return {name for name, value in given.items() if value}


def read_service(name: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The parameters of a service, from the user's file or the system's. Raises ConfigurationError."""
    files = [
        Path(environment.get(SERVICE_FILE) or _at_home(USER_FILE)),
        Path(environment.get("PGSYSCONFDIR") or SYSTEM_FOLDER, SYSTEM_FILE),
    ]
    for file in files:
        try:
            found = _parse(name, file)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the service file {file} can not be read ({error})") from error
        if found is not None:
            return found
    raise ConfigurationError(
        f"there is no service {name!r} in {' nor in '.join(map(str, files))}; "
        f"check {SERVICE}, service= of the DSN, and {SERVICE_FILE}"
    )


def _at_home(file: Path) -> Path:
    try:
        return file.expanduser()
    except RuntimeError:  # an account without a name and a home, as a container may have
        return file


def _parse(name: str, file: Path) -> dict[str, str] | None:
    found: dict[str, str] | None = None
    is_inside = False
    for number, each in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        line = each.strip()
        if line.startswith("["):
            is_inside = found is None and line == f"[{name}]"
            found = {} if is_inside else found
        elif is_inside and line and not line.startswith("#"):
            parameter, equals, value = line.partition("=")
            if not equals:  # the line is not shown: it may be half of a password
                raise ConfigurationError(f"line {number} of the service file {file} is no parameter=value")
            assert found is not None, "inside a service it was found"
            found.setdefault(parameter.strip(), value.strip())
    return found


def variables(environment: Mapping[str, str] = os.environ) -> list[Variable]:
    """The variables of libpq that are set, those that are used first."""
    return [
        Variable(name, MASK if "PASSWORD" in name else environment[name], is_used)
        for names, is_used in ((USED_VARIABLES, True), (UNUSED_VARIABLES, False))
        for name in names
        if environment.get(name)
    ]
