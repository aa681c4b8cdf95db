"""What travels: Event and Gap, and the small values that describe them.

An Event is one validated change, in the shape of the original library: channel, operation, sent_at, table,
received_at. Everything newer (schema, row keys, transaction id) is optional, so that a payload written by an
original trigger and one written by ours both validate, and a published client can read either.

A Gap stands where an Event can not: something in its scope may have changed and nobody can say what. It is
never dropped, and every cache in its scope loses the right to serve what it held (guarantee G6 and G11).

Events are pydantic models because they cross an edge (they come out of a NOTIFY payload); Position, Scope and
Gap never do in this form, and are plain frozen dataclasses.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Literal, NewType

import pydantic

OPERATIONS = Literal["insert", "update", "delete", "truncate"]

PGChannel = NewType("PGChannel", str)

DEFAULT_PG_CHANNEL = PGChannel("ch_pgcachewatch_table_change")
DEFAULT_PG_CHANNE = DEFAULT_PG_CHANNEL  # the original's spelling: published programs import it

GapReason = Literal[
    "unreadable",  # a notification that could not be validated
    "source_lost",  # the LISTEN connection was lost, or its server was
    "overflow",  # a bounded queue dropped its oldest events
    "link_lost",  # the link to the relay broke and could not be resumed
    "chain_broken",  # a message did not follow its predecessor
    "table_wide",  # too many keys, or a key that does not fit: the whole table
    "forced",  # somebody asked for a flush
    "pruned",  # the journal does not have any more what came after the last place
]


def _now() -> datetime.datetime:
    return datetime.datetime.now(tz=datetime.UTC)


class DeadlineSetting(pydantic.BaseModel):
    """How long one synchronous drain of a queue may take: `max_iter` events, `max_time` at least.

    >>> DeadlineSetting().max_iter
    1000
    """

    max_iter: int = pydantic.Field(gt=0, default=1_000)
    max_time: datetime.timedelta = datetime.timedelta(milliseconds=1)

    @pydantic.field_validator("max_time")
    @classmethod
    def _positive(cls, value: datetime.timedelta) -> datetime.timedelta:
        if value <= datetime.timedelta(0):
            raise ValueError(f"max_time must be greater than zero, not {value!r}")
        return value


class Event(pydantic.BaseModel):
    """One validated change of one table.

    `sent_at` is the database's clock, `received_at` the receiver's; both are aware. `schema_name` is None when the
    trigger did not say it (an original trigger). `keys` are the changed rows' keys in their canonical text form,
    or None when the change concerns the table as a whole. `key` names the columns these are made of, in order, and
    `columns` the further columns whose old and new values are among them. `xid` is the writer's 64-bit transaction id.
    `id` is the journal's name for the event, the same however often it is told; None without a journal.

    Survives a JSON round trip equal to itself:

    >>> payload = '{"channel":"c","operation":"update","table":"t","sent_at":"2030-01-01T00:00:00Z"}'
    >>> event = Event.model_validate_json(payload)
    >>> Event.model_validate_json(event.model_dump_json()) == event
    True
    """

    model_config = pydantic.ConfigDict(populate_by_name=True, serialize_by_alias=True)

    channel: PGChannel
    operation: OPERATIONS
    sent_at: pydantic.AwareDatetime
    table: str
    received_at: pydantic.AwareDatetime = pydantic.Field(default_factory=_now)
    schema_name: str | None = pydantic.Field(default=None, alias="schema")
    keys: tuple[str, ...] | None = None
    key: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    xid: int | None = None
    id: str | None = None

    @property
    def latency(self) -> datetime.timedelta:
        """From `sent_at` to `received_at`: two clocks, so a skew between them is part of it."""
        return self.received_at - self.sent_at


class ConsumedEvent(Event):
    """An event of a durable consumer. It has the same `id` each time; `tries` counts the deliveries, from 1."""

    id: str
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log of one epoch. Two positions compare only within one epoch."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Scope:
    """What a change makes invalid. Each None widens it: no key, the table; no table, the channel; none, everything.

    `schema` None stands for every schema, as an original trigger does not name it.
    """

    channel: str | None = None
    table: str | None = None
    schema: str | None = None
    key: str | None = None

    def covers(self, other: Scope) -> bool:
        """True when what `self` makes invalid can include anything `other` names.

        Unknown on either side counts as a match, so that doubt drops entries rather than keeps them.

        >>> Scope("c", "users").covers(Scope("c", "users", key="5"))
        True
        >>> Scope("c", "users", key="5").covers(Scope("c", "users", key="6"))
        False
        """
        return (
            _meets(self.channel, other.channel)
            and _meets(self.table, other.table)
            and _meets(self.schema, other.schema)
            and _meets(self.key, other.key)
        )


def _meets(one: str | None, other: str | None) -> bool:
    return one is None or other is None or one == other


EVERYTHING = Scope()


@dataclass(frozen=True, slots=True)
class Gap:
    """Continuity can not be proven for `scope`: whatever it covers may have changed.

    `since` is when it was proven last, by the database's clock, where that is known: for durable consumers.
    """

    scope: Scope
    reason: GapReason
    detail: str = ""
    since: datetime.datetime | None = None
