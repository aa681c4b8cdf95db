"""Taps: what an observer is told, in which order with its caches, and when it may be served."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from pgcachewatch.aio.taps import Tap
from pgcachewatch.aio.watch import CacheReader, Watch
from pgcachewatch.core.trust import NEVER
from pgcachewatch.errors import Refused
from pgcachewatch.models import EVERYTHING, Event, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Change
from pgcachewatch.strategies import Greedy, Source
from tests.client.aio.rig import STALENESS_S, StubCache

SUB = messages.Sub(id=1, channel="c", table="users", mode="stream")
CHANGE = Change(1, "u", None, {"table": "users", "sent_at": "2030-01-01T00:00:00+00:00"})
NOW_S = 1_000.0


class Noting:
    """An observer that notes what it heard and when, and whether its cache was served by then."""

    def __init__(self, cache: StubCache | None = None, *, fails: bool = False) -> None:
        self.heard: list[object] = []
        self.at_s: list[float] = []
        self.was_served: list[bool] = []
        self._cache = cache or StubCache()
        self._fails = fails

    def observe(self, event: object, now_s: float) -> None:
        self.heard.append(event)
        self.at_s.append(now_s)
        self.was_served.append(self._cache.deadline_s > NOW_S)
        if self._fails:
            raise LookupError("it promised not to")


def tap(observer: Noting | None, *, is_healthy: bool = True) -> Tap:
    return Tap(observer, clock=lambda: NOW_S, is_healthy=lambda: is_healthy)


def reader(cache: StubCache) -> CacheReader:
    """The reader of `cache`, on a link whose freshness is proven for STALENESS_S."""
    watch = Watch(staleness_s=STALENESS_S, clock=lambda: NOW_S)
    watch.freshness.sample(local_s=NOW_S, relay_ms=0.0)
    watch.freshness.prove(as_of_ms=0.0, now_s=NOW_S)
    return CacheReader(cache, cache.trust, watch=watch, label="stub")


def test_an_observer_is_told_each_event_at_the_clients_own_time() -> None:
    observer = Noting()
    told = tap(observer)

    told.changed(CHANGE, SUB)

    (event,) = observer.heard
    assert isinstance(event, Event)
    assert (event.channel, event.table, event.operation) == ("c", "users", "update")
    assert observer.at_s == [NOW_S]


def test_what_is_lost_is_told_as_it_is() -> None:
    observer = Noting()
    gap = Gap(Scope("c"), "source_lost")

    tap(observer).lost(gap)

    assert observer.heard == [gap]


def test_an_item_that_names_no_event_is_told_as_a_gap() -> None:
    observer = Noting()

    tap(observer).changed(Change(1, "*", None, {"reason": "table_wide"}), SUB)

    (gap,) = observer.heard
    assert isinstance(gap, Gap)
    assert (gap.scope, gap.reason) == (Scope("c", "users"), "table_wide")


def test_becoming_live_is_no_gap_the_first_time_and_one_each_time_after() -> None:
    observer = Noting()
    told = tap(observer)
    told.became_live()
    assert observer.heard == []

    for _ in range(2):
        told.went_dark()
        told.became_live()

    assert [(gap.scope, gap.reason) for gap in observer.heard if isinstance(gap, Gap)] == [
        (EVERYTHING, "link_lost"),
        (EVERYTHING, "link_lost"),
    ]


def test_a_cache_is_served_while_its_tap_is_live_and_the_observer_hears_of_the_gap_before() -> None:
    cache = StubCache()
    observer = Noting(cache)
    told = tap(observer)
    told.add(reader(cache))
    seen = [cache.deadline_s]

    for tell in (told.became_live, told.went_dark, told.became_live):
        tell()
        seen.append(cache.deadline_s)

    assert seen == [NEVER, NOW_S + STALENESS_S, NEVER, NOW_S + STALENESS_S]
    assert observer.was_served == [False]


def test_a_cache_that_comes_later_is_served_at_once_when_the_tap_is_live() -> None:
    told = tap(Noting())
    told.became_live()
    cache = StubCache()

    told.add(reader(cache))

    assert cache.deadline_s == NOW_S + STALENESS_S


def test_a_cache_that_left_is_told_nothing_more() -> None:
    told = tap(Noting())
    staying, leaving = StubCache(), StubCache()
    readers = [reader(staying), reader(leaving)]
    for one in readers:
        told.add(one)

    told.remove(readers[1])
    told.became_live()

    assert [cache.deadline_s for cache in (staying, leaving)] == [NOW_S + STALENESS_S, NEVER]


@pytest.mark.parametrize("is_healthy", [True, False])
def test_it_is_healthy_while_it_is_live_and_its_client_is_healthy(*, is_healthy: bool) -> None:
    told = tap(Noting(), is_healthy=is_healthy)
    seen = [told.connection_healthy()]

    for tell in (told.became_live, told.went_dark):
        tell()
        seen.append(told.connection_healthy())

    assert seen == [False, is_healthy, False]


def test_an_observer_that_raises_flushes_its_caches_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    observer, cache = Noting(fails=True), StubCache()
    told = tap(observer)
    told.add(reader(cache))

    for _ in range(3):
        told.changed(CHANGE, SUB)

    assert cache.flushes == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "Noting.observe" in caplog.text


def test_a_refusal_is_told_to_each_cache(caplog: pytest.LogCaptureFixture) -> None:
    told = tap(Noting())
    told.add(reader(StubCache()))
    told.add(reader(StubCache()))

    told.refused(Refused("too many subscriptions", code=4029, may_retry=True))

    assert [message.count("too many subscriptions") for message in caplog.messages] == [1, 1]


def test_it_is_the_listener_of_a_strategy_that_is_bound_to_it() -> None:
    told = tap(None)
    strategy = Greedy()
    strategy.bind(told)
    told.changed(CHANGE, SUB)
    told.became_live()

    assert isinstance(told, Source)
    assert [strategy.clear(), strategy.clear(), strategy.connection_healthy()] == [True, False, True]


def test_an_observer_that_is_gone_is_not_kept_and_nothing_is_told() -> None:
    observer = Noting()
    told = tap(observer)
    reference = weakref.ref(observer)

    del observer
    gc.collect()
    told.changed(CHANGE, SUB)

    assert reference() is None
