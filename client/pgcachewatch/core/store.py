"""Entries, running fills and their invalidation, for one cached function.

The rules, which are proof obligations (G1, G4, G6, G10):

- A fill takes its token before the function runs: the store's generation and the trust's. Its result is stored only
  if both are what they were, that is, if nothing it depends on was invalidated since and no gap fell in between.
- An invalidation detaches the running fills: whoever waits already keeps his fill, later callers start a new one, and
  the old result is not stored. All of this is one bump of `generation`, O(1); nothing is searched for.
- A run that returned without being stored may have read a newer row than the entry beside it, or than a fill that began
  before it ended: so the entry goes, and that fill is neither stored nor joined by later calls. Else two calls, one
  after the other, could see a row go back (G5).
- At most one current fill per key and generation. A fill that is no longer current changes nothing when it ends.
- An entry that depends on rows is found by them (core/row_index.py): a change of one row drops what depends on it and
  detaches its running fills, and touches nothing else. Rows that are known only from the result are held against what
  changed since the run began. Until they are known a change of any row closes the fill to later callers, who wait for
  its end and look again; it is stored if none of its own rows was among them.
- With `stamps`, runs may read the past: a result is stored only if what was read is shown to contain each change that
  it depends on, also those from before the run (core/stamps.py).

An entry is servable while its two generations are the current ones; whether freshness is proven at this instant is the
trust's business. `horizon` is an instant at which everything must go by itself: a throttle that has seen an event sets
it, so that nobody needs a timer.

Bound: `maxsize` entries, and the index's own. When it is reached a hand sweeps over the entries, oldest first: one that
was hit since the hand last passed stays, and one that was not, or that is dead anyway, goes. A hit costs one count.
After a flush each new entry takes SWEPT_PER_ENTRY dead ones with it, so that their values do not wait for the store to
fill up: the last is gone once half as many results were stored as there were entries.
Running fills are bounded by their callers.

No clock and no lock of its own: `now` comes in, and so does the lock, when several threads use the store. Invalidations
and counts take it themselves; reading and filling, which belong together, are done by a caller that holds it.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import operator
from collections.abc import Collection, Hashable, Iterable
from dataclasses import astuple, dataclass
from typing import Generic, TypeVar

from pgcachewatch.core.dependencies import RowKey
from pgcachewatch.core.row_index import RowIndex
from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.core.stamps import Stamps
from pgcachewatch.core.trust import FOREVER, Lease
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import EVERYTHING, Scope

DEFAULT_MAXSIZE = 1_024
STEPS_PER_EVICTION = 64  # entries the hand spares before it takes one that was hit: bounds the cost of a miss
SWEPT_PER_ENTRY = 2  # entries looked at for dead ones whenever one is stored
DEAD = -1  # a generation no store and no trust ever has

V = TypeVar("V")
R = TypeVar("R")


class Entry(Generic[V]):
    """One result. `kind` is the type of a key that is no tuple, for who looks it up by a value that may only be equal.

    Read without a lock: who writes sets the value first and the generations last. A field more is 16 bytes an entry.
    """

    __slots__ = ("gap", "generation", "hits", "kind", "seen", "value")

    until = FOREVER  # the end of its time to live

    def __init__(self, key: Hashable) -> None:
        # A tuple may spell out another type (core/frozen.py), so that an equal tuple of a caller's proves nothing.
        self.kind: type = type(key) if type(key) is not tuple else Entry
        self.gap = DEAD
        self.generation = DEAD
        self.hits = 0
        self.seen = 0  # `hits` when the hand last passed
        self.value: V

    def put(self, value: V, gap: int, generation: int) -> None:
        self.generation = DEAD
        self.value = value
        self.gap = gap
        self.generation = generation


class TimedEntry(Entry[V]):
    """One result of a store whose entries have a time to live."""

    __slots__ = ("until",)

    def __init__(self, key: Hashable, until: float) -> None:
        super().__init__(key)
        self.until = until


@dataclass(slots=True, eq=False)
class Fill(Generic[R]):
    """One run of the function for one key, with the token it took before. `run` belongs to the shell.

    `is_closed`: later callers do not join it, because something it may be older than was returned or applied while it
    ran. `since` is the count of row changes when it began, None when all its rows are known. `rows` are those known by
    then, in a store with stamps. `is_unproven`: what it read may lack a change that was applied.
    """

    key: Hashable
    gap: int
    generation: int
    started_s: float
    is_storable: bool
    run: R
    since: int | None = None
    is_closed: bool = False
    rows: tuple[RowKey, ...] = ()
    is_unproven: bool = False


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What `cache_info()` tells. `joins` are misses that found a fill running; `discards`, results not stored.

    `bypasses` are calls that ran the function because freshness was not proven.
    """

    hits: int
    misses: int
    maxsize: int
    currsize: int
    joins: int = 0
    evictions: int = 0
    discards: int = 0
    bypasses: int = 0
    flushes: int = 0

    def __add__(self, other: CacheInfo) -> CacheInfo:
        """Both caches taken together."""
        return CacheInfo(*map(operator.add, astuple(self), astuple(other)))


