"""What a client may see: the limits of its token, and the judgement of each thing it asks for.

A grant widens where it says nothing: no `tables`, every table. So an empty one is everything but the relay's own state
(`status`), which tells of all clients and has to be named. A limit is by names, and a name may end in `*`:

    orders       the table of this name, in any schema
    shop.orders  this table of this schema; whoever asks has to name the schema
    tenant7_*    each table whose name begins so; end it with a separator, or tenant77's are among them
    tenant7.*    each table of the schema

Names are PostgreSQL's own, compared as they are: neither folded nor unquoted. A grant that is limited to tables allows
nothing that speaks of a whole channel, since that would tell of the others. The judgement looks at the wish and never
at what exists, so that a refusal tells nothing about tables or consumers of others.

Pure and small: it is asked when a client subscribes, never for an event. Bound: NAMES_LIMIT names of a kind.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.messages import OPERATION_OF
from pgcachewatch.protocol.relay_session import Subscription

Use = Literal["invalidate", "stream", "consume", "status"]

USES: frozenset[Use] = frozenset({"invalidate", "stream", "consume", "status"})
USES_OF_DATA: frozenset[Use] = USES - {"status"}
NAMES_LIMIT = 1_000
NAME_LENGTH = 200
SHOWN = 5  # names of the grant in a refusal


@dataclass(frozen=True, slots=True)
class Allowed:
    """It may be done."""


@dataclass(frozen=True, slots=True)
class Forbidden:
    """It may not. `text` names what was asked for, what the token allows, and what to do."""

    text: str


Judgement = Allowed | Forbidden
ALLOWED = Allowed()


@dataclass(frozen=True, slots=True)
class Grant:
    """What one credential allows. None of a kind: no limit. `operations` are letters of the wire.

    `expires_at`: seconds of the Unix epoch; None: it does not end by itself. `credential`: what to find the static
    token by that gave this, None for others. Of a JSON Web Token, `jti`, when it has one, and the key that proved it.
    A limit of any kind leaves no consumer, unless their names are given too.
    """

    subject: str
    channels: tuple[str, ...] | None = None
    tables: tuple[str, ...] | None = None
    operations: frozenset[str] | None = None
    modes: frozenset[Use] = USES_OF_DATA
    consumers: tuple[str, ...] | None = None
    expires_at: float | None = None
    credential: bytes | None = field(default=None, repr=False)
    jti: str | None = None
    key: object = field(default=None, repr=False, compare=False)

    @property
    def may_see_status(self) -> bool:
        """The page's state of the relay, which tells of all tables and clients."""
        return "status" in self.modes

    @property
    def is_unlimited(self) -> bool:
        """It may see each event there is."""
        return self.channels is None and self.tables is None and self.operations is None

    def judge(self, subscription: Subscription) -> Judgement:
        """Whether its events may be told.

        >>> Grant("shop", tables=("orders",)).judge(Subscription(1, 1, "c", "users"))
        Forbidden(text="this token does not allow table 'users', only orders")
        """
        problem = (
            self._use(subscription.mode)
            or self._channel(subscription.channel)
            or self._table(subscription.table, subscription.schema)
            or self._operations(subscription.ops)
        )
        return Forbidden(problem) if problem else ALLOWED

    def judge_consumer(self, consume: messages.Consume) -> Judgement:
        """Whether its jobs may be given. Each of its wants names a channel."""
        problem = self._use("consume") or self._consumer(consume.consumer) or self._operations(consume.ops)
        for want in consume.wants:
            problem = problem or self._channel(want.channel or "") or self._table(want.table, want.schema_name)
        return Forbidden(problem) if problem else ALLOWED

    def judge_plain(self, channel: str) -> Judgement:
        """Whether the raw payloads of a channel may be told: each table's, each operation's."""
        problem = self._use("stream") or self._channel(channel)
        if not problem and (self.tables is not None or self.operations is not None):
            problem = "this token is limited to tables or operations, and the plain path tells of a whole channel"
        return Forbidden(problem) if problem else ALLOWED

    def may_name(self, schema: str, table: str) -> bool:
        """True when the name of this table is no secret to the holder."""
        return not self._table(table, schema)

    def _use(self, use: Use) -> str:
        if use in self.modes:
            return ""
        return f"this token does not allow mode {use!r}, only {_listed(sorted(self.modes))}"

    def _channel(self, channel: str) -> str:
        if self.channels is None or any(_matches(name, channel) for name in self.channels):
            return ""
        return f"this token does not allow channel {channel!r}, only {_listed(self.channels)}"

    def _table(self, table: str | None, schema: str | None) -> str:
        if self.tables is None:
            return ""
        if table is None:
            return f"this token is limited to tables: name one of {_listed(self.tables)}"
        if any(_covers(name, table, schema) for name in self.tables):
            return ""
        shown = table if schema is None else f"{schema}.{table}"
        unnamed = schema is None and any("." in name for name in self.tables)
        remedy = "; name the schema" if unnamed else ""
        return f"this token does not allow table {shown!r}, only {_listed(self.tables)}{remedy}"

    def _operations(self, ops: Collection[str] | None) -> str:
        if self.operations is None or (ops and self.operations.issuperset(ops)):
            return ""
        allowed = _listed(sorted(OPERATION_OF[letter] for letter in self.operations))
        return f"this token is limited to operations: subscribe to no more than {allowed}"

    def _consumer(self, name: str) -> str:
        if self.consumers is None:
            if self.is_unlimited:
                return ""
            # With a name that somebody else uses it would move that one's place, past what it does not want itself.
            return "this token is limited: the names of its consumers must be listed in it, as `consumers`"
        if any(_matches(pattern, name) for pattern in self.consumers):
            return ""
        return f"this token does not allow consumer {name!r}, only {_listed(self.consumers)}"


ANYBODY = Grant("anybody", modes=USES)  # of a relay without authentication


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names of a limit, in order. Raises ConfigurationError for one that would match nothing, or not what it seems to.

    >>> check_names(["orders", "tenant7.*"])
    ('orders', 'tenant7.*')
    """
    checked = tuple(names)
    if len(checked) > NAMES_LIMIT:
        raise ConfigurationError(f"{len(checked)} names in one limit, at most {NAMES_LIMIT} are allowed; use `*`")
    for name in checked:
        if not 0 < len(name) <= NAME_LENGTH or "*" in name[:-1] or not _is_text(name):
            raise ConfigurationError(
                f"{name[:80]!r} is no name for a limit: it has 1 to {NAME_LENGTH} characters, and `*` only at its end"
            )
    return checked


def _is_text(name: str) -> bool:
    """False for what no name of PostgreSQL can have, and no message: a NUL, and half of a surrogate pair."""
    return not any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in name)


def _covers(pattern: str, table: str, schema: str | None) -> bool:
    if "." not in pattern:
        return _matches(pattern, table)
    wanted, _, name = pattern.partition(".")
    return schema == wanted and _matches(name, table)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _listed(names: Collection[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(tuple(names)[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
