"""One durable consumer: which of its jobs is whose, what is acknowledged, and up to where that is a place.

A job is an event of the journal, or a gap, that the consumer's clients (its takers) have to acknowledge. It is given to
one taker at a time. It goes to another when its taker leaves, says nothing for `timeout_s`, or gives it back; after
`tries` in vain it becomes a dead letter. A gap never does: it can not be overlooked. Of the jobs of one taker, who
takes them in order, only the oldest counts as tried: the others were not begun.

Order: a job waits for each earlier one that has a row in common, or the whole table.

Invariants. `place` is never ahead of a job that is not finished, nor of a dead letter that is not saved. What was
acknowledged ahead of it is saved beside it, so that only a loss of what was not saved yet makes anything come twice.

Bounds: `pending` jobs, and a page more; as many ids of what is acknowledged ahead of the place.
On the path of an event: beside step 6. Pure: methods return what is to be told to takers, in order.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from pgcachewatch.models import Event, Gap
from pgcachewatch_daemon.core.jobs import Job, Order, Taker
from pgcachewatch_daemon.core.pages import PAGE_ROWS, Filter, Page, Place
from pgcachewatch_daemon.core.snapshot import Snapshot

RETRY_MOST_S = 60.0
GAP_ID = "gap:"


@dataclass(frozen=True, slots=True)
class ConsumerLimits:
    """Seconds and counts. `retry_s`: the pause after a job was given back, doubled each time."""

    timeout_s: float = 30.0
    tries: int = 5
    retry_s: float = 1.0
    pending: int = 1_000


@dataclass(frozen=True, slots=True)
class Give:
    """Send this job; `tries` counts this one."""

    taker: Hashable
    job: Job
    tries: int


@dataclass(frozen=True, slots=True)
class TakeBack:
    """These are not the taker's any more; it leaves those out that it has not begun."""

    taker: Hashable
    ids: tuple[str, ...]


Told = Give | TakeBack


@dataclass(frozen=True, slots=True)
class Letter:
    """A job that was tried in vain too often."""

    id: str
    change: Event | Gap
    reason: str
    tries: int


@dataclass(frozen=True, slots=True)
class Saved:
    """What has to outlive the relay: from `place` on, all but `done` is to be given again, some of it tried before."""

    place: Place
    done: tuple[str, ...] = ()
    tries: Mapping[str, int] = field(default_factory=dict)
    letters: tuple[Letter, ...] = ()


@dataclass(slots=True)
class ConsumerStats:
    """Plain counts, read when somebody asks for metrics."""

    jobs: int = 0
    redeliveries: int = 0
    timeouts: int = 0
    letters: int = 0
    gaps: int = 0


@dataclass(slots=True)
class _Step:
    """`place` is reached once `job` is finished and all before it are."""

    place: Place
    job: Job | None


