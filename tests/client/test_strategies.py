"""What makes a cache let go: which events fire a strategy, and at which instant."""

from __future__ import annotations

import asyncio
import collections
import datetime
import gc
import queue
import weakref
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pgcachewatch import models, strategies
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.strategies import FIRED_KEPT, EventStrategy, Greedy, Timed, Windowed
from tests.client.steered import EPOCH, Steered, event, events

OPERATIONS: list[models.OPERATIONS] = ["insert", "update", "delete", "truncate"]
GAP = models.Gap(models.EVERYTHING, "link_lost")
MINUTE = datetime.timedelta(minutes=1)
SECOND = datetime.timedelta(seconds=1)


class Watcher:
    """Notes what it is told, as a store would do it."""

    def __init__(self) -> None:
        self.flushes = 0
        self.due: list[float] = []

    def flush(self) -> None:
        self.flushes += 1

    def flush_at(self, due: float) -> None:
        self.due.append(due)


@pytest.fixture
def listener() -> Steered:
    return Steered()


@pytest.fixture(autouse=True)
def wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the wall clock it is EPOCH, all the time."""
    monkeypatch.setattr(strategies, "utc_now", lambda: EPOCH)


def answers(strategy: EventStrategy, listener: Steered, events: Iterable[object]) -> list[bool]:
    """What `clear()` says after each event."""
    said = []
    for one in events:
        listener.put_nowait(one)
        said.append(strategy.clear())
    return said


# --- Greedy


def test_greedy_judges_event_by_event(listener: Steered) -> None:
    strategy = Greedy(listener, predicate=lambda event: event.operation == "update")
    for operation in ("insert", "update", "delete", "update"):
        listener.put_nowait(event(operation))

    assert [strategy.clear() for _ in range(4)] == [True, True, False, False]
    assert answers(strategy, listener, events(*OPERATIONS)) == [False, True, False, False]


def test_greedy_without_a_predicate_fires_for_each_event(listener: Steered) -> None:
    assert answers(Greedy(listener), listener, events(*OPERATIONS)) == [True] * 4


def test_a_predicate_that_raises_fires_is_logged_once_and_does_not_reach_the_caller(
    listener: Steered, caplog: pytest.LogCaptureFixture
) -> None:
    strategy = Greedy(listener, predicate=lambda event: 1 / 0 > 0)

    assert answers(strategy, listener, [event(), event(), event()]) == [True] * 3
    assert [record.getMessage().count("division by zero") for record in caplog.records] == [1]


# --- Windowed


@given(window=some.lists(some.sampled_from(OPERATIONS), min_size=1, max_size=3), operations=some.data())
def test_windowed_is_true_exactly_when_the_last_operations_are_the_window(
    window: list[models.OPERATIONS], operations: some.DataObject
) -> None:
    listener = Steered()
    strategy = Windowed(listener, window)
    # The window's own operations, so that it is met often, and overlaps with itself.
    came = operations.draw(some.lists(some.sampled_from([*sorted(set(window)), "truncate"]), max_size=20))

    said = answers(strategy, listener, events(*came))

    assert said == ["".join(came[: end + 1]).endswith("".join(window)) for end in range(len(came))]


def test_windowed_fires_again_when_its_window_comes_again(listener: Steered) -> None:
    strategy = Windowed(listener, ["insert", "insert"])

    assert answers(strategy, listener, [event("insert")] * 4) == [False, True, True, True]


def test_windowed_fires_after_so_many_events_of_any_kind(listener: Steered) -> None:
    strategy = Windowed(listener, max_events=3)

    said = answers(strategy, listener, events("insert", "delete", "update") * 2)

    assert said == [False, False, True] * 2


def test_windowed_fires_so_long_after_the_first_event_it_has_not_fired_for(listener: Steered) -> None:
    strategy = Windowed(listener, within=MINUTE)
    listener.put_nowait(event())
    listener.time_s += 59
    assert answers(strategy, listener, [event()]) == [False]

    listener.time_s += 1

    assert [strategy.clear(), strategy.clear()] == [True, False]
    # A minute of its own for what comes next, whenever it comes.
    listener.time_s += 600
    assert answers(strategy, listener, [event()]) == [False]
    listener.time_s += 60
    assert strategy.clear()


def test_windowed_fires_for_whichever_of_its_limits_comes_first(listener: Steered) -> None:
    strategy = Windowed(listener, ["insert", "delete"], max_events=3, within=MINUTE)

    assert answers(strategy, listener, events("insert", "delete")) == [False, True]
    assert answers(strategy, listener, events("update", "update", "update")) == [False, False, True]
    assert answers(strategy, listener, [event("update")]) == [False]
    listener.time_s += 60
    assert strategy.clear()


def test_windowed_counts_anew_after_a_gap(listener: Steered) -> None:
    strategy = Windowed(listener, max_events=2)

    assert answers(strategy, listener, [event(), GAP, event(), event()]) == [False, True, False, True]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Windowed(window=[]), "never fire"),
        (lambda: Windowed(window=["INSERT"]), "'INSERT'.*lower case"),  # type: ignore[list-item]  # that is the fault
        (lambda: Windowed(max_events=0), "max_events"),
        (lambda: Windowed(within=datetime.timedelta(0)), "within"),
        (lambda: Timed(), "interval"),
        (lambda: Timed(timedelta=-SECOND), "interval"),
    ],
)
def test_a_strategy_that_could_not_do_what_it_says_is_refused(make: Callable[[], object], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        make()


# --- Timed


def test_timed_compares_times_of_sending_strictly_and_first_with_its_construction(listener: Steered) -> None:
    strategy = Timed(listener, MINUTE)
    offsets = [60, 60.001, 120, 120.001, 120.002, 180.002, 180.003]

    said = answers(strategy, listener, [event(sent_at=EPOCH + SECOND * offset) for offset in offsets])

    assert said == [False, True, False, False, True, False, True]


def test_an_event_inside_the_interval_takes_effect_at_its_end_although_no_other_event_comes(listener: Steered) -> None:
    strategy = Timed(listener, MINUTE)
    watcher = Watcher()
    strategy.watch(watcher)
    listener.time_s += 59
    assert answers(strategy, listener, [event(), event()]) == [False, False]
    assert watcher.due == [1_060.0]

    listener.time_s += 1

    assert [strategy.clear(), strategy.clear()] == [True, False]


def test_an_interval_without_an_event_ends_without_firing(listener: Steered) -> None:
    strategy = Timed(listener, MINUTE)

    listener.time_s += 3_600

    assert not strategy.clear()


@pytest.mark.parametrize(
    "skew",
    [
        pytest.param(-datetime.timedelta(minutes=5), id="the database's clock is behind"),
        pytest.param(-datetime.timedelta(days=1), id="the transaction began before the strategy was made"),
        pytest.param(datetime.timedelta(days=1), id="the database's clock is ahead"),
    ],
)
def test_no_skew_of_the_databases_clock_delays_an_event_by_more_than_the_interval(
    listener: Steered, skew: datetime.timedelta
) -> None:
    strategy = Timed(listener, MINUTE)

    for minute in range(3):
        # What is stamped with the day after tomorrow is followed by what is stamped correctly.
        listener.put_nowait(event(sent_at=EPOCH + (skew if minute == 0 else datetime.timedelta(0))))
        strategy.drain()
        listener.put_nowait(event(sent_at=EPOCH))
        listener.time_s += 60
        assert strategy.clear()


def test_timed_fires_once_per_interval_however_many_events_there_are(listener: Steered) -> None:
    strategy = Timed(listener, MINUTE)
    fired = 0
    for _ in range(600):
        listener.time_s += 1
        listener.put_nowait(event())
        fired += strategy.clear()

    assert fired == 10


def test_the_end_of_an_interval_flushes_a_store_once_and_not_again_with_the_next_event(listener: Steered) -> None:
    strategy = Timed(listener, MINUTE)
    watcher = Watcher()
    strategy.watch(watcher)
    listener.put_nowait(event())
    listener.time_s += 90

    listener.put_nowait(event())

    assert (watcher.due, watcher.flushes) == ([1_060.0, 1_120.0], 0)


# --- all of them


def all_strategies(listener: Steered) -> list[EventStrategy]:
    return [Greedy(listener, predicate=lambda event: False), Windowed(listener, ["truncate"]), Timed(listener, MINUTE)]


@pytest.mark.parametrize("item", [GAP, "no event", None])
def test_a_gap_or_what_can_not_be_judged_fires_every_strategy(listener: Steered, item: object) -> None:
    heard = all_strategies(listener)[1:] if item is not GAP else all_strategies(listener)
    watchers = [Watcher() for _ in heard]
    for strategy, watcher in zip(heard, watchers, strict=True):
        strategy.watch(watcher)

    listener.put_nowait(item)

    assert [strategy.clear() for strategy in heard] == [True] * len(heard)
    assert [watcher.flushes for watcher in watchers] == [1] * len(heard)


def test_no_strategy_and_no_reader_takes_an_event_from_another(listener: Steered) -> None:
    first, second = Greedy(listener), Greedy(listener)
    change = event()

    listener.put_nowait(change)

    assert [first.clear(), listener.get_nowait(), second.clear()] == [True, change, True]
    assert [first.clear(), second.clear()] == [False, False]


def test_a_strategy_is_as_healthy_as_its_listener(listener: Steered) -> None:
    heard = all_strategies(listener)

    for is_healthy in (True, False, True):
        listener.is_healthy = is_healthy
        assert [strategy.connection_healthy() for strategy in heard] == [is_healthy] * 3


def test_without_a_listener_a_strategy_is_unhealthy_until_it_is_bound_and_binds_once(listener: Steered) -> None:
    strategy = Greedy()
    assert not strategy.connection_healthy()
    assert not strategy.clear()

    strategy.bind(listener)

    assert strategy.connection_healthy()
    assert answers(strategy, listener, [event()]) == [True]
    with pytest.raises(ConfigurationError, match="already has a listener"):
        strategy.bind(Steered())


def test_answers_that_nobody_asks_for_are_bounded(listener: Steered) -> None:
    strategy = Greedy(listener)
    for _ in range(FIRED_KEPT + 500):
        listener.put_nowait(event())

    assert sum(strategy.clear() for _ in range(FIRED_KEPT + 500)) == FIRED_KEPT


def test_a_drain_answers_once_for_all_that_came(listener: Steered) -> None:
    strategy = Greedy(listener)
    for _ in range(10):
        listener.put_nowait(event())

    assert [strategy.drain(), strategy.drain(), strategy.clear()] == [True, False, False]


def test_a_store_that_comes_later_is_told_what_is_due(listener: Steered) -> None:
    strategy = Timed(listener, MINUTE)
    listener.put_nowait(event())
    watcher = Watcher()

    strategy.watch(watcher)

    assert watcher.due == [1_060.0]


def test_stores_are_not_kept_by_the_strategy_that_flushes_them(listener: Steered) -> None:
    strategy = Greedy(listener)
    kept, dropped = Watcher(), Watcher()
    strategy.watch(dropped)
    strategy.watch(kept)
    reference = weakref.ref(dropped)

    del dropped
    gc.collect()
    listener.put_nowait(event())

    assert (reference(), kept.flushes) == (None, 1)


# --- listeners that are not ours


class Foreign:
    """The least a listener has to be."""

    def __init__(self, empty: Exception) -> None:
        self.events: collections.deque[models.Event] = collections.deque()
        self._empty = empty

    def connection_healthy(self) -> bool:
        return True

    def get_nowait(self) -> models.Event:
        if not self.events:
            raise self._empty
        return self.events.popleft()


@pytest.fixture(params=[asyncio.QueueEmpty, queue.Empty])
def foreign(request: pytest.FixtureRequest) -> Foreign:
    return Foreign(request.param())


def test_a_foreign_listener_is_read_up_to_each_event_that_fires(foreign: Foreign) -> None:
    strategy = Greedy(foreign, predicate=lambda event: event.operation == "update")
    foreign.events.extend(events("insert", "update", "delete", "update", "insert"))

    assert [(strategy.clear(), len(foreign.events)) for _ in range(4)] == [(True, 3), (True, 1), (False, 0), (False, 0)]


def test_what_a_limit_leaves_unread_in_a_foreign_listener_counts_as_firing(foreign: Foreign) -> None:
    settings = models.DeadlineSetting(max_iter=100, max_time=datetime.timedelta(hours=1))
    strategy = Greedy(foreign, settings, predicate=lambda event: event.operation == "update")
    foreign.events.extend([event("insert")] * 150)

    assert [strategy.clear(), strategy.clear()] == [True, False]


def test_a_foreign_listener_that_takes_too_long_counts_as_firing(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Greedy(foreign, predicate=lambda event: False)
    foreign.events.extend([event()] * 3)
    times = iter([EPOCH, EPOCH, EPOCH, EPOCH, EPOCH + SECOND])
    monkeypatch.setattr(strategies, "utc_now", lambda: next(times))

    assert strategy.clear()
    assert len(foreign.events) == 2


def test_an_event_of_a_foreign_listener_takes_effect_at_the_end_of_its_interval(
    foreign: Foreign, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = Timed(foreign, MINUTE)
    watcher = Watcher()
    strategy.watch(watcher)
    foreign.events.append(event())
    assert not strategy.clear()

    monkeypatch.setattr(strategies, "utc_now", lambda: EPOCH + MINUTE)

    assert strategy.clear()
    assert watcher.flushes == 1


def test_an_error_of_a_foreign_listener_reaches_who_asked() -> None:
    strategy = Greedy(Foreign(LookupError("gone")))

    with pytest.raises(LookupError, match="gone"):
        strategy.clear()
