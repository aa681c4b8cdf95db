"""What is written of grants: in the file of static tokens, and in the claims of a JSON Web Token.

Both name the same limits, and both are read strictly: a field that is misspelled would else grant everything. Texts of
errors name the token and the field, never a value, since somebody may have put the token itself where its hash belongs.

Static tokens are kept as SHA-256 of the token. That is enough, and no slow hash is needed, because they are made of 256
random bits: nobody guesses one, whatever a guess costs. So a token is found by looking its hash up. How long that takes
tells something about hashes, which cannot be chosen by whoever sends a token, and nothing about tokens.

    [billing]                              # the name, shown in the log and as the client's subject
    sha256 = "…64 hex digits…"
    tables = ["orders", "shop.*"]          # and channels, operations, modes, consumers: see core/access
    expires = 2027-01-31T00:00:00Z

    [revoked]                              # no token: JSON Web Tokens that hold no more, though they have not ended
    jti = ["4b1f0c2e"]
    subjects = ["user-7"]                  # each token with this `sub`

Bounds: TOKENS_LIMIT tokens in a file, REVOKED_LIMIT that are revoked, and those of core/access for names.
"""

from __future__ import annotations

import datetime
import hashlib
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import pydantic

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol.messages import OP_CODES, TOKEN_LENGTH
from pgcachewatch_daemon.core.access import NAME_LENGTH, USES_OF_DATA, Grant, Use, check_names

CLAIM = "pgcachewatch"
REVOKED = "revoked"
TOKENS_LIMIT = 10_000
REVOKED_LIMIT = 100_000
LATEST_S = 253_402_300_799  # the end of the year 9999: above that, calendars fail
TOKEN_PREFIX = "pgcw_"  # what a scanner for leaked secrets can look for
WITHOUT_CLAIM = (
    f'this token does not say what it allows: have its issuer add the claim "{CLAIM}", such as {{"tables": ["orders"]}}'
)

Reason = Literal["missing", "unknown", "expired", "revoked", "forbidden", "busy"]


@dataclass(frozen=True, slots=True)
class Denied:
    """No grant. `text` is for whoever sent the credential, and holds no part of it. "busy": to be tried again."""

    reason: Reason
    text: str


def _checked(names: list[str]) -> list[str]:
    try:
        check_names(names)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return names


Names = Annotated[list[str], pydantic.AfterValidator(_checked)]


class Limits(pydantic.BaseModel):
    """The fields of a grant, as people and issuers write them. What is left out is not limited (core/access)."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    channels: Names | None = None
    tables: Names | None = None
    operations: list[Literal["insert", "update", "delete", "truncate"]] | None = None
    modes: list[Use] | None = None
    consumers: Names | None = None

    def grant(
        self, subject: str, *, expires_at: float | None, credential: bytes | None = None, jti: str | None = None
    ) -> Grant:
        return Grant(
            subject=subject,
            channels=_tuple(self.channels),
            tables=_tuple(self.tables),
            operations=None if self.operations is None else frozenset(OP_CODES[each] for each in self.operations),
            modes=USES_OF_DATA if self.modes is None else frozenset(self.modes),
            consumers=_tuple(self.consumers),
            expires_at=expires_at,
            credential=credential,
            jti=jti,
        )


class StaticToken(Limits):
    """One table of the file."""

    sha256: Annotated[str, pydantic.Field(pattern=r"^[0-9a-fA-F]{64}$")]
    expires: datetime.datetime | datetime.date | None = None

    @pydantic.field_validator("expires")
    @classmethod
    def _has_zone(cls, value: datetime.datetime | datetime.date | None) -> datetime.datetime | None:
        if value is None:
            return None
        if not isinstance(value, datetime.datetime):
            return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC)
        if value.tzinfo is None:
            raise ValueError("give the time with its zone, as 2027-01-31T00:00:00Z")
        return value


class Revoked(pydantic.BaseModel):
    """What the file says of JSON Web Tokens that hold no more. One without `sub` has the subject `jwt`, as in the log.

    >>> Revoked(subjects={"7"}).covers(Grant("7")), Revoked(jti={"4b1f"}).covers(Grant("7", jti="4b20"))
    (True, False)
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    jti: Annotated[frozenset[str], pydantic.Field(max_length=REVOKED_LIMIT)] = frozenset()
    subjects: Annotated[frozenset[str], pydantic.Field(max_length=REVOKED_LIMIT)] = frozenset()

    @pydantic.field_validator("subjects")
    @classmethod
    def _as_kept(cls, names: frozenset[str]) -> frozenset[str]:
        return frozenset(name[:NAME_LENGTH] for name in names)  # what is left of a longer one in a grant

    def __len__(self) -> int:
        return len(self.jti) + len(self.subjects)

    def covers(self, grant: Grant) -> bool:
        """True when the token that gave this is revoked. A static token is revoked by taking it out."""
        return grant.credential is None and (grant.jti in self.jti or grant.subject in self.subjects)


NOBODY = Revoked()


