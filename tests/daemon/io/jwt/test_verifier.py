"""A token is believed when its key signed it, in that key's way, and it says all that it must; else never."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest

from pgcachewatch_daemon.io.jwt.keys import Key, read_keys, secret_key
from pgcachewatch_daemon.io.jwt.verifier import Rules, UnknownKey, Unverified, Verified, verify
from tests.daemon.io.jwt.signing import SECRET, jwk, jwks, public_pem, token

KEYS = (secret_key(SECRET), *read_keys(public_pem("RS256")), *read_keys(public_pem("ES256") + public_pem("EdDSA")))


def forged(header: dict[str, object], claims: dict[str, object], secret: bytes) -> str:
    return sealed(json.dumps(header).encode(), json.dumps(claims).encode(), secret)


def sealed(header: bytes, claims: bytes, secret: bytes) -> str:
    def part(content: bytes) -> bytes:
        return base64.urlsafe_b64encode(content).rstrip(b"=")

    signed = part(header) + b"." + part(claims)
    return (signed + b"." + part(hmac.digest(secret, signed, hashlib.sha256))).decode()


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_a_token_is_believed_by_the_key_that_signed_it(algorithm: str) -> None:
    verified = verify(token(algorithm, sub="7"), KEYS, Rules())

    assert isinstance(verified, Verified)
    assert (verified.claims["sub"], verified.key.algorithm) == ("7", algorithm)
    assert verified.key in KEYS


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_signature_by_another_key_is_wrong(algorithm: str) -> None:
    assert verify(token(algorithm, 1), KEYS, Rules()) == Unverified("the signature of this token is wrong")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_the_text_of_a_public_key_is_no_secret_to_sign_with(algorithm: str) -> None:
    everybody_knows = public_pem(algorithm).encode()
    attack = forged({"alg": "HS256", "typ": "JWT"}, {"exp": 2e9, "sub": "root"}, everybody_knows)

    assert isinstance(verify(attack, read_keys(public_pem(algorithm)), Rules()), UnknownKey)
    assert isinstance(verify(attack, KEYS, Rules()), Unverified)


@pytest.mark.parametrize("algorithm", ["none", "None", "", "HS384", "RS512", "PS256", None, 7])
def test_a_token_that_is_signed_in_no_accepted_way_is_refused(algorithm: object) -> None:
    signed = forged({"alg": algorithm}, {"exp": 2e9}, SECRET.encode())
    unsigned = signed.rpartition(".")[0] + "."

    assert isinstance(verify(signed, KEYS, Rules()), Unverified)
    assert isinstance(verify(unsigned, KEYS, Rules()), Unverified)


def test_an_algorithm_that_the_operator_left_out_is_refused() -> None:
    assert isinstance(verify(token("HS256"), KEYS, Rules(("ES256",))), Unverified)
    assert not isinstance(verify(token("ES256"), KEYS, Rules(("ES256",))), Unverified | UnknownKey)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_token_that_was_changed_is_refused(at: int) -> None:
    parts = token("ES256", sub="7").split(".")
    parts[at] = parts[at][:-4] + ("AAAA" if parts[at][-4:] != "AAAA" else "BBBB")

    assert isinstance(verify(".".join(parts), KEYS, Rules()), Unverified | UnknownKey)


@pytest.mark.parametrize("text", ["", "..", "a.b.c", "e30.e30.e30", "eyJhbGciOiJIUzI1NiJ9.e30.", "....", "\ud800.a.b"])
def test_garbage_is_refused(text: str) -> None:
    assert isinstance(verify(text, KEYS, Rules()), Unverified)


def test_a_token_must_end_and_not_have_ended() -> None:
    now_s = int(time.time())

    assert isinstance(verify(token(exp=None), KEYS, Rules()), Unverified)
    assert verify(token(exp=now_s - 60), KEYS, Rules()) == Unverified(
        "this token has expired; get a new one", is_expired=True
    )
    assert not isinstance(verify(token(exp=now_s - 60), KEYS, Rules(leeway_s=300.0)), Unverified)
    assert isinstance(verify(token(nbf=now_s + 600), KEYS, Rules()), Unverified)
    assert not isinstance(verify(token(nbf=now_s + 60), KEYS, Rules(leeway_s=120.0)), Unverified)


@pytest.mark.parametrize("exp", ["soon", {}, 1e400, -1])
def test_an_end_that_is_no_instant_is_refused(exp: object) -> None:
    assert isinstance(verify(token(exp=exp), KEYS, Rules()), Unverified)


def test_audience_and_issuer_must_be_those_that_are_set() -> None:
    rules = Rules(audience=("cache", "relay"), issuer="https://id.example")
    good: dict[str, Any] = {"aud": ["relay", "x"], "iss": "https://id.example"}  # Any: JSON

    assert not isinstance(verify(token(**good), KEYS, rules), Unverified)
    for bad in ({"aud": "other"}, {"aud": None}, {"iss": "https://else.example"}, {"iss": None}):
        assert isinstance(verify(token(**{**good, **bad}), KEYS, rules), Unverified), bad


def test_a_token_for_an_audience_is_refused_while_none_is_set() -> None:
    denied = verify(token(aud="somebody-else"), KEYS, Rules())

    assert isinstance(denied, Unverified)
    assert "jwt_audience" in denied.text


def test_a_key_is_found_by_its_name() -> None:
    keys = read_keys(jwks(jwk("ES256", 0, kid="old"), jwk("ES256", 1, kid="new")))

    assert not isinstance(verify(token("ES256", 1, kid="new"), keys, Rules()), Unverified | UnknownKey)
    assert not isinstance(verify(token("ES256", 1), keys, Rules()), Unverified | UnknownKey)
    assert isinstance(verify(token("ES256", 1, kid="old"), keys, Rules()), Unverified)
    assert isinstance(verify(token("ES256", 1, kid="newer"), keys, Rules()), UnknownKey)


def test_the_keys_that_are_tried_for_one_token_are_bounded() -> None:
    keys = [*read_keys(public_pem("ES256")) * 4, *read_keys(public_pem("ES256", 1))]

    assert isinstance(verify(token("ES256", 1), keys, Rules()), Unverified)


def test_no_refusal_repeats_the_token() -> None:
    secret = "c2VjcmV0LW9mLXRoZS10b2tlbg"
    for text in (secret, f"{secret}.{secret}.{secret}", token(sub=secret, aud=secret), token("ES256", 1, sub=secret)):
        denied = verify(text, KEYS, Rules())
        assert isinstance(denied, Unverified)
        assert secret not in denied.text


def test_without_keys_nothing_is_believed() -> None:
    keys: tuple[Key, ...] = ()

    assert isinstance(verify(token(), keys, Rules()), UnknownKey)


HOSTILE: dict[str, tuple[bytes, bytes]] = {
    "nothing to sign with": (b'{"alg":"none"}', b"{}"),
    "a header that is a thousand lists": (b'{"alg":"HS256","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}", b"{}"),
    "claims that are a thousand lists": (b'{"alg":"HS256"}', b'{"x":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    "a demand that nobody understands": (b'{"alg":"HS256","crit":["x"],"x":1}', b"{}"),
    "a payload that is elsewhere": (b'{"alg":"HS256","crit":["b64"],"b64":false}', b"{}"),
    "a name of a key that is none": (b'{"alg":"HS256","kid":["a"]}', b"{}"),
    "an end in words of five thousand digits": (b'{"alg":"HS256"}', b'{"exp":' + b"9" * 5_000 + b"}"),
    "an end that never comes": (b'{"alg":"HS256"}', b'{"exp":Infinity}'),
    "a beginning that never comes": (b'{"alg":"HS256"}', b'{"exp":2e9,"nbf":Infinity}'),
    "of two ends the later, then the earlier": (b'{"alg":"HS256"}', b'{"exp":2000000000,"exp":1}'),
    "a token in a token": (b'{"alg":"HS256","cty":"JWT"}', token().encode()),
    "an audience of no texts": (b'{"alg":"HS256"}', b'{"exp":2000000000,"aud":[{"a":1}]}'),
    "no object": (b'{"alg":"HS256"}', b"[1]"),
    "no text": (b'{"alg":"HS256"}', b'{"exp":\xff}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_token_that_was_made_to_confuse_is_refused_in_our_words(name: str) -> None:
    attack = sealed(*HOSTILE[name], SECRET.encode())

    assert isinstance(verify(attack, KEYS, Rules()), Unverified)


@pytest.mark.parametrize(
    "header",
    [
        b'{"alg":"HS256","kid":"../../dev/null"}',
        b'{"alg":"HS256","jku":"http://127.0.0.1:1/jwks"}',
        b'{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}',
    ],
)
def test_a_header_that_says_where_the_key_is_finds_no_other_than_ours(header: bytes) -> None:
    claims = b'{"exp":2000000000}'

    assert isinstance(verify(sealed(header, claims, SECRET.encode()), KEYS, Rules()), Verified)
    assert isinstance(verify(sealed(header, claims, b""), KEYS, Rules()), Unverified)
    assert isinstance(verify(sealed(header, claims, b"\0"), KEYS, Rules()), Unverified)
