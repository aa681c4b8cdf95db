"""A consumer's jobs, and which of them has to wait for which.

Jobs on one row are taken one after another, in the order of its changes; a job on a whole table waits for each earlier
one on it, and each later one waits for that. Others do not wait. A gap waits for nobody and nobody waits for it.
Bound: what is not finished. Pure.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pgcachewatch.models import Event, Gap
from pgcachewatch.protocol import codec, messages

State = Literal["waiting", "ready", "paused", "given", "buried", "finished"]


@dataclass(slots=True, eq=False)
class Job:
    """`tries`: those that were in vain. `blockers`: earlier jobs that it waits for."""

    id: str
    number: int
    change: Event | Gap
    tries: int = 0
    state: State = "waiting"
    taker: Taker | None = None
    times_given: int = 0
    reason: str = ""
    blockers: int = 0
    blocked: list[Job] = field(default_factory=list)
    rows: tuple[Hashable, ...] = ()

    @property
    def is_gap(self) -> bool:
        return isinstance(self.change, Gap)


@dataclass(slots=True, eq=False)
class Taker:
    """Who takes jobs. `key` is the caller's own. `is_silent`: it let a job time out, and gets none until it speaks."""

    key: Hashable
    prefetch: int
    given: dict[str, Job] = field(default_factory=dict)
    since_s: float = 0.0  # since when the oldest of them is the oldest
    is_silent: bool = False

    @property
    def has_room(self) -> bool:
        return not self.is_silent and len(self.given) < self.prefetch


class Order:
    """Unfinished jobs, by what they are on."""

    def __init__(self) -> None:
        self._last_on: dict[Hashable, Job] = {}  # by row
        self._in_table: dict[Hashable, dict[str, Job]] = {}  # since the last job on the whole table
        self._whole: dict[Hashable, Job] = {}  # by table: the last job on all of it

    def add(self, job: Job) -> None:
        """The latest of all. It may be taken now when it has no blockers."""
        if isinstance(job.change, Gap):
            return
        job.rows = _rows(job.change)
        table = _table(job.change)
        earlier = set(self._earlier(job.rows, table))
        job.blockers = len(earlier)
        for other in earlier:
            other.blocked.append(job)
        if job.rows:
            self._last_on.update(dict.fromkeys(job.rows, job))
            self._in_table.setdefault(table, {})[job.id] = job
        else:
            self._in_table.pop(table, None)  # whoever waits for this one waits for those
            self._whole[table] = job

    def remove(self, job: Job) -> list[Job]:
        """It is finished. Returns those that need not wait any longer."""
        if isinstance(job.change, Gap):
            return []
        table = _table(job.change)
        for row in job.rows:
            if self._last_on.get(row) is job:
                del self._last_on[row]
        there = self._in_table.get(table)
        if there is not None and there.pop(job.id, None) is not None and not there:
            del self._in_table[table]
        if self._whole.get(table) is job:
            del self._whole[table]
        for other in job.blocked:
            other.blockers -= 1
        free, job.blocked = [other for other in job.blocked if not other.blockers], []
        return free

    def _earlier(self, rows: tuple[Hashable, ...], table: Hashable) -> Iterator[Job]:
        if table in self._whole:
            yield self._whole[table]
        if not rows:
            yield from self._in_table.get(table, {}).values()
        for row in rows:
            if row in self._last_on:
                yield self._last_on[row]


def _table(event: Event) -> Hashable:
    return event.schema_name, event.table


def _rows(event: Event) -> tuple[Hashable, ...]:
    """The rows that it names; none when it may be any of its table. Values of further columns are no rows."""
    carried = event.columns or ()
    table = _table(event)
    return tuple(
        (table, key)
        for key in event.keys or ()
        if not any(key == name or key.startswith(f"{name}=") for name in carried)
    )


def content(change: Event | Gap) -> tuple[messages.OpCode, dict[str, object]]:
    """A change as a job has it: `op` and `detail` (W-CONSUMER-2, W-CONSUMER-5)."""
    if isinstance(change, Event):
        detail = change.model_dump(mode="json", exclude_none=True, exclude={"received_at", "id"})
        return messages.OP_CODES[change.operation], detail
    scope = {"channel": change.scope.channel, "table": change.scope.table, "schema": change.scope.schema}
    told: dict[str, object] = {"reason": change.reason, "detail": change.detail}
    told |= {name: value for name, value in scope.items() if value is not None}
    if change.since is not None:
        told["since"] = change.since.isoformat()
    return "*", told


def encode_job(job: Job, *, sid: int, tries: int) -> str:
    """A `job` within the relay's frame limit (W-LIMIT-2): one that would not fit is on the whole table."""
    op, detail = content(job.change)
    message = messages.Job(sid=sid, id=job.id, tries=tries, op=op, detail=detail)
    text = codec.encode(message)
    if len(text.encode()) <= messages.RELAY_FRAME_BYTES:
        return text
    left = {name: value for name, value in detail.items() if name != "keys"}
    return codec.encode(message.model_copy(update={"detail": left}))