def digest(token: str) -> bytes:
    """What a token is found by."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Roster:
    """The static tokens of one file, by their hashes, and which others it revokes.

    >>> roster = Roster.parse('[shop]\\nsha256 = "' + digest("secret").hex() + '"\\ntables = ["orders"]')
    >>> roster.find("secret").tables, roster.find("else")
    (('orders',), None)
    """

    def __init__(self, grants: Collection[Grant] = (), revoked: Revoked = NOBODY) -> None:
        self.revoked = revoked
        self._by_digest = {grant.credential: grant for grant in grants}

    def __len__(self) -> int:
        return len(self._by_digest)

    @classmethod
    def parse(cls, text: str) -> Roster:
        """Raises ConfigurationError with one sentence that says which token is wrong, and how."""
        try:
            tables = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"it is not valid TOML: {error}") from None
        revoked = _revoked(tables.pop(REVOKED, {}))
        if len(tables) > TOKENS_LIMIT:
            raise ConfigurationError(f"it has {len(tables)} tokens, at most {TOKENS_LIMIT} are allowed")
        grants: dict[bytes, Grant] = {}
        for name, content in tables.items():
            grant = _static(name, content)
            assert grant.credential is not None, "a static token has a hash"
            other = grants.setdefault(grant.credential, grant)
            if other is not grant:
                raise ConfigurationError(f"tokens {other.subject!r} and {name!r} have the same sha256; make one anew")
        return cls(grants.values(), revoked)

    def find(self, token: str) -> Grant | None:
        return self.get(digest(token))

    def get(self, credential: bytes) -> Grant | None:
        """What this credential allows now; None when there is no such token any more."""
        return self._by_digest.get(credential)


def _static(name: str, content: object) -> Grant:
    if not 0 < len(name) <= NAME_LENGTH or not name.isprintable():
        raise ConfigurationError(f"a token's name has 1 to {NAME_LENGTH} characters that can be shown")
    if not isinstance(content, dict):
        raise ConfigurationError(f"{name!r} stands outside of any token; write [NAME] above its fields")
    try:
        token = StaticToken.model_validate(content)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"token {name!r}: {_problem(error)}") from None
    expires = token.expires
    assert expires is None or isinstance(expires, datetime.datetime), "the validator has made it one"
    expires_at = expires.timestamp() if expires is not None else None
    return token.grant(name, expires_at=expires_at, credential=bytes.fromhex(token.sha256))


def _revoked(content: object) -> Revoked:
    try:
        return Revoked.model_validate(content)
    except pydantic.ValidationError as error:
        raise ConfigurationError(f"{REVOKED!r}, which is no token: {_problem(error, Revoked)}") from None


def read_claims(claims: Mapping[str, object]) -> Grant | Denied:
    """What a verified token allows. Without our claim: nothing, since whoever signed it may not have meant us.

    >>> read_claims({"sub": "7", "exp": 1, CLAIM: {"tables": ["tenant7_*"]}}).tables
    ('tenant7_*',)
    """
    if CLAIM not in claims:
        return Denied("forbidden", WITHOUT_CLAIM)
    try:
        limits = Limits.model_validate(claims[CLAIM])
    except pydantic.ValidationError as error:
        return Denied("forbidden", f'the claim "{CLAIM}" can not be used: {_problem(error)}')
    subject, expires = claims.get("sub"), claims.get("exp")
    # Who verifies has seen that there is one, and takes it also as a text, or with more digits than a float holds.
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires <= LATEST_S:
        return Denied("forbidden", "`exp` of this token can not be used: it is a number of seconds since 1970")
    # Of a lone surrogate no text can be sent, and the list of all clients would fail at this one.
    name = "jwt" if subject is None else str(subject)[:NAME_LENGTH].encode(errors="backslashreplace").decode()
    jti = claims.get("jti")
    return limits.grant(name[:NAME_LENGTH], expires_at=float(expires), jti=jti if isinstance(jti, str) else None)


def check_time(grant: Grant, wall_s: float) -> Grant | Denied:
    """The grant, unless it has ended. `wall_s`: seconds of the Unix epoch."""
    if grant.expires_at is not None and grant.expires_at <= wall_s:
        return Denied("expired", "this token has expired; get a new one")
    return grant


def entry(name: str, credential: bytes, lines: Mapping[str, str]) -> str:
    """The lines that stand for a token in the file. `lines` are further fields, as TOML.

    >>> print(entry("shop", b"\\0" * 32, {"tables": '["orders"]'}).partition("sha256")[0], end="")
    [shop]
    """
    fields = {"sha256": f'"{credential.hex()}"', **lines}
    return "\n".join([f"[{name}]", *(f"{field} = {value}" for field, value in fields.items())]) + "\n"


def is_plausible(token: str) -> bool:
    """False for what no credential can look like, so that nothing is computed for it."""
    return 0 < len(token) <= TOKEN_LENGTH and re.fullmatch(r"[\x21-\x7e]+", token) is not None


def _problem(error: pydantic.ValidationError, model: type[pydantic.BaseModel] = Limits) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return f"there is no field {place[:NAME_LENGTH]!r}; there are {known}"
    if first["type"] == "string_pattern_mismatch":
        return f"{place} must have 64 hex digits; `pgcachewatch token --hash` makes them of a token"
    if first["type"] == "frozen_set_type":
        return f"{place} must be a list of texts"
    if first["type"] == "model_type":
        return f"write [{REVOKED}] above its lists"
    return f"{place}: {first['msg']}" if place else str(first["msg"])


def _tuple(names: list[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
