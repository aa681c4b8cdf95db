"""Keys that tokens are signed with, each for one algorithm and no other.

That a key is pinned to its algorithm is what defeats the oldest attack on JSON Web Tokens: a token that says HS256 and
is signed with the text of a public key, which everybody knows. The header of a token never chooses how it is verified;
it can only fail to find a key.

Public keys are read from PEM (also certificates) or from a JWKS (RFC 7517). Of a JWKS, keys that are for something else
or of a kind that is not known are left out, as the RFC wants it; so are symmetric and private ones, which have no place
in a public document. Texts of errors hold nothing of a key. Bounds: KEYS_LIMIT keys, TEXT_BYTES of text.

The libraries are imported by the first who needs them: a relay without such tokens starts faster by a sixth.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pgcachewatch.errors import ConfigurationError

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]

ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
SECRET_BYTES = 32  # RFC 7518 section 3.2: as long as the hash
RSA_BITS = 2_048  # section 3.3
KEYS_LIMIT = 100
TEXT_BYTES = 1_048_576
BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Key:
    """`kid` None: it is tried for tokens that name any key, or none."""

    algorithm: Algorithm
    key: Any = field(repr=False)  # Any: one type for each algorithm, which the library knows
    kid: str | None = None


def secret_key(secret: str) -> Key:
    """A shared secret. Raises ConfigurationError for one that is short enough to be guessed from one token."""
    size_bytes = len(secret.encode())
    if size_bytes < SECRET_BYTES:
        raise ConfigurationError(
            f"jwt_secret has {size_bytes} bytes, it needs {SECRET_BYTES} or more; make one with `openssl rand -hex 32`"
        )
    return Key("HS256", secret.encode())


def read_keys(text: str) -> tuple[Key, ...]:
    """The public keys of a PEM or JWKS text, at least one. Raises ConfigurationError."""
    if len(text.encode("utf-8", "surrogatepass")) > TEXT_BYTES:
        raise ConfigurationError(f"it has more than {TEXT_BYTES} bytes")
    keys = _read_jwks(text) if text.lstrip().startswith("{") else _read_pem(text)
    if len(keys) > KEYS_LIMIT:
        raise ConfigurationError(f"it has {len(keys)} keys, at most {KEYS_LIMIT} are allowed")
    return keys


def _read_pem(text: str) -> tuple[Key, ...]:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from cryptography.x509 import load_pem_x509_certificate

    keys = []
    for block in BLOCK.finditer(text):
        if "PRIVATE" in block[1]:
            raise ConfigurationError("it holds a private key; the relay needs the public one, and nobody else this one")
        try:
            if block[1] == "CERTIFICATE":
                public: object = load_pem_x509_certificate(block[0].encode()).public_key()
            else:
                public = load_pem_public_key(block[0].encode())
        except Exception:  # what the library raises has no common class, and its text may show the key
            raise ConfigurationError(f"its block {block[1]!r} can not be read as a public key") from None
        algorithm = _algorithm(public)
        if algorithm is None:
            raise ConfigurationError(
                f"its block {block[1]!r} is no RSA key of {RSA_BITS} bits or more, P-256 or Ed25519 key"
            )
        keys.append(Key(algorithm, public))
    if not keys:
        raise ConfigurationError("it holds neither a PEM public key nor a JWKS")
    return tuple(keys)


def _read_jwks(text: str) -> tuple[Key, ...]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigurationError("it begins as a JWKS and is not JSON") from None
    listed = content.get("keys")
    if not isinstance(listed, list):
        raise ConfigurationError('it is no JWKS: there is no list "keys"')
    keys = [key for each in listed[: KEYS_LIMIT + 1] if (key := _from_jwk(each)) is not None]
    if not keys:
        raise ConfigurationError(
            f"none of its {len(listed)} keys can be used; it needs a public one for signatures, which is "
            f"RSA of {RSA_BITS} bits or more, P-256 or Ed25519"
        )
    return tuple(keys)


def _from_jwk(jwk: object) -> Key | None:
    """None for one that is not for us."""
    import jwt

    if not isinstance(jwk, Mapping) or jwk.get("use") not in (None, "sig") or "d" in jwk or jwk.get("kty") == "oct":
        return None
    try:
        public = jwt.PyJWK(dict(jwk)).key
    except Exception:  # as above: whatever is wrong with one key, the others are good
        return None
    algorithm = _algorithm(public)
    kid = jwk.get("kid")
    if algorithm is None or jwk.get("alg") not in (None, algorithm) or not isinstance(kid, str | None):
        return None
    return Key(algorithm, public, kid)


def _algorithm(public: object) -> Algorithm | None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    match public:
        case RSAPublicKey() if public.key_size >= RSA_BITS:
            return "RS256"
        case EllipticCurvePublicKey() if isinstance(public.curve, SECP256R1):
            return "ES256"
        case Ed25519PublicKey():
            return "EdDSA"
        case _:
            return None
