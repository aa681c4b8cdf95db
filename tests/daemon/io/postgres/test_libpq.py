"""DSNs completed by services, and rid of what nobody here understands."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.postgres.libpq import USED_VARIABLES, complete, read_service, variables

SERVICES = """\
# ours
[other]
host=elsewhere

[main]
host=db
 port = 5433
user=app
password=p%w = x
dbname=d

[main]
host=second
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "services").write_text(SERVICES)
    return {"PGSERVICEFILE": str(tmp_path / "services"), "PGSYSCONFDIR": str(tmp_path)}


def test_a_dsn_that_asks_for_nothing_is_left_as_it_is() -> None:
    assert complete(None, {}).dsn is None
    dsn = "postgresql://u:p%40@a:1,b:2/d?sslmode=require&x=a%20b"
    assert complete(dsn, {}).dsn == dsn


def test_a_service_is_named_by_the_dsn_or_by_the_environment(environment: dict[str, str]) -> None:
    whole = "postgresql://?host=db&port=5433&user=app&password=p%25w%20%3D%20x&dbname=d"
    assert complete("postgresql://?service=main", environment).dsn == whole
    assert complete(None, environment | {"PGSERVICE": "main"}).dsn == whole
    assert complete("postgresql://?service=main", environment | {"PGSERVICE": "other"}).dsn == whole


def test_the_dsn_wins_over_the_service(environment: dict[str, str]) -> None:
    completed = complete("postgresql://me:mine@near:1/e?service=main", environment).dsn
    assert completed == "postgresql://me:mine@near:1/e"
    assert complete("postgresql:///?service=main&user=me", environment).dsn == (
        "postgresql:///?user=me&host=db&port=5433&password=p%25w%20%3D%20x&dbname=d"
    )


def test_a_service_that_the_user_does_not_have_may_be_the_systems(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pg_service.conf").write_text("[system]\nhost=s\n")
    assert read_service("system", environment) == {"host": "s"}
    assert read_service("other", environment) == {"host": "elsewhere"}


def test_a_service_that_is_nowhere_names_the_files_that_were_read(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="no service 'mian' in ") as caught:
        complete("postgresql://?service=mian", environment)
    assert environment["PGSERVICEFILE"] in str(caught.value)


def test_an_account_without_a_home_has_no_service_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(ConfigurationError, match="no service 'main'"):
        read_service("main", {"PGSYSCONFDIR": str(tmp_path)})


def test_a_line_that_is_no_parameter_is_named_and_not_shown(environment: dict[str, str]) -> None:
    Path(environment["PGSERVICEFILE"]).write_text("[main]\nhost=db\nhunter2\n")
    with pytest.raises(ConfigurationError, match="line 3") as caught:
        read_service("main", environment)
    assert "hunter2" not in str(caught.value)


def test_parameters_that_only_libpq_knows_do_not_reach_the_server() -> None:
    shown = "postgresql://u:p@h/d?sslmode=require&channel_binding=require&connect_timeout=10&application_name=x"
    completed = complete(shown, {})
    assert completed.dsn == "postgresql://u:p@h/d?sslmode=require&application_name=x"
    assert completed.unmet == ("channel_binding",)
    assert complete("postgresql://h/d?channel_binding=prefer", {}).unmet == ()


def test_an_address_without_a_name_is_the_host() -> None:
    assert complete("postgresql://u@/d?hostaddr=10.0.0.1", {}).dsn == "postgresql://u@/d?host=10.0.0.1"
    assert complete("postgresql://u@h/d?hostaddr=10.0.0.1", {}).dsn == "postgresql://u@h/d"


def test_what_the_system_trusts_is_a_file_and_the_name_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bundle").write_text("x")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "bundle"))
    whole = f"postgresql://h?sslrootcert={tmp_path}/bundle&sslmode=verify-full"
    assert complete("postgresql://h?sslrootcert=system", {}).dsn == whole
    assert complete("postgresql://h", {"PGSSLROOTCERT": "system"}).dsn == whole


@pytest.mark.parametrize("name", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
def test_a_certificate_that_is_not_there_is_named(name: str) -> None:
    for dsn, environment in ((f"postgresql://h?{name}=/none", {}), (None, {f"PG{name.upper()}": "/none"})):
        with pytest.raises(ConfigurationError, match=f"no file /none, which {name}"):
            complete(dsn, environment)


def test_variables_are_told_without_passwords_and_with_whether_they_count() -> None:
    found = variables({"PGHOST": "h", "PGPASSWORD": "hunter2", "PGAPPNAME": "x", "PGDATA": "/x", "PGPORT": ""})
    assert [(one.name, one.shown, one.is_used) for one in found] == [
        ("PGHOST", "h", True),
        ("PGPASSWORD", "***", True),
        ("PGAPPNAME", "x", False),
    ]
    assert "PGSERVICE" in USED_VARIABLES
