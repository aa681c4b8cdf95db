"""From what a client shows to what it may see: static tokens, JSON Web Tokens, a certificate, or nothing at all.

Without a file of tokens and without keys there is no authentication, and everybody is ANYBODY. With either, a token is
needed. What was read once goes on being used when a file becomes unreadable: an operator's mistake must neither send
everybody away nor let anybody in.

A signature costs a few tenths of a millisecond, and strangers can ask for as many as they like. So verified tokens are
remembered, the checks of one address that fail are limited, and all checks together are. Whoever is over is told to try
again. Static tokens cost a hash and need none of it.

Bounds: VERIFIED_LIMIT tokens remembered; CHECKS_PER_S; FAILURES_PER_S for an address; those of the parts.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import assert_never

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.core.access import ANYBODY, USES, Grant
from pgcachewatch_daemon.core.allowance import Allowance, Allowances
from pgcachewatch_daemon.core.credentials import Denied, Roster, check_time, digest, is_plausible, read_claims
from pgcachewatch_daemon.core.forwarding import household
from pgcachewatch_daemon.io.jwt import (
    ALGORITHMS,
    Key,
    RemoteKeys,
    Rules,
    UnknownKey,
    Unverified,
    Verified,
    check_url,
    looks_like_jwt,
    read_keys,
    secret_key,
    verify,
)
from pgcachewatch_daemon.io.watched_file import WatchedFile
from pgcachewatch_daemon.lines import line_logger

VERIFIED_LIMIT = 10_000
CHECKS_PER_S = 1_000.0
CHECKS_AT_ONCE = 2_000
FAILURES_PER_S = 1.0
FAILURES_AT_ONCE = 20

MISSING = Denied("missing", "this relay needs a token: send it in `Authorization: Bearer`, or in the hello")
UNKNOWN = Denied("unknown", "this is no token that the relay knows")
BUSY = Denied("busy", "too many tokens are being checked; try again")
NO_KEYS_YET = Denied("busy", "the keys of tokens are being fetched; try again")
NEEDED_NOW = Denied("revoked", "this relay needs a token now")
REVOKED = Denied("revoked", "this token was revoked")
KEY_GONE = Denied("revoked", "the key that this token was signed with is no more; get a new token")

logger = line_logger(__name__)


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Empty texts are options that are not set. `needs_certificate`: TLS lets in nobody without one."""

    allow_anonymous: bool = False
    tokens_file: str = ""
    jwt_secret: str = field(default="", repr=False)
    jwt_keys_file: str = ""
    jwks_url: str = field(default="", repr=False)
    jwks_refresh_s: float = 300.0
    rules: Rules = field(default_factory=Rules)
    allowed_origins: tuple[str, ...] = ()
    needs_certificate: bool = False

    @property
    def has_jwt(self) -> bool:
        return bool(self.jwt_secret or self.jwt_keys_file or self.jwks_url)

    @property
    def needs_token(self) -> bool:
        return bool(self.tokens_file) or self.has_jwt

    def check(self, host: str) -> None:
        """Raises ConfigurationError for options that contradict each other, or would let strangers in unsaid."""
        if self.allow_anonymous and self.needs_token:
            raise ConfigurationError(
                "allow_anonymous would make tokens_file and the jwt_ options useless; use one or the others"
            )
        unknown = set(self.rules.algorithms) - set(ALGORITHMS)
        if unknown or not self.rules.algorithms:
            raise ConfigurationError(
                f"jwt_algorithms has {', '.join(sorted(unknown)) or 'nothing'}; use some of {', '.join(ALGORITHMS)}"
            )
        if not (self.allow_anonymous or self.needs_token or self.needs_certificate or is_loopback(host)):
            raise ConfigurationError(
                f"host={host!r} can be reached by others, and whoever reaches it could read which rows change: set "
                "tokens_file or a jwt_ option, or host=127.0.0.1, or say allow_anonymous=true"
            )


