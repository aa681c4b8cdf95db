"""Which keys are read, what each may be used for, and which have no place here."""

from __future__ import annotations

import datetime
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.jwt.keys import Key, read_keys, secret_key
from tests.daemon.io.jwt.signing import jwk, jwks, private_key, public_pem


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_is_for_the_algorithm_of_its_kind(algorithm: str) -> None:
    from_pem = read_keys(public_pem(algorithm))
    from_jwks = read_keys(jwks(jwk(algorithm, kid="1", use="sig", alg=algorithm)))

    assert [(key.algorithm, key.kid) for key in from_pem] == [(algorithm, None)]
    assert [(key.algorithm, key.kid) for key in from_jwks] == [(algorithm, "1")]
    assert from_pem[0].key == from_jwks[0].key


def test_a_file_may_have_several_keys_so_that_they_can_be_changed() -> None:
    text = public_pem("ES256") + "\n# the next one\n" + public_pem("ES256", 1) + public_pem("RS256")

    assert [key.algorithm for key in read_keys(text)] == ["ES256", "ES256", "RS256"]


def test_a_certificate_stands_for_its_key() -> None:
    key, name = private_key("ES256"), x509.Name([])
    now = datetime.datetime.now(tz=datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )

    assert read_keys(certificate.decode()) == read_keys(public_pem("ES256"))


def test_keys_of_a_jwks_that_are_not_for_us_are_left_out() -> None:
    private = jwk("ES256", kid="private", d="AAAA")
    text = jwks(
        private,
        {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"},
        jwk("RS256", kid="encrypts", use="enc"),
        jwk("RS256", kid="other", alg="PS256"),
        jwk("ES256", kid=7),
        {"kty": "new"},
        {},
        jwk("ES256", kid="good"),
    )

    assert [key.kid for key in read_keys(text)] == ["good"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "neither"),
        ("{", "not JSON"),
        ("{}", 'no list "keys"'),
        (jwks(), "none of its 0"),
        (jwks({"kty": "oct", "k": "c2VjcmV0"}), "none of its 1"),
        ("-----BEGIN PUBLIC " + "KEY-----\nAAAA\n-----END PUBLIC " + "KEY-----", "can not be read"),
        (pem(rsa.generate_private_key(65_537, 1_024)), "2048 bits"),
        (pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
        ("x" * 1_048_577, "more than"),
        (public_pem("ES256") * 101, "101 keys"),
    ],
)
def test_what_has_no_usable_key_is_refused_in_words(text: str, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part):
        read_keys(text)


def test_a_private_key_is_refused_since_it_is_in_the_wrong_place() -> None:
    text = private_key("ES256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    with pytest.raises(ConfigurationError, match="the public one") as caught:
        read_keys(text)

    assert text.splitlines()[1] not in str(caught.value)


def test_a_secret_is_as_long_as_its_hash_or_refused() -> None:
    assert secret_key("x" * 32) == Key("HS256", b"x" * 32)
    with pytest.raises(ConfigurationError, match="31 bytes"):
        secret_key("x" * 31)


def test_a_key_does_not_show_itself() -> None:
    assert "xxxx" not in repr(secret_key("x" * 32))


def test_relay_without_such_tokens_does_not_load_the_libraries() -> None:
    program = "import sys, pgcachewatch_daemon.cli; sys.exit(' '.join({'jwt', 'cryptography'} & set(sys.modules)) or 0)"

    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert answer.returncode == 0, f"loaded: {answer.stderr}"
