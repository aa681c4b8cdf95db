"""Keys to sign tokens with, made when they are needed, and the tokens."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SECRET = "a-secret-of-more-than-thirty-two-bytes"
CLAIM: dict[str, Any] = {"pgcachewatch": {"tables": ["orders"]}}


def private_key(algorithm: str, number: int = 0) -> Any:  # Any: one type for each algorithm
    """Another one for each number."""
    return _made(algorithm, number)


@functools.cache
def _made(algorithm: str, number: int) -> Any:  # Any: as above
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65_537, 2_048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def public_pem(algorithm: str, number: int = 0) -> str:
    key = private_key(algorithm, number).public_key()
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def jwk(algorithm: str, number: int = 0, **fields: object) -> dict[str, object]:
    public = private_key(algorithm, number).public_key()
    made: dict[str, object] = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    return {**made, **fields}


def jwks(*keys: dict[str, object]) -> str:
    return json.dumps({"keys": list(keys)})


# Any: JSON
def token(algorithm: str = "HS256", number: int = 0, *, kid: str | None = None, **claims: Any) -> str:
    """Valid for an hour unless `exp` says otherwise; a claim that is None is left out."""
    key = SECRET if algorithm == "HS256" else private_key(algorithm, number)
    content = {"exp": int(time.time()) + 3_600, **claims}
    return jwt.encode(
        {name: value for name, value in content.items() if value is not None},
        key,
        algorithm=algorithm,
        headers={"kid": kid} if kid is not None else None,
    )
