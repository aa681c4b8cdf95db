"""What a call does that the hit path could not answer: the decisions, for both kinds of functions.

With the store locked one of five things is decided: serve the entry, join the running fill, start one, run the function
for this caller alone, or refuse. Doing it is left to the shells, which differ in how they wait.

When freshness is not proven, the options decide:

- "call", "bypass": each caller runs the function itself; nothing is shared, nothing stored.
- "share": one run per key at a time, stored by nobody. A caller joins only a run that started at most the staleness
  bound ago, so that what he gets is no older than a hit could be.
- "stale": serve an entry that nothing invalidated although its lease is over; otherwise as "share".
- "raise": NotFresh.

A value is returned only if it can be returned again: a generator or an awaitable is refused with ConfigurationError.
A run of a store with stamps tells the snapshots it read in (aio/reading.py); without any it is not stored.
A call whose rows can not be told (a value that its column can not hold, a function of the user's that raises) runs the
function for its caller alone, because no event could find what it stored.
Bound: the callers.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, field
from time import monotonic
from types import MappingProxyType
from typing import Any, Generic, Literal, TypeVar

from pgcachewatch.aio.flight import Flight, may_wait
from pgcachewatch.aio.reading import spoil
from pgcachewatch.core.dependencies import RowKey, Rows
from pgcachewatch.core.keys import Arguments, DoesNotBind, Keys, Keywords
from pgcachewatch.core.keytext import Unmatchable
from pgcachewatch.core.store import Entry, Fill, Store
from pgcachewatch.core.trust import FOREVER
from pgcachewatch.errors import ConfigurationError, NotFresh

logger = logging.getLogger("pgcachewatch")

R = TypeVar("R")
F = TypeVar("F", bound=Flight[Any])

NO_KEYWORDS: Keywords = MappingProxyType({})
OnUnfresh = Literal["call", "share", "bypass", "stale", "raise"]
Statistics = Callable[[Literal["hit", "miss"]], object]


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """How a cached function behaves.

    `staleness_s` bounds the age of a run that is joined while freshness is not proven. `statistics` is told each hit
    and miss; joining a running fill is a hit. `bypass` is asked on the slow path only, whether this call wants to run
    the function (see Trust.hold). `has_hit_path` False sends each call through the slow path, for a trust that must be
    asked exactly once per call. `clock` is the one the trust's deadline is on, in seconds. `ignore` and `key` decide
    what tells two calls apart. `rows` are the row dependencies. An entry is served for `ttl_s`, and for `refresh_s`
    more while one run fills it anew; a value for which `is_kept` is False is not stored; `copy` makes what each caller
    gets, and what is stored, its own. `declared` is what `cache_parameters()` tells beside `maxsize`.
    """

    on_unfresh: OnUnfresh = "share"
    staleness_s: float = 2.0
    statistics: Statistics | None = None
    bypass: Callable[[], bool] | None = None
    has_hit_path: bool = True
    clock: Callable[[], float] = monotonic
    ignore: Collection[str] = ()
    key: Callable[..., Hashable] | None = None
    rows: Rows | None = None
    ttl_s: float = FOREVER
    refresh_s: float = 0.0
    is_kept: Callable[[Any], bool] | None = None
    copy: Callable[[Any], Any] | None = None
    declared: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """True when a hit is nothing but the stored value itself."""
        return self.has_hit_path and self.copy is None and self.ttl_s == FOREVER


@dataclass(frozen=True, slots=True)
class Lead(Generic[F]):
    """Start this fill."""

    fill: Fill[F]


@dataclass(frozen=True, slots=True)
class Refresh(Generic[F]):
    """Serve this entry, whose time is over, and start this fill for those who come later."""

    entry: Entry[Any]
    fill: Fill[F]


@dataclass(frozen=True, slots=True)
class Join(Generic[F]):
    """Wait for this flight."""

    flight: F


@dataclass(frozen=True, slots=True)
class Await(Generic[F]):
    """Wait for the end of this flight, take nothing from it, and decide again.

    It is closed: its value may be older than one that was already returned, or than a change that was applied. To start
    another run beside it would only let it overtake that one in turn, and so on for as long as calls overlap.
    """

    flight: F


@dataclass(frozen=True, slots=True)
class RunAlone:
    """Run the function for this caller; nobody joins, nothing is stored."""


RUN_ALONE = RunAlone()


class Fills(Generic[F]):
    """The slow path of one cached function."""

    def __init__(self, function: Callable[..., Any], keys: Keys, store: Store[Any, F], options: CacheOptions) -> None:
        self.function = function
        self.keys = keys
        self.store = store
        self.options = options
        self.quick = keys.quick()
        self.is_stamped = store.stamps is not None
        self.observe_hit = self._observe_hit if options.statistics is not None else None
        self._reported: set[str] = set()

    def new_flight(self) -> F:
        """The shell's kind of flight."""
        raise NotImplementedError

    def is_gone(self, flight: F) -> bool:
        """True when the owner of a running flight can not bring it to its end."""
        return False

    def key_of(self, args: Arguments, kwargs: Keywords) -> Hashable | RunAlone:
        """The key of this call. A call that does not fit the signature is run, which says so to its caller."""
        bypass = self.options.bypass
        if bypass is not None and bypass():
            return RUN_ALONE
        try:
            return self.keys.of(args, kwargs)
        except DoesNotBind:
            return RUN_ALONE

    def served(self, key: Hashable) -> Entry[Any] | None:
        """The entry to serve at once, as the hit path does it, without a lock."""
        store, trust = self.store, self.store.trust
        entry = store.entries.get(key)
        if (
            entry is None
            or not self.options.has_hit_path
            or not trust.deadline > self.options.clock() < min(store.horizon, entry.until)
            or store.lookup(key) is not entry
        ):
            return None
        entry.hits += 1
        return entry

    def decide(
        self, key: Hashable, now: float, args: Arguments = (), kwargs: Keywords = NO_KEYWORDS
    ) -> Entry[Any] | Refresh[F] | Join[F] | Lead[F] | Await[F] | RunAlone:
        """What this call does. Raises NotFresh, and ConfigurationError for rows that do not exist."""
        store, options = self.store, self.options
        is_fresh = now < store.trust.lease
        store.expire(now)
        types, rows = self._rows_of(args, kwargs)
        with store.lock:
            if is_fresh or options.on_unfresh == "stale":
                entry = store.lookup(key)
                if entry is not None and now < entry.until + options.refresh_s:
                    entry.hits += 1
                    if now < entry.until or rows is None or not self._may_refresh(key):
                        return entry
                    fill = store.begin(key, now=now, run=self.new_flight(), is_storable=is_fresh, rows=rows)
                    return Refresh(entry, fill)
            if not is_fresh:
                store.stats.bypasses += 1
                if options.rows is not None and options.rows.problem:
                    raise ConfigurationError(f"{self.keys.name} can not be cached: {options.rows.problem}")
                if options.on_unfresh in ("call", "bypass"):
                    return RUN_ALONE
                if options.on_unfresh == "raise":
                    raise NotFresh(
                        f"{self.keys.name} can not be served: freshness is not proven at this moment; try again, or "
                        'declare it with on_disconnect="share" to run the function instead'
                    )
            if rows is None or (options.rows is not None and types is not options.rows.types):
                return RUN_ALONE
            return self._join_or_lead(key, now, rows, is_fresh=is_fresh)

    def finish(self, fill: Fill[F], value: Any, args: Arguments = (), kwargs: Keywords = NO_KEYWORDS) -> None:
        """The function returned. Raises ConfigurationError for a value that can be read only once."""
        if inspect.isawaitable(value) or inspect.isgenerator(value) or inspect.isasyncgen(value):
            if inspect.iscoroutine(value):
                value.close()
            raise ConfigurationError(
                f"{self.keys.name} returned a {type(value).__name__}, which can be read only once and not be cached; "
                "return what it yields or resolves to instead, from an async def if need be"
            )
        stored, rows = self._to_store(value, args, kwargs)
        node = fill.run.node
        if self.is_stamped and not node.snapshots:
            self._tell_unread()
        with self.store.lock:
            fill.is_storable &= rows is not None
            fill.is_unproven = node.is_unproven or (self.is_stamped and rows is None)
            # The same object for all that have no end: a float of its own is 32 bytes an entry.
            until = FOREVER if self.options.ttl_s == FOREVER else self.options.clock() + self.options.ttl_s
            self.store.finish(fill, stored, rows=rows or (), until=until, snapshots=node.snapshots)
            fill.run.is_unproven = fill.is_unproven
            fill.run.land(value)

    def handed(self, value: Any) -> Any:
        """What a caller gets of a value that others get too."""
        return value if self.options.copy is None else self.options.copy(value)

    def fail(self, fill: Fill[F], error: BaseException, *, is_outcome: bool) -> None:
        """The function raised. `is_outcome` False: it was stopped, and this is not what it had to say."""
        with self.store.lock:
            self.store.abandon(fill)
            fill.run.is_unproven = self.is_stamped or fill.run.node.is_unproven
            if is_outcome:
                fill.run.fail(error)
            else:
                fill.run.abandon()

    def give_up(self, fill: Fill[F]) -> None:
        """Let nobody join this fill any more."""
        with self.store.lock:
            self.store.abandon(fill)

    def landed(self, flight: F) -> Any:
        """What a caller gets of a flight that is done. Raises what the function raised, and Abandoned."""
        if flight.is_unproven:
            spoil()
        return self.handed(flight.result())

    def runs_alone(self) -> None:
        """The function is about to run for its caller alone: nobody will look at what it reads."""
        if self.is_stamped:
            spoil()

    def ran_alone(self, args: Arguments, kwargs: Keywords) -> None:
        """A run that nobody could join has returned to its caller."""
        try:
            key = self.keys.of(args, kwargs)
        except (DoesNotBind, ConfigurationError):
            return
        with self.store.lock:
            self.store.overtake(key)

    def observe(self, what: Literal["hit", "miss"]) -> None:
        """Tell the statistics callback; what it raises can not fail the call."""
        if self.options.statistics is None:
            return
        try:
            self.options.statistics(what)
        except Exception as error:
            self.report("statistics callback", error)

    def report(self, what: str, error: BaseException) -> None:
        """Log a fault of something the user supplied, once for each kind."""
        if what not in self._reported:
            self._reported.add(what)
            logger.error("%s of %s raised; this is logged once: %r", what, self.keys.name, error, exc_info=error)

    def _tell_unread(self) -> None:
        if "unread" not in self._reported:
            self._reported.add("unread")
            logger.error(
                '%s is declared with consistency="snapshot" and told no snapshot, so nothing is stored; call '
                "pgcachewatch.read_in(...) in it, with pg_current_snapshot()::text of the statement that reads",
                self.keys.name,
            )

    def _observe_hit(self) -> None:
        self.observe("hit")

    def _may_refresh(self, key: Hashable) -> bool:
        """True when nobody fills this key already."""
        fill = self.store.current(key)
        return fill is None or self.is_gone(fill.run)

    def _rows_of(self, args: Arguments, kwargs: Keywords) -> tuple[object, list[RowKey] | None]:
        """The rows this call depends on, as far as they are known; None when they can not be told. With their types."""
        rows = self.options.rows
        if rows is None:
            return None, []
        types = rows.types
        try:
            return types, rows.of_call(args, kwargs)
        except Unmatchable as reason:
            self.report(f"telling rows by arguments ({reason})", reason)
        except Exception as error:
            self.report("telling rows by arguments", error)
        return types, None

    def _to_store(self, value: Any, args: Arguments, kwargs: Keywords) -> tuple[Any, list[RowKey] | None]:
        """What is stored of a value, and the rows that only it tells; None when it is not to be stored."""
        options = self.options
        try:
            if options.is_kept is not None and not options.is_kept(value):
                return value, None
            rows = [] if options.rows is None else options.rows.of_result(args, kwargs, value)
            return self.handed(value), rows
        except Exception as error:
            self.report("looking at a result", error)
            return value, None

    def _join_or_lead(
        self, key: Hashable, now: float, rows: list[RowKey], *, is_fresh: bool
    ) -> Join[F] | Lead[F] | Await[F] | RunAlone:
        store = self.store
        fill = store.current(key)
        if fill is not None and self.is_gone(fill.run):
            fill.run.abandon()
            fill = None
        is_closed = fill is not None and store.is_closed(fill)
        if fill is not None and (is_fresh or is_closed or now - fill.started_s <= self.options.staleness_s):
            if not may_wait(fill.run.node):
                return RUN_ALONE
            if is_closed:
                return Await(fill.run)
            store.stats.joins += is_fresh
            return Join(fill.run)
        store.stats.misses += is_fresh
        fill = store.begin(key, now=now, run=self.new_flight(), is_storable=is_fresh, rows=rows)
        may_wait(fill.run.node)
        return Lead(fill)