class Consumer:
    """See the module. `saved` is what was stored of it last; all times are monotonic seconds."""

    def __init__(self, limits: ConsumerLimits, wanted: Filter, saved: Saved, *, stats: ConsumerStats) -> None:
        self.filter = wanted
        self.place = saved.place
        self.reading = saved.place  # from here on is to be read next
        self.has_more = False
        self.version = 0  # changes with what `to_save` returns, but for a place that moved past nothing
        self.limits = limits  # replaced while running
        self._stats = stats
        self._takers: dict[Hashable, Taker] = {}
        self._idle: dict[Hashable, Taker] = {}  # may have room; whoever was given a job last is last
        self._jobs: dict[str, Job] = {}  # not finished
        self._line: deque[_Step] = deque()
        self._ahead: dict[str, None] = {}  # finished, and still in the line
        self._foretold: dict[str, None] = dict.fromkeys(saved.done)  # finished, and not read again yet
        self._tried: dict[str, int] = dict(saved.tries)  # of jobs that were not read again yet
        self._claims: dict[str, Hashable] = {}  # begun by a taker that came back, and not read again yet
        self._ready: list[tuple[int, str]] = []
        self._paused: list[tuple[float, int, str]] = []
        self._buried: dict[str, Job] = {}
        self._order = Order()
        self._number = 0
        self._is_paused = False

    # --- what is known

    @property
    def takers(self) -> Collection[Hashable]:
        return self._takers.keys()

    @property
    def pending(self) -> int:
        return len(self._jobs)

    @property
    def has_room(self) -> bool:
        """A page more may be read."""
        return len(self._jobs) <= self.limits.pending - PAGE_ROWS

    @property
    def has_letters(self) -> bool:
        return bool(self._buried)

    @property
    def oldest(self) -> Job | None:
        """The oldest job that is not finished."""
        return next(iter(self._jobs.values()), None)

    @property
    def due_s(self) -> float:
        """When to call `tick` next."""
        silent_s = (
            one.since_s + self.limits.timeout_s for one in self._takers.values() if one.given and not one.is_silent
        )
        return min(min(silent_s, default=float("inf")), self._paused[0][0] if self._paused else float("inf"))

    def to_save(self) -> Saved:
        """Store all of it in one transaction, then call `saved` with it."""
        kept = {job.id: job.tries for job in self._jobs.values() if job.tries and job.state != "buried"}
        letters = tuple(Letter(job.id, job.change, job.reason, job.tries) for job in self._buried.values())
        return Saved(self.place, (*self._foretold, *self._ahead, *self._buried), {**self._tried, **kept}, letters)

    def ids_of(self, key: Hashable) -> tuple[str, ...]:
        """What this taker has."""
        return tuple(self._takers[key].given)

    # --- takers

    def join(
        self, key: Hashable, prefetch: int, *, now_s: float, done: Sequence[str] = (), held: str | None = None
    ) -> list[Told]:
        """A taker more. It has finished `done` and has begun `held` before it lost its last connection."""
        taker = self._takers[key] = self._idle[key] = Taker(key, prefetch)
        told = self._finish(done, key, now_s)
        for identity in done:
            self._foretell(identity)
        if held is not None:
            self._claim(held, taker, now_s)
        return told + self._assign(now_s)

    def leave(
        self, key: Hashable, *, now_s: float, is_lost: bool, reason: str = "its connection was lost"
    ) -> list[Told]:
        """A taker less. `is_lost`: without a word, so that what it had begun counts as tried."""
        taker = self._takers.pop(key, None)
        if taker is None:
            return []
        self._idle.pop(key, None)
        for identity in [identity for identity, claimer in self._claims.items() if claimer == key]:
            del self._claims[identity]
        self._return_all(taker, reason if is_lost else "")
        return self._assign(now_s)

    def pause(self) -> None:
        """Give nothing more."""
        self._is_paused = True

    def resume(self, *, now_s: float) -> list[Told]:
        """Give again."""
        self._is_paused = False
        return self._assign(now_s)

    # --- what is read

    def offer(self, page: Page, *, now_s: float) -> list[Told]:
        """Jobs of what was read from `reading` on."""
        for entry in page.entries:
            self._add(entry.id, entry.change, page.behind(entry.seq), now_s)
        self.reading, self.has_more = page.end, page.last_seq is not None
        self._reach(page.end)
        return self._assign(now_s)

    def gap(self, identity: str, gap: Gap, *, now_s: float, end: Place | None = None) -> list[Told]:
        """Events are missing here. With `end` reading goes on from there, and all before is in doubt."""
        if end is not None:
            self.reading, self.has_more = end, False
            self._foretold.clear()
            self._claims.clear()
            self._tried = {identity: self._tried[identity]} if identity in self._tried else {}
        if identity not in self._jobs:
            self._stats.gaps += 1
            self._add(identity, gap, end or self._last_place(), now_s)
        elif end is not None:
            self._reach(end)
        return self._assign(now_s)

    # --- what takers say

    def done(self, key: Hashable, ids: Sequence[str], *, now_s: float) -> list[Told]:
        """A taker has handled these. They are finished, also when they were taken back meanwhile."""
        self._spoke(key, now_s)
        return self._finish(ids, key, now_s) + self._assign(now_s)

    def failed(self, key: Hashable, ids: Sequence[str], reason: str, *, now_s: float) -> list[Told]:
        """A taker gives these back: they go to anybody, after a pause."""
        taker = self._spoke(key, now_s)
        for identity in ids:
            job = taker.given.get(identity) if taker is not None else None
            if job is not None:
                self._give_up(job)
                job.tries += 1
                job.reason = reason
                pause_s = min(RETRY_MOST_S, self.limits.retry_s * 2 ** (min(job.tries, 32) - 1))
                self._again(job, due_s=now_s + pause_s)
        return self._assign(now_s)

    def saved(self, saved: Saved, *, now_s: float) -> list[Told]:
        """This was stored."""
        self._finish([letter.id for letter in saved.letters], None, now_s)
        self._stats.letters += len(saved.letters)
        return self._assign(now_s)

    def tick(self, now_s: float) -> list[Told]:
        """Time has passed."""
        told: list[Told] = []
        for taker in self._takers.values():
            if taker.given and not taker.is_silent and now_s >= taker.since_s + self.limits.timeout_s:
                taker.is_silent = True
                self._stats.timeouts += 1
                told.append(TakeBack(taker.key, tuple(taker.given)))
                self._return_all(taker, f"no answer within {self.limits.timeout_s:g} s")
        while self._paused and self._paused[0][0] <= now_s:
            job = self._jobs.get(heapq.heappop(self._paused)[2])
            if job is not None and job.state == "paused":
                self._make_ready(job)
        return told + self._assign(now_s)

    # --- jobs

    def _add(self, identity: str, change: Event | Gap, place: Place, now_s: float) -> None:
        if identity in self._foretold:
            del self._foretold[identity]
            self._tried.pop(identity, None)
            self._ahead[identity] = None
            self._line.append(_Step(place, Job(identity, 0, change, state="finished")))
            self._advance()
            return
        self._number += 1
        job = Job(identity, self._number, change, tries=self._tried.pop(identity, 0))
        self._stats.jobs += 1
        self._jobs[identity] = job
        self._line.append(_Step(place, job))
        self._order.add(job)
        if not job.blockers:
            self._make_ready(job)
        claimer = self._claims.pop(identity, None)
        if claimer is not None and job.state == "ready":
            self._hand(job, self._takers[claimer], now_s)

    def _make_ready(self, job: Job) -> None:
        job.state = "ready"
        heapq.heappush(self._ready, (job.number, job.id))

    def _again(self, job: Job, *, due_s: float | None = None) -> None:
        """It was tried in vain, or not even begun."""
        if job.tries >= self.limits.tries and not job.is_gap:
            job.state = "buried"
            self._buried[job.id] = job
        elif due_s is not None:
            job.state = "paused"
            heapq.heappush(self._paused, (due_s, job.number, job.id))
        else:
            self._make_ready(job)
        self.version += job.tries > 0

    def _finish(self, ids: Sequence[str], by: Hashable, now_s: float) -> list[Told]:
        told: list[Told] = []
        for identity in ids:
            job = self._jobs.pop(identity, None)
            if job is None:
                continue
            if job.taker is not None and job.taker.key != by:
                told.append(TakeBack(job.taker.key, (identity,)))
                job.taker.since_s = now_s
            self._give_up(job)
            self._buried.pop(identity, None)
            job.state = "finished"
            self._ahead[identity] = None
            for other in self._order.remove(job):
                self._make_ready(other)
            self.version += 1
        self._advance()
        return told

    # --- the line

    def _reach(self, place: Place) -> None:
        """`place` is reached when all so far is finished."""
        if self._line and self._line[-1].job is None:
            self._line[-1].place = place
        else:
            self._line.append(_Step(place, None))
        self._advance()

    def _advance(self) -> None:
        line = self._line
        while line and (line[0].job is None or line[0].job.state == "finished"):
            step = line.popleft()
            if step.job is not None:
                self._ahead.pop(step.job.id, None)
            self.place = step.place

    def _last_place(self) -> Place:
        return self._line[-1].place if self._line else self.place

    # --- who has what

    def _assign(self, now_s: float) -> list[Told]:
        told: list[Told] = []
        while self._ready and self._idle and not self._is_paused:
            job = self._jobs.get(self._ready[0][1])
            if job is None or job.state != "ready":
                heapq.heappop(self._ready)
                continue
            key, taker = next(iter(self._idle.items()))
            del self._idle[key]
            if not taker.has_room:
                continue
            heapq.heappop(self._ready)
            self._hand(job, taker, now_s)
            self._idle[key] = taker
            told.append(Give(key, job, job.tries + 1))
        return told

    def _hand(self, job: Job, taker: Taker, now_s: float) -> None:
        if not taker.given:
            taker.since_s = now_s
        self._stats.redeliveries += job.times_given > 0
        job.times_given += 1
        job.state, job.taker = "given", taker
        taker.given[job.id] = job

    def _give_up(self, job: Job) -> None:
        """It is nobody's any more. Its taker has room again."""
        taker, job.taker = job.taker, None
        if taker is not None:
            del taker.given[job.id]
            if taker.key in self._takers:
                self._idle.setdefault(taker.key, taker)

    def _spoke(self, key: Hashable, now_s: float) -> Taker | None:
        taker = self._takers.get(key)
        if taker is not None:
            taker.since_s = now_s
            if taker.is_silent:
                taker.is_silent = False
                self._idle.setdefault(key, taker)
        return taker

    def _return_all(self, taker: Taker, reason: str) -> None:
        """What it had goes to others at once. With a `reason` the oldest counts as tried."""
        for position, job in enumerate(list(taker.given.values())):
            self._give_up(job)
            if reason and position == 0:
                job.tries += 1
                job.reason = reason
            self._again(job)

    def _claim(self, identity: str, taker: Taker, now_s: float) -> None:
        job = self._jobs.get(identity)
        if job is None:
            if identity not in self._ahead and not self._is_behind(identity):
                self._claims[identity] = taker.key
        elif job.state in ("ready", "paused"):
            self._hand(job, taker, now_s)

    def _foretell(self, identity: str) -> None:
        if identity in self._jobs or identity in self._ahead or self._is_behind(identity):
            return
        self._foretold[identity] = None
        self.version += 1
        while len(self._foretold) > self.limits.pending:
            del self._foretold[next(iter(self._foretold))]

    def _is_behind(self, identity: str) -> bool:
        """The place is ahead of this event already."""
        xid, _, seq = identity.partition(":")
        if not (xid.isdecimal() and seq.isdecimal()):
            return True  # a gap: it is known, or it was of another time
        place = self.place
        snapshot, until = Snapshot.parse(place.snapshot), Snapshot.parse(place.until)
        if snapshot is None or snapshot.contains(int(xid)):
            return True
        return until is not None and until.contains(int(xid)) and int(seq) <= place.after
