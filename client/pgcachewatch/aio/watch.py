"""What this client knows, kept up to date by what the relay delivers: the Owner of the connection.

Each delivery is applied in one synchronous step, in the order the session gives (the order is part of the proof):
changes reach the caches before the position moves, the position before freshness is renewed, and only then are those
who wait woken. Nothing in here awaits, and nothing that users wrote can make a step fail.

A cached function has a Trust of its own, because freshness is proven for the whole connection, and a function whose
subscription the relay has not granted must stay dark while others are live.

Bounds: those of Subscriptions, Barriers and Feed. On the path of an event: steps 9 to 12.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

from pgcachewatch.aio.barriers import Barriers
from pgcachewatch.aio.connection import Connection
from pgcachewatch.aio.consuming import ConsumerFeed
from pgcachewatch.core.dependencies import RowKey, Rows
from pgcachewatch.core.freshness import Freshness
from pgcachewatch.core.snapshots import Snapshot
from pgcachewatch.core.store import CacheInfo
from pgcachewatch.core.subscriptions import Subscriptions, dimension_place, row_place
from pgcachewatch.core.trust import NEVER, Trust
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, NotFresh, PGCacheWatchError, Refused
from pgcachewatch.models import EVERYTHING, Gap, Position
from pgcachewatch.protocol import client_session as deliveries
from pgcachewatch.protocol import client_takers, messages
from pgcachewatch.protocol.transitions import Trust as TrustState

logger = logging.getLogger("pgcachewatch")

ELSEWHERE = "consumer_elsewhere"  # the err code of a consumer that another relay serves
RETRY_REFUSED_S = 1.0  # when the relay refuses a subscription for now, and does not say for how long
REFUSALS_KEPT = 20
UNDECLARABLE = frozenset({"unknown_table", "unknown_column", "unusable_column"})  # err codes that a declaration earns
DECLARE_AGAIN_S = 5.0  # and is tried again, because a table may be created, or installed with a further column


class Flushed(Protocol):
    """What a cached function has stored."""

    lock: contextlib.AbstractContextManager[object]

    def info(self) -> CacheInfo:
        """Counts up to now. O(entries)."""

    def flush(self, xid: int | None = None) -> None:
        """Nothing stored or running may be served to a later caller. O(1), from any thread. `xid`: who changed it."""

    def forget_row(self, row: RowKey, xid: int | None = None) -> None:
        """The same for what depends on this row."""

    def proven(self, snapshot: Snapshot) -> None:
        """A mark showed what the primary had committed."""


class CacheReader:
    """A cached function as a reader: a change of a row drops what depends on the row, any other change flushes it."""

    def __init__(self, store: Flushed, trust: Trust, *, watch: Watch, label: str, rows: Rows | None = None) -> None:
        self.trust = trust
        self.is_live = False
        self._store = store
        self._watch = watch
        self.label = label
        self._rows = rows
        self._dimensions = {dimension_place(one): number for number, one in enumerate(rows.dimensions if rows else ())}
        self._dimension_of: dict[int, int | None] = {}  # by the id of a subscription: each has one of its own

    def info(self) -> CacheInfo:
        """Counts of the function's cache. O(entries), from any thread."""
        return self._store.info()

    def changed(self, change: deliveries.Change, sub: messages.Sub) -> None:  # hot path
        try:
            dimension = self._dimension_of[sub.id]
        except KeyError:
            place = row_place(sub)
            dimension = self._dimension_of[sub.id] = None if place is None else self._dimensions.get(place)
        # While dark, runs may be under way that were begun before the types of the rows were known.
        if dimension is None or change.key is None or not self.is_live:
            self._store.flush(change.xid)
        else:
            self._store.forget_row(RowKey(dimension, change.key), change.xid)

    def lost(self, gap: Gap) -> None:
        self._store.flush()

    def became_live(self) -> None:
        if self._rows is not None and not self._learn_types(self._rows):
            return
        # Runs that began before may have read what changed while nobody was told: they must not be stored.
        self.is_live = True
        self._store.flush()
        self._renew(self._watch.freshness.deadline_s)

    def went_dark(self) -> None:
        self.is_live = False
        self._renew(NEVER)

    def _learn_types(self, rows: Rows) -> bool:
        told = self._watch.subscriptions.row_types(self)
        types = [told.get(place) for place in self._dimensions]
        known = tuple(each for each in types if each is not None)
        if len(known) < len(types):
            rows.problem = "the relay does not tell the types of its rows' columns; upgrade it, or use tables="
            logger.error("%s: %s", self.label, rows.problem)
            return False
        rows.types, rows.problem = known, ""
        return True

    def refused(self, error: PGCacheWatchError) -> None:
        if self._rows is not None and isinstance(error, ConfigurationError):
            if self._rows.problem == str(error):
                return
            self._rows.problem = str(error)
        logger.error("%s will run for every call: %s", self.label, error)

    def stopped(self, error: PGCacheWatchError) -> None:
        """Nothing to do: the lease ends by itself, and what was proven holds until then."""

    def renewed(self, deadline_s: float, snapshot: Snapshot | None = None) -> None:
        """Freshness was proven anew."""
        if self.is_live:
            if snapshot is not None:
                self._store.proven(snapshot)
            self._renew(deadline_s)

    def barrier_passed(self) -> None:
        """While dark no change detaches a run, so a barrier must: no later call may join a run from before it (G3)."""
        if not self.is_live:
            self._store.flush()

    def forked(self) -> None:
        """In the child of a fork: start from nothing, with a lock of this process."""
        self._store.lock = threading.RLock()
        self._store.flush()
        self.went_dark()

    def _renew(self, deadline_s: float) -> None:
        with self._watch.trust_lock:
            self.trust.renew(deadline_s)


