"""What reaches the server of the ways in which operators say where it is."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pgcachewatch_config import load
from pgcachewatch_daemon.cli import relay_options
from pgcachewatch_daemon.commands.database import DatabaseRefused, add_database_options, connected
from pgcachewatch_daemon.embedded import EmbeddedPostgres
from pgcachewatch_daemon.embedded.account import server_account, temporary_parent
from pgcachewatch_daemon.io.postgres.dsn import split_hosts
from pgcachewatch_daemon.io.postgres.session import open_session
from pgcachewatch_daemon.relay import Relay
from tests.certificates import Authority
from tests.postgres import Database, all_binaries
from tests.relay_process import RelayProcess
from tests.standby import hot_standby
from tests.waiting import eventually

DEAD = "127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class Login:
    """A role that only its password lets in, and where."""

    user: str
    password: str
    host: str
    port: str
    database: str

    @property
    def service(self) -> str:
        return f"[main]\nhost={self.host}\nport={self.port}\nuser={self.user}\ndbname={self.database}\n"


@pytest.fixture
async def login(database: Database) -> AsyncIterator[Login]:
    parts = urlsplit(database.dsn)
    login = Login(
        f"operator_{secrets.token_hex(4)}", secrets.token_hex(8), "127.0.0.1", str(parts.port or 5432), database.name
    )
    connection = await database.connect()
    await connection.execute(f"CREATE ROLE {login.user} LOGIN PASSWORD '{login.password}'")
    try:
        yield login
    finally:
        await connection.execute(f"DROP ROLE {login.user}")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in tuple(os.environ):
        if name.startswith(("PGCACHEWATCH_", "PG")) and not name.startswith("PGCW_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


async def who(dsn: str | None = None) -> str:
    """Whom the server takes the relay for, with the settings as they are."""
    options = relay_options(load({} if dsn is None else {"dsn": dsn}).settings).source
    connection = await open_session(split_hosts(options.dsn)[-1], options)
    try:
        return str(await connection.fetchval("SELECT current_user || '@' || current_database()"))
    finally:
        await connection.close()


async def test_a_service_and_a_password_file_are_enough(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"{login.user}@{login.database}"
    (tmp_path / ".pg_service.conf").write_text(login.service)
    passwords = tmp_path / ".pgpass"
    passwords.write_text(f"*:{login.port}:{login.database}:{login.user}:{login.password}\n")
    passwords.chmod(0o600)
    assert await who("postgresql://?service=main") == expected
    monkeypatch.setenv("PGSERVICE", "main")
    assert await who() == expected
    passwords.rename(tmp_path / "elsewhere")
    with pytest.raises(asyncpg.PostgresError):
        await who()
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "elsewhere"))
    assert await who() == expected


async def test_each_variable_fills_in_what_the_dsn_leaves_out(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = f"{login.user}@{login.database}"
    monkeypatch.setenv("PGHOST", f"127.0.0.2,{login.host}")
    monkeypatch.setenv("PGPORT", f"1,{login.port}")
    monkeypatch.setenv("PGPASSWORD", login.password)
    assert (
        await who(f"postgresql://{login.user}@/{login.database}?connect_timeout=3&channel_binding=prefer") == expected
    )
    monkeypatch.setenv("PGUSER", login.user)
    monkeypatch.setenv("PGDATABASE", login.database)
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert await who() == expected
    dsn = tmp_path / "dsn"
    dsn.write_text(f"postgresql://{login.user}:{login.password}@{DEAD},{login.host}:{login.port}/{login.database}\n")
    for name in ("PGHOST", "PGPORT", "PGPASSWORD"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGCACHEWATCH_DSN_FILE", str(dsn))
    assert await who() == expected


async def test_serve_by_a_service_looks_at_the_catalogue_there_as_well(
    login: Login, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "services").write_text(f"{login.service}password={login.password}\n")
    relay = RelayProcess("postgresql://?service=main", drift_check_s="0.05")
    relay._environment["PGSERVICEFILE"] = str(tmp_path / "services")
    async with relay:
        assert f"postgresql://?host={login.host}" in relay.log()
        assert login.password not in relay.log()
        checks = 'pgcachewatch_drift_checks_total{result="%s"} 0.0\n'
        await eventually(lambda: checks % "ok" not in relay.get("/metrics")[1])
        assert checks % "failed" in relay.get("/metrics")[1]


async def test_commands_go_to_the_database_of_the_relays_settings(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".pg_service.conf").write_text(f"{login.service}password={login.password}\n")
    (tmp_path / "relay.toml").write_text('dsn = "postgresql://?service=main"\n')
    monkeypatch.setenv("PGDSN", f"postgresql://nobody@{DEAD}/d")
    assert await asked("--config", str(tmp_path / "relay.toml")) == login.user
    with pytest.raises(DatabaseRefused):
        await asked()


async def test_of_several_hosts_a_command_takes_the_primary_as_the_relay_does(private_server: EmbeddedPostgres) -> None:
    with hot_standby(private_server) as standby:
        parts = urlsplit(private_server.dsn)
        user, _, primary = parts.netloc.rpartition("@")
        dsn = parts._replace(netloc=f"{user}@{DEAD},127.0.0.1:{standby.port},{primary}").geturl()
        port = "SELECT current_setting('port') || pg_is_in_recovery()"
        assert await asked("--dsn", dsn, query=port) == f"{private_server.port}false"
        alone = parts._replace(netloc=f"{user}@{DEAD},127.0.0.1:{standby.port}").geturl()
        assert await asked("--dsn", alone, query=port) == f"{standby.port}true"


async def asked(*arguments: str, query: str = "SELECT current_user") -> str:
    """The answer of the server that a command with these flags connects to."""
    parser = argparse.ArgumentParser()
    add_database_options(parser)
    async with connected(parser.parse_args(arguments)) as connection:
        return str(await connection.fetchval(query))


async def test_the_servers_certificate_is_verified_by_the_authority_that_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with certificates() as folder, server_with_tls(folder) as server:
        dsn = f"{server.dsn}?sslmode=verify-full&sslrootcert={folder}"
        assert await who(f"{dsn}/trusted.pem") == "postgres@postgres"
        with pytest.raises(OSError, match="certificate verify failed"):
            await who(f"{dsn}/stranger.pem")
        monkeypatch.setenv("PGSSLROOTCERT", f"{folder}/trusted.pem")
        monkeypatch.setenv("PGSSLMODE", "verify-full")
        async with Relay(relay_options(load({"dsn": server.dsn, "port": "0"}).settings)) as relay:
            await relay.ready()


@contextmanager
def certificates() -> Iterator[Path]:
    """A folder with a server's certificate, its authority `trusted.pem`, and another authority `stranger.pem`."""
    account = server_account()
    folder = Path(tempfile.mkdtemp(prefix="pgcw-tls-", dir=temporary_parent(account)))
    try:
        Authority(folder, "stranger")
        _, key = Authority(folder, "trusted").issue("server")
        key.chmod(0o600)
        if account is not None:
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.uid, account.gid)
        yield folder
    finally:
        shutil.rmtree(folder)


def server_with_tls(folder: Path) -> EmbeddedPostgres:
    """Skips the test where no server on this machine was built with OpenSSL."""
    binaries = next((each for each in all_binaries() if _has_openssl(each.bindir)), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine was built with OpenSSL")
    files = {"ssl_cert_file": str(folder / "server.crt"), "ssl_key_file": str(folder / "server.key")}
    return EmbeddedPostgres(binaries, settings={"ssl": "on", **files})


def _has_openssl(bindir: Path) -> bool:
    program = shutil.which("pg_config", path=str(bindir))
    if program is None:
        return False
    shown = subprocess.run([program, "--configure"], capture_output=True, text=True, check=False)
    return "openssl" in shown.stdout
