"""Reads the journal over the source's own session: what was committed since the last look, whatever commits late.

Each poll is one statement. It returns the rows that are not in the last snapshot and are visible in its own, and that
snapshot, which takes the last one's place. So nothing is read twice and nothing is passed over, as with a number; and
each poll is a proof: what was committed before it was sent, it has returned.

A row becomes the payload that its trigger would have notified, so that everything behind the source takes it for what
it is: an event. Rows come in the order of their `seq`: for one row of a table that is the order of its changes.

Life: the reader outlives sessions. `open` begins one: the journal's epoch tells whether the database is still the one
that was read before (a crash, a failover or a restore empties that table); if so, reading goes on where it stopped.

Bounds: a history has `history_rows` rows. A poll returns what was committed since the last one, in one piece; a session
that begins more than BEHIND_ROWS behind does not go on but begins anew, and every cache is told.
On the path of an event: step 1, enter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import asyncpg

from pgcachewatch_daemon.core.history import JournalFloor
from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.core.wakefulness import Act, State, Wakefulness, WakeOptions
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.sql import journal as sql
from pgcachewatch_daemon.sql.capture import TRACEPARENT_LETTERS

JournalState = Literal["absent", "awake", "draining", "asleep"]
JOURNAL_STATES: tuple[JournalState, ...] = get_args(JournalState)

OPERATIONS = {"i": "insert", "u": "update", "d": "delete", "t": "truncate"}
BEHIND_ROWS = 100_000
EPOCH_DIGITS = 16
STARTS_BITS = 32  # sequences of one life of a relay: the next one's are all higher

logger = line_logger(__name__)


@dataclass(frozen=True, slots=True)
class Written:
    """One row of the journal as its trigger would have notified it."""

    channel: str
    payload: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A session's journal. `floor` None: `rows` are all that was committed since the last poll of the last session.

    Otherwise they are the recent past, from `floor` on, for those who resume from another life of the relay. `epoch`
    has 16 hex digits; sequences of this life are above `first_seq`.
    """

    epoch: str
    rows: tuple[Written, ...]
    first_seq: int
    floor: JournalFloor | None


@dataclass(frozen=True, slots=True)
class Held:
    """A consumer by what is stored: `age_s` of the first row beyond its place, 0 when there is none."""

    consumer: str
    age_s: float


@dataclass(slots=True)
class JournalStats:
    """Plain counts, read when somebody asks for metrics. `held` is looked up when rows are pruned."""

    polls: int = 0
    rows: int = 0
    wakes: int = 0
    sleeps: int = 0
    resets: int = 0
    state: JournalState = "absent"
    held: tuple[Held, ...] = ()


