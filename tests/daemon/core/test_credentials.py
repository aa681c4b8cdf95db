"""What the file of tokens and the claims of a token grant, and that neither grants by mistake."""

from __future__ import annotations

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.core.access import USES_OF_DATA, Grant
from pgcachewatch_daemon.core.credentials import (
    CLAIM,
    REVOKED_LIMIT,
    Denied,
    Revoked,
    Roster,
    check_time,
    digest,
    entry,
    is_plausible,
    read_claims,
)

TOKEN = "pgcw_of-the-shop"
HASH = f'sha256 = "{digest(TOKEN).hex()}"\n'


def granted(claims: dict[str, object]) -> Grant:
    grant = read_claims({"exp": 2e9, **claims})
    assert isinstance(grant, Grant), grant
    return grant


def refused(claims: dict[str, object]) -> Denied:
    denied = read_claims({"exp": 2e9, **claims})
    assert isinstance(denied, Denied)
    return denied


def test_a_token_is_found_by_itself_and_has_the_limits_of_its_table() -> None:
    roster = Roster.parse(
        f'["the shop"]\n{HASH}channels = ["c"]\ntables = ["orders"]\noperations = ["insert", "delete"]\n'
        'modes = ["stream", "status"]\nconsumers = ["mail*"]\nexpires = 2030-01-01T01:00:00+01:00\n'
    )

    assert roster.find(TOKEN) == Grant(
        "the shop",
        channels=("c",),
        tables=("orders",),
        operations=frozenset("id"),
        modes=frozenset({"stream", "status"}),
        consumers=("mail*",),
        expires_at=1893456000.0,
        credential=digest(TOKEN),
    )
    assert roster.find(digest(TOKEN).hex()) is None, "the hash is no token"
    assert roster.find(TOKEN + " ") is None
    assert roster.get(digest(TOKEN)) is roster.find(TOKEN)


def test_a_token_without_limits_sees_each_event_and_not_the_state_of_the_relay() -> None:
    grant = Roster.parse(f"[x]\n{HASH}").find(TOKEN)

    assert grant is not None
    assert grant.is_unlimited
    assert (grant.modes, grant.expires_at) == (USES_OF_DATA, None)


@pytest.mark.parametrize(
    "exp", ["2000000000", True, None, -1, 10**20, 10**400, float("nan"), float("inf")], ids=lambda exp: repr(exp)[:20]
)
def test_an_end_that_is_no_instant_grants_nothing(exp: object) -> None:
    """The library that verifies takes some of these: a text of digits, a number that no float holds."""
    denied = refused({CLAIM: {}, "exp": exp})

    assert denied.reason == "forbidden"
    assert "`exp`" in denied.text


