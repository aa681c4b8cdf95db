"""`pgcachewatch token`: what it prints where, and that the file of tokens takes it."""

from __future__ import annotations

import io
import time

import pytest

from pgcachewatch_daemon.commands.token import token
from pgcachewatch_daemon.core.access import Grant
from pgcachewatch_daemon.core.credentials import Roster, digest

BROUGHT = "0123456789abcdef0123456789abcdef"


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, Grant]:
    """The token, and what the printed lines grant it."""
    assert token(arguments) == 0
    printed = capsys.readouterr()
    secret = printed.err.split()[-1]
    assert secret not in printed.out
    grant = Roster.parse(printed.out).find(secret)
    assert grant is not None
    return secret, grant


def test_the_lines_are_for_the_file_and_the_token_is_shown_beside_them(capsys: pytest.CaptureFixture[str]) -> None:
    secret, grant = made(capsys, "billing")

    assert secret.startswith("pgcw_")
    assert len(secret) >= 48
    assert (grant.subject, grant.is_unlimited, grant.expires_at) == ("billing", True, None)


def test_no_token_is_made_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert made(capsys, "a")[0] != made(capsys, "a")[0]


def test_limits_are_lists_with_commas_or_given_several_times(capsys: pytest.CaptureFixture[str]) -> None:
    _, grant = made(
        capsys, "x", "--tables", "orders,shop.*", "--tables", "users", "--operations", "insert", "--channels", "c",
        "--modes", "stream,status", "--consumers", "mail*",
    )  # fmt: skip

    assert (grant.tables, grant.operations) == (("orders", "shop.*", "users"), frozenset("i"))
    assert (grant.channels, sorted(grant.modes), grant.consumers) == (("c",), ["status", "stream"], ("mail*",))


def test_an_empty_limit_allows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert made(capsys, "x", "--tables", ",")[1].tables == ()


@pytest.mark.parametrize(("text", "after_s"), [("90d", 7_776_000), ("12h", 43_200), ("5m", 300), ("2w", 1_209_600)])
def test_an_end_is_counted_from_now(capsys: pytest.CaptureFixture[str], text: str, after_s: int) -> None:
    before_s = int(time.time())
    _, grant = made(capsys, "x", "--expires", text)

    assert grant.expires_at is not None
    assert before_s + after_s <= grant.expires_at <= int(time.time()) + after_s


@pytest.mark.parametrize("text", ["2030-01-01T00:00:00Z", "2030-01-01", "2030-01-01T02:00:00+02:00"])
def test_an_end_may_be_an_instant(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert made(capsys, "x", "--expires", text)[1].expires_at == 1893456000.0


def test_a_token_that_somebody_brings_is_hashed_and_not_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(BROUGHT + "\n"))
    assert token(["--hash"]) == 0
    assert capsys.readouterr().out == digest(BROUGHT).hex() + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(BROUGHT))
    assert token(["--hash", "shop"]) == 0
    printed = capsys.readouterr()
    assert Roster.parse(printed.out).find(BROUGHT) is not None
    assert BROUGHT not in printed.out + printed.err


@pytest.mark.parametrize("text", ["", "short", "a password of several words and more", "x" * 20_000])
def test_what_is_no_token_is_not_hashed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))

    assert token(["--hash", "x"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert not text or text not in printed.err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["x", "--expires", "soon"], "90d"),
        (["x", "--tables", "*x"], "tables"),
        (["x", "--modes", "all"], "modes.0"),
        (["x", "--operations", "drop"], "operations.0"),
    ],
)
def test_what_can_not_work_is_one_sentence(capsys: pytest.CaptureFixture[str], arguments: list[str], part: str) -> None:
    assert token(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert part in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["a b"], ["a]"], ["--tables", "x"]])
def test_a_token_has_a_name_that_needs_no_quotes(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        token(arguments)

    assert ended.value.code == 2
    assert capsys.readouterr().out == ""