@dataclass(slots=True)
class Stats:
    """Plain counters. They are counted under the store's lock, except the hits, which each entry counts."""

    evicted_hits: int = 0
    misses: int = 0
    joins: int = 0
    evictions: int = 0
    discards: int = 0
    bypasses: int = 0
    flushes: int = 0


class Store(Generic[V, R]):
    """What one cached function has stored, and what of it may still be served.

    `scopes` is what its results depend on as a whole: channels, tables, or everything. `lock` is a reentrant lock when
    more than one thread uses the store. `late_dimensions` are those of rows that only a result tells. `stamps` are
    given when runs may read the past.

    >>> from pgcachewatch.core.trust import Trust
    >>> store = Store(Trust(FOREVER), scopes=[Scope("c", "users")])
    >>> fill = store.begin(5, now=0.0, run=None)
    >>> store.finish(fill, "Ada")
    True
    >>> store.lookup(5).value
    'Ada'
    >>> store.invalidate(Scope("c", "users", key="6")), store.lookup(5)
    (True, None)
    """

    __slots__ = (
        "__weakref__",
        "_fills",
        "_generations",
        "_order",
        "_rows",
        "_swept_for",
        "_unswept",
        "entries",
        "generation",
        "horizon",
        "lock",
        "maxsize",
        "scopes",
        "stamps",
        "stats",
        "trust",
    )

    def __init__(
        self,
        trust: Lease,
        *,
        scopes: Iterable[Scope] = (EVERYTHING,),
        maxsize: int = DEFAULT_MAXSIZE,
        lock: contextlib.AbstractContextManager[object] | None = None,
        late_dimensions: Collection[int] = (),
        stamps: Stamps | None = None,
    ) -> None:
        if maxsize < 1:
            raise ConfigurationError(
                f"maxsize must be 1 or more, not {maxsize}; leave the function undecorated instead"
            )
        self.trust = trust
        self.scopes = tuple(scopes)
        self.maxsize = maxsize
        self.lock = lock or contextlib.nullcontext()
        self.stamps = stamps
        self.stats = Stats()
        self.entries: dict[Hashable, Entry[V]] = {}
        self.generation = 0
        self.horizon = FOREVER
        self._generations = itertools.count(1)
        self._order: collections.deque[Hashable] = collections.deque()  # the keys of `entries`, each once
        self._fills: dict[Hashable, Fill[R]] = {}
        self._rows = RowIndex(late_dimensions)
        self._swept_for = (0, 0)
        self._unswept = 0  # entries not looked at since the last invalidation

    # --- reading

    def lookup(self, key: Hashable) -> Entry[V] | None:
        """The entry of `key` if no gap and no invalidation came after it. The lease is the caller's to check."""
        entry = self.entries.get(key)
        if entry is None or entry.generation != self.generation or entry.gap != self.trust.generation:
            return None
        return entry

    def current(self, key: Hashable) -> Fill[R] | None:
        """The running fill of `key` that a caller may join: nothing was invalidated since it started."""
        fill = self._fills.get(key)
        return fill if fill is not None and self._is_current(fill) else None

    # --- filling

    def begin(
        self, key: Hashable, *, now: float, run: R, is_storable: bool = True, rows: Iterable[RowKey] = ()
    ) -> Fill[R]:
        """Take the token for a run that starts after this call. It becomes the current fill of `key`.

        `rows` are those it will depend on, as far as they are known by now.
        """
        fill = Fill(key, self.trust.generation, self.generation, now, is_storable, run)
        if self._rows.has_late:
            fill.since = self._rows.changes
        if self.stamps is not None:
            fill.rows = tuple(rows)
        self._fills[key] = fill
        self._rows.add(key, rows, is_kept=self._is_kept)
        return fill

    def finish(
        self,
        fill: Fill[R],
        value: V,
        *,
        rows: Collection[RowKey] = (),
        until: float = FOREVER,
        snapshots: Collection[Snapshot] = (),
    ) -> bool:
        """The run returned `value`, which depends on these `rows` too. True when it was stored.

        `snapshots` are those that were read, for a store with stamps.
        """
        if self.stamps is not None and not self.stamps.hold(snapshots, (*fill.rows, *rows)):
            fill.is_unproven = True
        is_stored = (
            fill.is_storable
            and not fill.is_unproven
            and self._fills.get(fill.key) is fill
            and self._is_current(fill)
            and (fill.since is None or self._rows.is_untouched(rows, since=fill.since))
        )
        self.abandon(fill)
        if is_stored:
            self._put(fill, value, until)
            self._rows.add(fill.key, rows, is_kept=self._is_kept)
            return True
        self.stats.discards += fill.is_storable
        self.overtake(fill.key)
        return False

    def overtake(self, key: Hashable) -> None:
        """A run of `key` returned to its caller and was not stored: nothing that may be older is served after it."""
        entry = self.entries.get(key)
        if entry is not None:
            entry.generation = DEAD
        other = self._fills.get(key)
        if other is not None:
            other.is_storable = False
            other.is_closed = True

    def abandon(self, fill: Fill[R]) -> None:
        """The run failed, was cancelled, or is not to be joined any more."""
        if self._fills.get(fill.key) is fill:
            del self._fills[fill.key]

    def _is_current(self, fill: Fill[R]) -> bool:
        return fill.generation == self.generation and fill.gap == self.trust.generation

    def is_closed(self, fill: Fill[R]) -> bool:
        """True when a later caller must not be given what this fill returns."""
        return fill.is_closed or (fill.since is not None and fill.since != self._rows.changes)

    def _is_kept(self, key: Hashable) -> bool:
        return key in self.entries or key in self._fills

    def _put(self, fill: Fill[R], value: V, until: float) -> None:
        self._sweep((fill.gap, fill.generation))
        entry = self.entries.get(fill.key)
        if entry is None:
            if len(self.entries) >= self.maxsize:
                self._evict()
            entry = self._new_entry(fill.key, until)
            self._order.append(fill.key)
        elif until != entry.until:
            # Another one, not another instant: who reads this one now must not take the old value for fresh.
            entry.generation = DEAD
            counted, entry = entry, self._new_entry(fill.key, until)
            entry.hits, entry.seen = counted.hits, counted.seen
        # The fill's own token, not the current one: should anything be invalidated this instant, it stays dead.
        entry.put(value, fill.gap, fill.generation)

    def _new_entry(self, key: Hashable, until: float) -> Entry[V]:
        entry: Entry[V] = Entry(key) if until == FOREVER else TimedEntry(key, until)
        self.entries[key] = entry
        return entry

    def _evict(self) -> None:
        for _ in range(STEPS_PER_EVICTION):
            key = self._order[0]
            entry = self.entries[key]
            if entry.hits == entry.seen or self.lookup(key) is None:
                break
            entry.seen = entry.hits
            self._order.rotate(-1)
        self._drop_oldest()
        self.stats.evictions += 1

    def _sweep(self, generations: tuple[int, int]) -> None:
        if generations != self._swept_for:
            self._swept_for = generations
            self._unswept = len(self._order)
        for _ in range(min(SWEPT_PER_ENTRY, self._unswept)):
            self._unswept -= 1
            if self.lookup(self._order[0]) is None:
                self._drop_oldest()
            else:
                self._order.rotate(-1)

    def _drop_oldest(self) -> None:
        self.stats.evicted_hits += self.entries.pop(self._order.popleft()).hits

    # --- invalidating

    def invalidate(self, scope: Scope) -> bool:
        """Something in `scope` changed. True when this store depends on it, and was flushed."""
        is_met = any(scope.covers(own) for own in self.scopes)
        if is_met:
            self.flush()
        return is_met

    def forget_row(self, row: RowKey, xid: int | None = None) -> None:
        """A row changed: what depends on it may not be served to a later caller. O(what depends on it).

        `xid` is the transaction that changed it, when it is known.
        """
        with self.lock:
            if self.stamps is not None:
                self.stamps.changed(row, xid)
            entries, fills = self.entries, self._fills
            for key in self._rows.take(row):
                fills.pop(key, None)
                entry = entries.get(key)
                if entry is not None:
                    entry.generation = DEAD

    def flush(self, xid: int | None = None) -> None:
        """Nothing stored or running up to now may be served to a later caller. O(1). `xid` as in `forget_row`."""
        with self.lock:
            if self.stamps is not None:
                self.stamps.changed(None, xid)
            # In this order: a hit that sees the new horizon must not see the old generation.
            self.generation = next(self._generations)
            self.horizon = FOREVER
            self.stats.flushes += 1

    def proven(self, snapshot: Snapshot) -> None:
        """A mark showed what the primary had committed."""
        if self.stamps is not None:
            with self.lock:
                self.stamps.proven(snapshot)

    def flush_at(self, due: float) -> None:
        """Flush at the instant `due`, if nothing does it earlier."""
        with self.lock:
            self.horizon = min(self.horizon, due)

    def expire(self, now: float) -> None:
        """Make good a flush that fell due. Called before anything else on each miss."""
        if now >= self.horizon:
            with self.lock:
                if now >= self.horizon:
                    self.flush()

    def forget(self, key: Hashable) -> bool:
        """Drop one key, its running fill included. True when there was something to serve."""
        with self.lock:
            self._fills.pop(key, None)
            entry = self.lookup(key)
            if entry is not None:
                entry.generation = DEAD
            return entry is not None

    def info(self) -> CacheInfo:
        """Counts up to now. O(entries)."""
        with self.lock:
            stats = self.stats
            return CacheInfo(
                hits=stats.evicted_hits + sum(entry.hits for entry in self.entries.values()),
                misses=stats.misses,
                maxsize=self.maxsize,
                currsize=sum(self.lookup(key) is not None for key in self.entries),
                joins=stats.joins,
                evictions=stats.evictions,
                discards=stats.discards,
                bypasses=stats.bypasses,
                flushes=stats.flushes,
            )