def test_a_day_ends_a_token_at_its_beginning_in_utc() -> None:
    grant = Roster.parse(f"[x]\n{HASH}expires = 2030-01-01").find(TOKEN)

    assert grant is not None
    assert grant.expires_at == 1893456000.0


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[x", "not valid TOML"),
        ("[x]\n", "sha256: Field required"),
        (f'[x]\nsha256 = "{TOKEN}"', "64 hex digits"),
        (f'[x]\n{HASH}table = ["orders"]', "there is no field 'table'"),
        (f'[x]\n{HASH}tables = "orders"', "tables"),
        (f'[x]\n{HASH}tables = ["*x"]', "tables"),
        (f'[x]\n{HASH}operations = ["drop"]', "operations.0"),
        (f'[x]\n{HASH}modes = ["everything"]', "modes.0"),
        (f"[x]\n{HASH}expires = 2030-01-01T00:00:00", "zone"),
        (f'[x]\n{HASH}expires = "soon"', "expires"),
        (f"[x]\n{HASH}[y]\n{HASH}", "'x' and 'y' have the same sha256"),
        (HASH, "outside of any token"),
        (f'[""]\n{HASH}', "name has 1 to"),
        (f"[revoked]\n{HASH}", "'revoked', which is no token: there is no field 'sha256'; there are jti, subjects"),
        (f'[revoked]\njti = "{TOKEN}"', "jti must be a list of texts"),
        (f'[revoked]\njti = [["{TOKEN}"]]', "jti.0"),
        (f'revoked = "{TOKEN}"', "write [revoked] above its lists"),
    ],
)
def test_a_mistake_in_the_file_is_named_and_no_value_of_it(text: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Roster.parse(text)

    assert part in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert digest(TOKEN).hex() not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_tokens_of_a_file_are_bounded() -> None:
    with pytest.raises(ConfigurationError, match="10001 tokens"):
        Roster.parse("".join(f"[a{number}]\n" for number in range(10_001)))


def test_tokens_that_are_revoked_are_bounded() -> None:
    listed = ", ".join(f'"{number}"' for number in range(REVOKED_LIMIT + 1))
    with pytest.raises(ConfigurationError, match="at most 100000 items"):
        Roster.parse(f"[revoked]\nsubjects = [{listed}]\n")


def test_signed_tokens_are_revoked_by_their_number_or_their_subject_and_static_ones_are_not() -> None:
    long = "x" * 300
    revoked = Roster.parse(f'[revoked]\njti = ["4b1f"]\nsubjects = ["7", "jwt", "{long}"]\n').revoked

    assert len(revoked) == 4
    for claims, is_covered in (
        ({"sub": "8", "jti": "4b1f"}, True),
        ({"sub": "7", "jti": "4b20"}, True),
        ({}, True),
        ({"sub": long}, True),
        ({"sub": "8", "jti": "4b20"}, False),
        ({"sub": "4b1f", "jti": "7"}, False),
    ):
        assert revoked.covers(granted({CLAIM: {}, **claims})) is is_covered
    assert not revoked.covers(Grant("7", credential=b"x"))
    assert Roster.parse("").revoked == Revoked()


def test_an_empty_file_lets_nobody_in() -> None:
    assert len(Roster.parse("")) == 0
    assert Roster.parse("").find("") is None


def test_claims_grant_what_they_name() -> None:
    grant = granted({"sub": "7", CLAIM: {"tables": ["tenant7_*"], "operations": ["update"]}})

    assert grant == Grant("7", tables=("tenant7_*",), operations=frozenset("u"), expires_at=2e9)
    assert granted({CLAIM: {}}).subject == "jwt"
    assert granted({CLAIM: {}}).is_unlimited
    assert granted({CLAIM: {}, "sub": "\ud800" * 200}).subject.encode() == b"\\ud800" * 33 + b"\\u"


@pytest.mark.parametrize(
    "claim",
    [None, True, [], "orders", {"table": ["orders"]}, {"tables": "orders"}, {"tables": [7]}, {"sha256": "0" * 64}],
)
def test_a_claim_that_is_not_understood_grants_nothing(claim: object) -> None:
    denied = refused({CLAIM: claim})

    assert denied.reason == "forbidden"
    assert CLAIM in denied.text


def test_a_token_without_our_claim_is_told_what_to_add() -> None:
    assert '"tables": ["orders"]' in refused({"sub": "7", "scope": "everything"}).text


def test_a_grant_ends_at_its_instant() -> None:
    grant = Grant("x", expires_at=100.0)

    assert check_time(grant, 99.9) is grant
    assert isinstance(check_time(grant, 100.0), Denied)
    assert check_time(Grant("x"), 1e12) == Grant("x")


def test_an_entry_is_what_the_file_wants() -> None:
    text = entry("shop", digest(TOKEN), {"tables": '["orders"]', "expires": "2030-01-01T00:00:00Z"})

    assert Roster.parse(text).find(TOKEN) == Grant(
        "shop", tables=("orders",), expires_at=1893456000.0, credential=digest(TOKEN)
    )


@pytest.mark.parametrize("token", ["", "a b", "ü", "a\nb", "\0", "x" * 16_385, "\ud800"])
def test_what_can_not_be_a_token_is_not_looked_at(token: str) -> None:
    assert not is_plausible(token)
    assert digest(token), "and breaks nothing"


def test_a_token_of_either_kind_is_looked_at() -> None:
    assert is_plausible("pgcw_" + "x" * 43)
    assert is_plausible("eyJ0.eyJz-_.c2ln")
