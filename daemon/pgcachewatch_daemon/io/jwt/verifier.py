"""The check of one token: which key, is the signature right, and do the claims hold now.

`exp` is required: who issues tokens does not tell us which of them hold no more. `nbf`, `iat`, `aud` and `iss` are
checked where the token has them or the operator wants them; a token for an audience is refused while none is set, as
it was made for somebody else. Texts are ours: the library's may quote the token.

Costs: about 0.1 ms for each key that is tried, TRIES at most. Whoever calls this bounds how often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgcachewatch_daemon.io.jwt.keys import ALGORITHMS, Key

TRIES = 4  # keys that fit one token; a set with more names them by `kid`
# By the names of the library's errors; it is imported when there is a token to verify.
BAD_CLAIMS: Mapping[str, str] = {
    "ImmatureSignatureError": "this token is not valid yet; check the clocks",
    "InvalidAudienceError": "this token is for another audience; check jwt_audience and its `aud`",
    "InvalidIssuerError": "this token is of another issuer; check jwt_issuer and its `iss`",
    "MissingRequiredClaimError": "this token lacks a claim that is needed: exp, and aud or iss where they are set",
}


Claims = dict[str, Any]  # JSON


@dataclass(frozen=True, slots=True)
class Rules:
    """What a token must say. Empty: it need not."""

    algorithms: Sequence[str] = ALGORITHMS
    audience: Sequence[str] = ()
    issuer: str = ""
    leeway_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Verified:
    """What it says is so, for as long as the key is one of those there are."""

    claims: Claims
    key: Key


@dataclass(frozen=True, slots=True)
class Unverified:
    """It proves nothing. `is_expired`: it did once."""

    text: str
    is_expired: bool = False


@dataclass(frozen=True, slots=True)
class UnknownKey:
    """It names a key that is not there, and may be soon."""


Keys = Sequence[Key]


def looks_like_jwt(token: str) -> bool:
    """True for three parts.

    >>> looks_like_jwt("e.e.e"), looks_like_jwt("pgcw_e")
    (True, False)
    """
    return token.count(".") == 2


def verify(token: str, keys: Keys, rules: Rules) -> Verified | Unverified | UnknownKey:
    """The claims of a token whose signature and claims are right by the wall clock."""
    import jwt

    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, UnicodeError, RecursionError):
        return Unverified("this is no token that the relay knows")
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in rules.algorithms:
        return Unverified(f"this token is not signed in a way that is accepted; use {', '.join(rules.algorithms)}")
    fitting = [each for each in keys if each.algorithm == algorithm and (None in (kid, each.kid) or each.kid == kid)]
    if not fitting:
        return UnknownKey()
    problem = Unverified("the signature of this token is wrong")
    for key in fitting[:TRIES]:
        try:
            return Verified(_decode(token, key, rules), key)
        except jwt.InvalidSignatureError:
            continue
        except jwt.ExpiredSignatureError:
            return Unverified("this token has expired; get a new one", is_expired=True)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            return Unverified(BAD_CLAIMS.get(type(error).__name__, "this token is malformed"))
    return problem


def _decode(token: str, key: Key, rules: Rules) -> Claims:
    import jwt

    claims: Claims = jwt.decode(
        token,
        key.key,
        algorithms=[key.algorithm],
        audience=list(rules.audience) or None,
        issuer=rules.issuer or None,
        leeway=rules.leeway_s,
        options={"require": ["exp", *(["aud"] if rules.audience else []), *(["iss"] if rules.issuer else [])]},
    )
    return claims