def is_loopback(host: str) -> bool:
    """True when all that `host` stands for is this machine's own. A name that is unknown is for the bind to refuse."""
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return bool(host)
    addresses = {str(address[4][0]).partition("%")[0] for address in found}
    return all(address.startswith("127.") or address == "::1" for address in addresses)


@dataclass(frozen=True, slots=True)
class Material:
    """What was read of files and options: static tokens, and keys but for those that are fetched."""

    roster: Roster
    keys: tuple[Key, ...]


class Authentication:
    """Of one relay, or of one of its workers. `now_s` is a monotonic clock, `wall_s` the Unix time.

    `changed` is called when what credentials allow may be something else.
    """

    def __init__(
        self,
        options: AccessOptions,
        *,
        now_s: Callable[[], float],
        wall_s: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self.results: Counter[str] = Counter()  # "accepted", or the reason of the refusal
        self._now_s = now_s
        self._wall_s = wall_s
        self._changed = changed
        self._files = _files(options)
        self._material = _read(options, self._files)
        self._remote = self._make_remote(options)
        self._verified: dict[bytes, Grant] = {}
        self._checks = Allowance()
        self._failures = Allowances()
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_needed(self) -> bool:
        """Nobody is served without saying who it is."""
        return self.options.needs_token

    @property
    def key_fetches(self) -> Mapping[str, int]:
        """By how they ended; none without a url."""
        return {} if self._remote is None else self._remote.fetches

    def check(self, token: str | None, *, peer: str, certificate: str = "") -> Grant | Denied:
        """What whoever shows this may see. `peer` is its address, `certificate` the name in its own, if it has one."""
        answer = self._check(token, peer, certificate)
        self.results[answer.reason if isinstance(answer, Denied) else "accepted"] += 1
        return answer

    def again(self, grant: Grant) -> Grant | Denied:
        """What the credential that gave this allows now.

        A JSON Web Token holds until it ends, it is revoked, or its key is taken away: whoever has stolen that has made
        tokens of his own, which end when he likes.
        """
        if not self.is_needed:
            return grant
        if grant.credential is not None:
            now = self._material.roster.get(grant.credential)
            return REVOKED if now is None else check_time(now, self._wall_s())
        if grant.key is None:
            return NEEDED_NOW
        return self._still(grant) if self._is_there(grant.key) else KEY_GONE

    # --- what changes

    def tick(self) -> None:
        """Look for files that changed and keys that are due. To be called about once a second, on the loop."""
        if self._remote is not None:
            self._remote.tick()
        is_reading = self._reading is not None and not self._reading.done()
        if not is_reading and any(file.has_changed() for file in self._files.values()):
            self._reading = asyncio.get_running_loop().create_task(self._read_again(), name="tokens")

    def prepare(self, options: AccessOptions) -> Callable[[], None]:
        """Read what `options` name. Raises ConfigurationError; else returns what goes on with them."""
        files = _files(options)
        material = _read(options, files)
        return partial(self._take_over, options, files, material)

    def _take_over(self, options: AccessOptions, files: dict[str, WatchedFile], material: Material) -> None:
        before, self.options = self.options, options
        self._files, self._material = files, material
        if (options.jwks_url, options.jwks_refresh_s) != (before.jwks_url, before.jwks_refresh_s):
            if self._remote is not None:
                self._remote.stop()
            self._remote = self._make_remote(options)
        self._begin_anew()

    async def close(self) -> None:
        if self._remote is not None:
            self._remote.stop()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _make_remote(self, options: AccessOptions) -> RemoteKeys | None:
        if not options.jwks_url:
            return None
        return RemoteKeys(
            options.jwks_url, refresh_s=options.jwks_refresh_s, now_s=self._now_s, changed=self._begin_anew
        )

    async def _read_again(self) -> None:
        """Beside the loop: a long file takes a while to parse."""
        options = self.options
        try:
            material = await asyncio.to_thread(_read, options, self._files)
        except ConfigurationError as error:
            logger.error("tokens or keys not read again, those known stay", problem=str(error))
            return
        if options is self.options:
            self._material = material
            logger.info(
                "tokens and keys read again",
                tokens=len(material.roster),
                keys=len(material.keys),
                revoked=len(material.roster.revoked),
            )
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._verified.clear()
        self._changed()

    # --- one token

    def _check(self, token: str | None, peer: str, certificate: str) -> Grant | Denied:
        if not self.is_needed:
            return Grant(certificate, modes=USES) if certificate else ANYBODY
        if token is None:
            return MISSING
        if not is_plausible(token):
            return UNKNOWN
        grant = self._material.roster.find(token)
        if grant is None and self.options.has_jwt and looks_like_jwt(token):
            return self._check_jwt(token, peer)
        return UNKNOWN if grant is None else check_time(grant, self._wall_s())

    def _check_jwt(self, token: str, peer: str) -> Grant | Denied:
        credential = digest(token)
        known = self._verified.get(credential)
        if known is not None:
            return self._still(known)
        now_s = self._now_s()
        place, failures = household(peer), {"per_s": FAILURES_PER_S, "at_once": FAILURES_AT_ONCE, "now_s": now_s}
        if self._failures.wait_s(place, **failures):
            return BUSY
        if self._checks.take(per_s=CHECKS_PER_S, at_once=CHECKS_AT_ONCE, now_s=now_s):
            return BUSY
        answer = self._verify(token)
        if isinstance(answer, Grant):
            self._remember(credential, answer)
            return self._still(answer)
        if answer.reason != "busy":
            self._failures.take(place, **failures)
        return answer

    @property
    def _keys(self) -> Sequence[Key]:
        return self._material.keys if self._remote is None else (*self._material.keys, *self._remote.keys)

    def _is_there(self, key: object) -> bool:
        """True also while it is not known which keys there are."""
        return (self._remote is not None and not self._remote.keys) or key in self._keys

    def _still(self, grant: Grant) -> Grant | Denied:
        """The grant of a JSON Web Token, unless that has ended or was revoked."""
        return REVOKED if self._material.roster.revoked.covers(grant) else check_time(grant, self._wall_s())

    def _verify(self, token: str) -> Grant | Denied:
        remote = self._remote
        match verify(token, self._keys, self.options.rules):
            case Unverified(text, is_expired):
                return Denied("expired" if is_expired else "unknown", text)
            case UnknownKey():
                # Issuers change keys: this one may be of today.
                is_coming = remote is not None and (remote.fetch() or not remote.keys)
                return NO_KEYS_YET if is_coming else Denied("unknown", "this token is signed with an unknown key")
            case Verified(claims, key):
                grant = read_claims(claims)
                if isinstance(grant, Denied):
                    return grant
                assert grant.expires_at is not None, "exp is required"
                return replace(grant, expires_at=grant.expires_at + self.options.rules.leeway_s, key=key)
            case other:
                assert_never(other)

    def _remember(self, credential: bytes, grant: Grant) -> None:
        self._verified[credential] = grant
        if len(self._verified) > VERIFIED_LIMIT:
            del self._verified[next(iter(self._verified))]


def prove(options: AccessOptions, host: str) -> None:
    """Raises ConfigurationError with one sentence when a relay can not begin with these."""
    options.check(host)
    _read(options, _files(options))


def _files(options: AccessOptions) -> dict[str, WatchedFile]:
    paths = {"tokens_file": options.tokens_file, "jwt_keys_file": options.jwt_keys_file}
    return {what: WatchedFile(path, what=what) for what, path in paths.items() if path}


def _read(options: AccessOptions, files: dict[str, WatchedFile]) -> Material:
    roster, keys = Roster(), []
    if options.jwks_url:
        check_url(options.jwks_url)
    if options.jwt_secret:
        keys.append(secret_key(options.jwt_secret))
    for what, file in files.items():
        text = file.read()
        try:
            if what == "tokens_file":
                roster = Roster.parse(text)
            else:
                keys += read_keys(text)
        except ConfigurationError as error:
            raise ConfigurationError(f"{what} {file.path!r} can not be used: {error}") from None
    return Material(roster, tuple(keys))
