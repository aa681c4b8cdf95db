"""DSNs taken apart, described without their password, and failures explained."""

from __future__ import annotations

import asyncpg
import pytest

from pgcachewatch_daemon.io.postgres.dsn import advise, describe_dsn, split_hosts


def test_a_dsn_with_several_hosts_is_one_attempt_each() -> None:
    assert split_hosts("postgresql://u:p@a:1,b:2/d?x=y") == ["postgresql://u:p@a:1/d?x=y", "postgresql://u:p@b:2/d?x=y"]
    assert split_hosts("postgresql://u@a/d") == ["postgresql://u@a/d"]
    assert split_hosts("postgresql:///d?host=/run/pg,b&port=1,2") == [
        "postgresql:///d?host=/run/pg&port=1",
        "postgresql:///d?host=b&port=2",
    ]


def test_hosts_of_the_environment_are_split_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b")
    monkeypatch.setenv("PGPORT", "5433")
    assert split_hosts(None) == ["postgresql://?host=a&port=5433", "postgresql://?host=b&port=5433"]
    monkeypatch.setenv("PGHOST", "a")
    assert split_hosts(None) == [None]


def test_a_described_dsn_never_holds_the_password() -> None:
    text = describe_dsn("postgresql://u:hunter2@a:1,b:2/d?password=hunter2&sslpassword=hunter2&host=c")
    assert "hunter2" not in text
    assert "a:1,b:2" in text


@pytest.mark.parametrize(
    "password", ["hun/ter2", "hun#ter2", "hun?ter2@x/", "hun@ter2", "hun:ter2", "[ter2", "hun]ter2"]
)
def test_nothing_is_shown_of_a_password_that_was_not_encoded(password: str) -> None:
    assert "ter2" not in describe_dsn(f"postgresql://u:{password}@a:1/d")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (asyncpg.InvalidPasswordError("no"), "check user and password"),
        (asyncpg.InvalidCatalogNameError("no"), "database name"),
        (asyncpg.TargetServerAttributeNotMatched("no"), "standby"),
        (asyncpg.CannotConnectNowError("starting up"), "no connection now"),
        (TimeoutError(), "in time"),
        (ConnectionRefusedError(111, "refused"), "can not be reached"),
        (asyncpg.ProtocolViolationError("unsupported startup parameter: x"), "pooler"),
        (KeyError("getpwuid(): uid not found: 10001"), "names no user"),
        (OSError("No username set in the environment"), "names no user"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
def test_a_failed_attempt_says_what_to_do(error: Exception, words: str) -> None:
    assert words in advise(error)
