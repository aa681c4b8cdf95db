"""What makes a client a listener for strategies: a tap hands one observer the events of some subscriptions.

A tap is a reader of stream subscriptions, as an EventStream is, and hands on what it is told in the same step, so that
a cache whose strategy fires is flushed before the position moves. Between continuity lost and regained the observer
hears a Gap, which fires every strategy.

A cached function with a strategy is live while its tap is; what flushes it is the strategy, which watches its store.
Bound: one tap for each observer; observers are held weakly, and a tap ends with its observer.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

from pgcachewatch.aio.events import event_of
from pgcachewatch.aio.watch import CacheReader
from pgcachewatch.errors import PGCacheWatchError
from pgcachewatch.models import EVERYTHING, Event, Gap
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Change
from pgcachewatch.strategies import Observer

logger = logging.getLogger("pgcachewatch")


class Tap:
    """The reader for one observer, and the listener its strategy is bound to."""

    def __init__(
        self, observer: Observer | None, *, clock: Callable[[], float], is_healthy: Callable[[], bool]
    ) -> None:
        self.is_live = False
        self._was_live = False
        self._observer = weakref.ref(observer) if observer is not None else None
        self._clock = clock
        self._is_healthy = is_healthy
        self._caches: list[CacheReader] = []
        self._reported: set[str] = set()

    # --- a listener, as strategies want it

    def connection_healthy(self) -> bool:
        return self.is_live and self._is_healthy()

    def attach(self, observer: Observer) -> None:
        self._observer = weakref.ref(observer)

    def now_s(self) -> float:
        return self._clock()

    def report(self, what: str, error: Exception) -> None:
        """Log a fault of something the user supplied, once for each kind."""
        if what not in self._reported:
            self._reported.add(what)
            logger.error("%s raised; this is logged once, and counts as a change: %r", what, error, exc_info=error)

    # --- the caches it speaks for

    def add(self, cache: CacheReader) -> None:
        """This cache is served while the tap is live."""
        self._caches.append(cache)
        if self.is_live:
            cache.became_live()

    def remove(self, cache: CacheReader) -> None:
        self._caches = [other for other in self._caches if other is not cache]

    # --- told by the client, as a Reader

    def changed(self, change: Change, sub: messages.Sub) -> None:
        self._tell(event_of(change, sub))

    def lost(self, gap: Gap) -> None:
        self._tell(gap)

    def became_live(self) -> None:
        if self._was_live:
            self._tell(Gap(EVERYTHING, "link_lost", "what happened before the subscription was live again is unknown"))
        self.is_live = self._was_live = True
        for cache in self._caches:
            cache.became_live()

    def went_dark(self) -> None:
        self.is_live = False
        for cache in self._caches:
            cache.went_dark()

    def refused(self, error: PGCacheWatchError) -> None:
        for cache in self._caches:
            cache.refused(error)

    def stopped(self, error: PGCacheWatchError) -> None:
        """Nothing to do: the lease ends by itself."""

    def _tell(self, told: Event | Gap) -> None:
        observer = self._observer() if self._observer is not None else None
        if observer is None:
            return
        try:
            observer.observe(told, self._clock())
        except Exception as error:
            # It promised not to raise. What it did not say must not be missed.
            self.report(f"{type(observer).__name__}.observe", error)
            for cache in self._caches:
                cache.lost(Gap(EVERYTHING, "forced"))