class Watch:
    """State of one client, on its event loop."""

    def __init__(self, *, staleness_s: float, clock: Callable[[], float]) -> None:
        self.freshness = Freshness(staleness_s=staleness_s)
        self.subscriptions = Subscriptions()
        self.barriers = Barriers(self._send_barrier, self._missing)
        self.caches: list[CacheReader] = []
        self.consumers: dict[int, ConsumerFeed] = {}  # by the id of their request
        self.position: Position | None = None
        self.gaps = 0
        self.resumes = 0
        self.last_error: PGCacheWatchError | None = None
        self.stopped_by: PGCacheWatchError | None = None
        self.refusals: list[str] = []  # newest last
        self.notices: list[str] = []  # likewise
        self.source_lost: str | None = None
        # Holding hits back and renewing a lease each write two fields of a Trust, and come from different threads.
        self.trust_lock = threading.Lock()
        self._holds = 0
        self._clock = clock
        self._connection: Connection | None = None
        self._waiters: dict[asyncio.Future[None], Callable[[], bool]] = {}

    def attach(self, connection: Connection) -> None:
        """The connection this watch owns; it is made after the watch."""
        self._connection = connection

    def add_cache(self, reader: CacheReader) -> None:
        """Speak for one more cache."""
        with self.trust_lock:
            for _ in range(self._holds):
                reader.trust.hold()
            self.caches.append(reader)

    def remove_cache(self, reader: CacheReader) -> None:
        """Speak for it no more: it stays dark."""
        with self.trust_lock:
            self.caches = [other for other in self.caches if other is not reader]
        reader.went_dark()

    def hold(self) -> None:
        """Somebody, in some thread, wants no hits: make each call look whether it is meant."""
        with self.trust_lock:
            self._holds += 1
            for reader in self.caches:
                reader.trust.hold()

    def release(self) -> None:
        """Undo one `hold`."""
        with self.trust_lock:
            self._holds -= 1
            for reader in self.caches:
                reader.trust.release()

    @property
    def is_welcomed(self) -> bool:
        return self._connection is not None and self._connection.session is not None

    @property
    def is_live(self) -> bool:
        """Freshness is proven now, for everything that was asked for."""
        live = self.freshness.trust_at(now_s=self._clock()) is TrustState.LIVE
        return live and self.subscriptions.is_answered

    def wants_changed(self) -> None:
        """Subscriptions were added or removed."""
        if self._connection is not None:
            self._connection.reconcile()

    async def until(self, condition: Callable[[], bool], *, timeout_s: float | None) -> None:
        """Wait for a condition over this watch. Raises NotFresh after the timeout, and what stopped the client."""
        if condition():
            return
        if self.stopped_by is not None:
            raise self.stopped_by
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[future] = condition
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            last = f"; last error: {self.last_error}" if self.last_error else ""
            raise NotFresh(
                f"not live within {timeout_s:g} s: no {self._missing(proof=True)} yet{last}; allow more time, or look "
                "at client.status"
            ) from None
        finally:
            self._waiters.pop(future, None)

    def end(self, error: PGCacheWatchError) -> None:
        """Nothing will be heard any more: `error` to all who wait; every cache runs its function from here on."""
        self.stopped_by = self.stopped_by or error
        self.barriers.fail(error)
        for feed in self.consumers.values():
            feed.end(error)
        for future in self._waiters:
            if not future.done():
                future.set_exception(error)
        self._waiters.clear()

    def close(self, error: PGCacheWatchError) -> None:
        """The client is closed: nothing will ever be proven again."""
        self.end(error)
        self.subscriptions.all_dark()
        for reader in self.caches:
            reader.went_dark()
        self.caches = []

    def forked(self) -> None:
        """In the child of a fork: locks may be held by threads that are gone, and so may running fills."""
        self.trust_lock = threading.Lock()
        for reader in self.caches:
            reader.forked()
        self.caches = []

    # --- Owner of the connection

    def wanted(self) -> Sequence[messages.Sub]:
        return self.subscriptions.wanted()

    def subscribing(self, identity: int) -> None:
        self.subscriptions.restart(identity)

    def begin_connection(self) -> None:
        self.freshness.begin_connection()

    def link_lost(self, error: ConnectionFailed) -> None:
        self.last_error = error
        self._doubt(error)
        for feed in self.consumers.values():
            feed.lost()

    def troubled(self, error: ConnectionFailed) -> None:
        self.last_error = error
        logger.warning("%s", error)

    def broke(self) -> None:
        self.gaps += 1
        self.subscriptions.all_dark()
        self.subscriptions.lost(Gap(EVERYTHING, "chain_broken", "a frame could not be applied"))

    def stopped(self, error: Refused) -> None:
        self.last_error = error
        self.end(error)
        self.subscriptions.stop(error)

    def apply(self, delivery: deliveries.Delivery) -> None:  # hot path
        match delivery:
            case deliveries.Invalidate():
                self.subscriptions.changed(delivery.changes)
            case deliveries.Advance():
                self.position = delivery.position
            case deliveries.Proof():
                self._prove(delivery)
            case deliveries.ClockSample():
                self.freshness.sample(local_s=delivery.local_s, relay_ms=delivery.relay_ms)
            case deliveries.Flush():
                self._flush(delivery)
            case deliveries.Granted():
                self._granted(delivery)
            case deliveries.BarrierPassed():
                for reader in self.caches:
                    reader.barrier_passed()
                self.barriers.passed(delivery.id)
            case deliveries.Opened():
                self._open(delivery)
            case deliveries.SourceLost():
                self.source_lost = delivery.reason
                self._doubt(f"the relay lost PostgreSQL ({delivery.reason})")
            case deliveries.Rejected():
                self._reject(delivery)
            case client_takers.Admitted() | client_takers.JobGiven() | client_takers.JobsTaken():
                self._tell_consumer(delivery)
            case deliveries.Leaving() | deliveries.CloseWith() | deliveries.Authenticated():
                pass  # the connection acts on these
            case _:
                assert_never(delivery)

    def _open(self, opened: deliveries.Opened) -> None:
        if opened.resumed:
            self.resumes += 1
        else:
            self.subscriptions.all_dark()
        self.barriers.connected(is_resumed=opened.resumed)
        for feed in self.consumers.values():
            feed.connected()
        self._wake()

    def _granted(self, granted: deliveries.Granted) -> None:
        if granted.notice is not None and granted.notice not in self.notices:
            self.notices = [*self.notices, granted.notice][-REFUSALS_KEPT:]
            logger.warning("%s", granted.notice)
        self.subscriptions.granted(granted.id, granted.types)
        self._wake()

    def _flush(self, flush: deliveries.Flush) -> None:
        # The flush of the first welcome takes nothing from anybody.
        if self.position is not None:
            self.gaps += 1
        self.subscriptions.lost(Gap(flush.scope, flush.reason))

    def _doubt(self, why: object) -> None:
        """Link or source is lost: told once, whatever follows from it."""
        if self.freshness.trust is TrustState.LIVE:
            logger.warning("%s; hits go on for %.1f s at most", why, max(0.0, self._lease_left_s()))
        self.freshness.doubt()

    def _prove(self, proof: deliveries.Proof) -> None:
        was_suspect, paused_s = self.freshness.trust is TrustState.SUSPECT, -self._lease_left_s()
        self.freshness.prove(as_of_ms=proof.as_of_ms, now_s=self._clock())
        if was_suspect and self.freshness.trust is TrustState.LIVE:
            logger.info("freshness is proven again; hits paused for %.1f s", max(0.0, paused_s))
        self.source_lost = None
        snapshot = None if proof.snapshot is None else Snapshot.parse(proof.snapshot)
        for reader in self.caches:
            reader.renewed(self.freshness.deadline_s, snapshot)
        self._wake()

    def _reject(self, rejected: deliveries.Rejected) -> None:
        text = f"the relay refused: {rejected.code}: {rejected.message}"
        if self.barriers.rejected(rejected):
            return
        if rejected.id in self.consumers:
            self._reject_consumer(self.consumers[rejected.id], rejected)
            return
        is_declaration = rejected.code in UNDECLARABLE
        self.last_error = ConfigurationError(rejected.message) if is_declaration else ConnectionFailed(text)
        if text not in self.refusals:
            self.refusals = [*self.refusals, text][-REFUSALS_KEPT:]
        if rejected.id is None or not self.subscriptions.refused(rejected.id, self.last_error, rejected.may_retry):
            logger.warning("%s", text)
            return
        if self._connection is not None:
            self._connection.forget(rejected.id)
        if rejected.may_retry:
            after_s = RETRY_REFUSED_S if rejected.after_ms is None else rejected.after_ms / 1000
            asyncio.get_running_loop().call_later(after_s, self._retry, rejected.id)
        elif is_declaration:
            asyncio.get_running_loop().call_later(DECLARE_AGAIN_S, self._retry, rejected.id)
        self._wake()

    def _tell_consumer(self, told: client_takers.Admitted | client_takers.JobGiven | client_takers.JobsTaken) -> None:
        feed = self.consumers.get(told.id)
        if feed is None:
            return  # it has left, and the relay will hear of it
        match told:
            case client_takers.Admitted():
                feed.admitted()
            case client_takers.JobGiven():
                feed.given(told.job)
            case client_takers.JobsTaken():
                feed.taken(told.ids)
            case _:
                assert_never(told)

    def _reject_consumer(self, feed: ConsumerFeed, rejected: deliveries.Rejected) -> None:
        text = f"consumer {feed.wish.consumer!r}: the relay refused: {rejected.code}: {rejected.message}"
        self.last_error = ConnectionFailed(text) if rejected.may_retry else ConfigurationError(text)
        if text not in self.refusals:
            self.refusals = [*self.refusals, text][-REFUSALS_KEPT:]
            logger.warning("%s", text)
        feed.refused(self.last_error, may_retry=rejected.may_retry)
        if rejected.may_retry:
            after_s = RETRY_REFUSED_S if rejected.after_ms is None else rejected.after_ms / 1000
            asyncio.get_running_loop().call_later(after_s, self._retry_consumer, feed, rejected.code)

    def _retry_consumer(self, feed: ConsumerFeed, code: str) -> None:
        if feed.is_admitted or self.consumers.get(feed.wish.id) is not feed or self._connection is None:
            return
        # Not from where another consumer is served: two of them would drive the client to and fro.
        if code == ELSEWHERE and not any(each.is_admitted for each in self.consumers.values()):
            self._connection.move_on(f"consumer {feed.wish.consumer!r} is served by another relay")
        if not feed.is_asking:
            feed.connected()

    def _retry(self, identity: int) -> None:
        self.subscriptions.retry(identity)
        self.wants_changed()

    def _wake(self) -> None:
        for future, condition in list(self._waiters.items()):
            if condition() and not future.done():
                future.set_result(None)

    def _send_barrier(self, identity: int, token: str | None) -> bool:
        return self._connection is not None and self._connection.barrier(identity, token)

    def _missing(self, *, proof: bool = False) -> str:
        stage = self._connection.stage if self._connection is not None else "connection"
        if stage != "open":
            return stage
        if self.source_lost is not None:
            return "source"
        return "proof" if proof else "barrierok"

    def _lease_left_s(self) -> float:
        return self.freshness.lease_left_s(now_s=self._clock())