@dataclass(slots=True)
class JournalReader:
    """See the module. `clock` is monotonic, in seconds."""

    options: WakeOptions
    history_rows: int
    clock: Callable[[], float]
    stats: JournalStats = field(default_factory=JournalStats)
    is_there: bool = False
    snapshot_text: str = ""
    epoch: str = ""
    _epoch_id: str = ""
    _first_seq: int = 0
    _transactions: int = 0  # that the last poll brought rows of
    _snapshot: Snapshot | None = None
    _wakefulness: Wakefulness = field(init=False)
    _act: Act = Act.NOTHING
    _poll: Any = None  # asyncpg's prepared statement
    _opens: int = 0
    _connection: asyncpg.Connection[Any] | None = None

    def __post_init__(self) -> None:
        self._wakefulness = Wakefulness(self.options, now_s=self.clock())

    @property
    def pause_s(self) -> float:
        """Until the next poll is due."""
        return self._wakefulness.pause_s

    def woken(self, *, is_rival: bool = False) -> None:
        """A writer notified because it found no lock, or a relay because it took it."""
        if is_rival:
            self._wakefulness.rival_woke(now_s=self.clock())
            return
        if self._wakefulness.state is State.ASLEEP:
            self.stats.wakes += 1
        self._wakefulness.wake(now_s=self.clock())

    async def open(self, connection: asyncpg.Connection[Any]) -> Opened | None:
        """Begin a session, behind its LISTENs. None when the database has no journal."""
        self._connection = connection
        self.is_there = bool(await connection.fetchval(sql.is_there_sql()))
        if not self.is_there:
            self.stats.state = "absent"
            self._snapshot = None
            return None
        self._wakefulness.reset(now_s=self.clock())
        self.stats.state = self._wakefulness.state.value
        epoch = epoch_of(await connection.fetchval(sql.epoch_sql()))
        if epoch != self.epoch:
            # Here and not where another is read: a session that ends before that must not leave both to the next one.
            self.epoch, self._snapshot = epoch, None
        is_known = self._snapshot is not None
        # By a name of its own: the session keeps no statements, and asyncpg would have each poll parsed and planned,
        # which takes more than ten times as long as running it.
        self._opens += 1
        self._poll = await connection.prepare(sql.poll_sql(), name=f"journal_{self._opens}")
        await self.look_at_writers()
        rows = await self._read() if is_known and not await self._is_far_behind(connection) else None
        if rows is not None:
            return Opened(epoch, tuple(rows), self._first_seq, None)
        return await self._begin(connection)

    async def _is_far_behind(self, connection: asyncpg.Connection[Any]) -> bool:
        """There is more to read than is good to hold at once."""
        assert self._snapshot is not None, "who has read nothing is not behind"
        behind = await connection.fetchval(sql.behind_sql(), str(self._snapshot.xmax), BEHIND_ROWS + 1)
        if behind > BEHIND_ROWS:
            self.stats.resets += 1
            logger.warning("journal too far behind, every cache on it flushes", rows_over=BEHIND_ROWS)
        return bool(behind > BEHIND_ROWS)

    async def look_at_writers(self) -> None:
        """Tables may have been installed since whose triggers notify nobody."""
        assert self._connection is not None, "a session was opened"
        has_silent_writers = bool(await self._connection.fetchval(sql.has_silent_writers_sql()))
        self._wakefulness.poll_for_ever(has_silent_writers, now_s=self.clock())

    async def _begin(self, connection: asyncpg.Connection[Any]) -> Opened:
        """The recent past and the snapshot behind it, in one statement."""
        self._first_seq = int(await connection.fetchval(sql.starts_sql())) << STARTS_BITS
        header, *records = await connection.fetch(sql.history_sql(), self.history_rows)
        self._go_by(header["snapshot"])
        self._epoch_id = header["epoch"]
        # Of the lowest transaction there may be more than was read.
        lowest = min(int(record["xid"]) for record in records) if len(records) >= self.history_rows else 0
        floor = JournalFloor(_parsed(header["floor_snapshot"]), lowest)
        return Opened(self.epoch, tuple(map(_written, records)), self._first_seq, floor)

    async def poll(self) -> list[Written] | None:
        """What was committed since the last poll; None when that can not be said any more: unread rows were taken away.

        Everything that was committed before the call is in it.
        """
        rows = await self._read()
        if rows is None:
            return None
        assert self._snapshot is not None, "a poll leaves a snapshot"
        self._act = self._wakefulness.polled(
            transactions=self._transactions, xmin=self._snapshot.xmin, now_s=self.clock()
        )
        return rows

    async def _read(self) -> list[Written] | None:
        assert self._snapshot is not None, "a session begins with a snapshot"
        last = self._snapshot
        running = [str(xid) for xid in last.running]
        records: Sequence[Mapping[str, Any]] = await self._poll.fetch(str(last.xmax), running)
        self.stats.polls += 1
        header, *rows = records
        if header["epoch"] != self._epoch_id or not last.includes(_parsed(header["floor_snapshot"])):
            self.stats.resets += 1
            logger.warning("journal rows taken away unread, every cache on them flushes")
            return None
        self._go_by(header["snapshot"])
        self.stats.rows += len(rows)
        self._transactions = len({record["xid"] for record in rows})
        return [_written(record) for record in rows]

    def _go_by(self, text: str) -> None:
        self._snapshot, self.snapshot_text = _parsed(text), text

    async def act(self) -> None:
        """Take the lock or give it up, as the last poll showed. Behind its rows: what is read must not be lost here."""
        connection = self._connection
        assert connection is not None, "acts follow a poll"
        act, self._act = self._act, Act.NOTHING
        now_s = self.clock()
        match act:
            case Act.NOTHING:
                pass
            case Act.TAKE_LOCK:
                is_taken = await connection.fetchval(sql.take_lock_sql())
                if is_taken:
                    await connection.execute(sql.notify_sql())  # other relays may be asleep
                self._wakefulness.lock_taken(is_taken, now_s=now_s)
            case Act.GIVE_UP_LOCK:
                self._wakefulness.lock_given_up(await self._give_up(connection), now_s=now_s)
            case Act.CONFIRM:
                is_free = bool(await connection.fetchval(sql.is_free_sql()))
                self.stats.sleeps += is_free
                self._wakefulness.confirmed(is_free, now_s=now_s)
        self.stats.state = self._wakefulness.state.value

    async def _give_up(self, connection: asyncpg.Connection[Any]) -> int | None:
        if self._wakefulness.has_lock:
            await connection.execute(sql.give_up_lock_sql())
        if not await connection.fetchval(sql.is_free_sql()):
            return None
        return int(await connection.fetchval(sql.own_xid_sql()))


def epoch_of(text: str) -> str:
    """The epoch as positions have it, of what `epoch_sql` returned."""
    return hashlib.sha256(text.encode()).hexdigest()[:EPOCH_DIGITS]


def _parsed(text: str) -> Snapshot:
    snapshot = Snapshot.parse(text)
    assert snapshot is not None, f"PostgreSQL wrote the snapshot {text!r}"
    return snapshot


def _written(record: Mapping[str, Any]) -> Written:
    """A row as the payload its trigger would have notified."""
    return Written(record["channel"], json.dumps(content_of(record), separators=(",", ":")))


def content_of(record: Mapping[str, Any]) -> dict[str, object]:
    """What that payload says."""
    content: dict[str, object] = {
        "operation": OPERATIONS[record["op"]],
        "table": record["table_name"],
        "schema": record["table_schema"],
        "sent_at": record["at"].isoformat(),
        "xid": str(record["xid"]),
        "v": 1,
        "id": f"{record['xid']}:{record['seq']}",
    }
    if record["keys"] is not None:
        content["key"] = record["key"]
        if record["columns"]:
            content["columns"] = record["columns"]
        content["keys"] = record["keys"]
    for part in (record["note"] or "").split():
        content["traceparent" if len(part) == TRACEPARENT_LETTERS else "error"] = part
    return content
