"""What a durable consumer reads of the journal: a page at a time, from a place on.

A place outlives the relay. It is a snapshot, as any place in the journal, and a little more: of what lies between that
one and a later one, the rows up to a number are acknowledged too. So a consumer that is far behind reads and is stored
in steps of a page, and none of them has to hold a transaction open.
Bound: PAGE_ROWS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pgcachewatch.models import Event, Gap
from pgcachewatch.protocol.messages import Want

PAGE_ROWS = 500


@dataclass(frozen=True, slots=True)
class Place:
    """In the journal of `epoch`: all that was over in `snapshot`; behind it, of what was over in `until`, the rows up
    to the seq `after`. `until` empty: nothing.
    """

    epoch: str
    snapshot: str
    until: str = ""
    after: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the journal."""

    id: str
    seq: int
    change: Event | Gap


@dataclass(frozen=True, slots=True)
class Page:
    """What was read from `start` up to the snapshot `until`, in the order of seq, without what nobody wants.

    `last_seq`: of the last row, when the page was cut and more is to be read; else None.
    """

    entries: Sequence[Entry]
    start: Place
    until: str
    last_seq: int | None = None

    @property
    def end(self) -> Place:
        return Place(self.start.epoch, self.until) if self.last_seq is None else self.behind(self.last_seq)

    def behind(self, seq: int) -> Place:
        """The place behind the row with this number."""
        return Place(self.start.epoch, self.start.snapshot, self.until, seq)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events a consumer is for. All of its takers say the same."""

    wants: tuple[Want, ...]
    ops: frozenset[str] | None = None

    def wants_row(self, channel: str, schema: str, table: str, op: str) -> bool:
        """`op` is a letter of the wire."""
        return (self.ops is None or op in self.ops) and any(
            one.channel == channel and one.table in (None, table) and one.schema_name in (None, schema)
            for one in self.wants
        )

    def may_want(self, gap: Gap) -> bool:
        """True also where the gap does not say (W-SUB-4)."""
        scope = gap.scope
        return any(
            _may_equal(one.channel, scope.channel)
            and _may_equal(one.table, scope.table)
            and _may_equal(one.schema_name, scope.schema)
            for one in self.wants
        )


def _may_equal(wanted: str | None, told: str | None) -> bool:
    return wanted is None or told is None or wanted == told
