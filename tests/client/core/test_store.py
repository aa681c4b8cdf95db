"""The store: which entry may be served, which fill may be joined, and what becomes of both when something changes.

The state machine is the proof obligation: it drives a store with every kind of step and checks G1, G4, G8 and G10 by
what each fill saw of a database that it keeps beside it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pgcachewatch.core.store import STEPS_PER_EVICTION, Fill, Store
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Scope


def make(maxsize: int = 1_000, *scopes: Scope) -> Store[object, None]:
    return Store(Trust(FOREVER), scopes=scopes or (Scope(),), maxsize=maxsize)


def fill(store: Store[object, None], key: object, value: object = "value", *, now: float = 0.0) -> bool:
    return store.finish(store.begin(key, now=now, run=None), value)


def served(store: Store[object, None], key: object) -> object:
    entry = store.lookup(key)
    return None if entry is None else entry.value


# --- the fill rule


def test_a_result_is_served_after_its_fill() -> None:
    store = make()

    assert fill(store, "key")
    assert served(store, "key") == "value"


def test_a_result_whose_fill_saw_an_invalidation_is_not_stored() -> None:
    store = make()
    running = store.begin("key", now=0, run=None)

    store.flush()

    assert not store.finish(running, "old")
    assert served(store, "key") is None
    assert store.info().discards == 1


def test_a_result_whose_fill_saw_a_gap_is_not_stored() -> None:
    trust = Trust(FOREVER)
    store: Store[object, None] = Store(trust)
    running = store.begin("key", now=0, run=None)

    trust.gap()

    assert not store.finish(running, "old")


def test_a_gap_takes_every_entry_from_service() -> None:
    trust = Trust(FOREVER)
    store: Store[object, None] = Store(trust)
    fill(store, "key")

    trust.gap()

    assert served(store, "key") is None


def test_a_fill_may_be_joined_until_something_is_invalidated() -> None:
    store = make()
    running = store.begin("key", now=0, run=None)
    assert store.current("key") is running

    store.flush()

    assert store.current("key") is None


def test_an_old_fill_that_ends_touches_no_newer_one() -> None:
    store = make()
    old = store.begin("key", now=0, run=None)
    store.flush()
    new = store.begin("key", now=0, run=None)

    store.abandon(old)
    assert store.current("key") is new
    store.finish(old, "old")
    assert store.current("key") is new
    store.finish(new, "new")
    store.abandon(old)

    assert served(store, "key") == "new"


def test_a_result_that_must_not_be_stored_is_joined_and_forgotten() -> None:
    store = make()
    running = store.begin("key", now=0, run=None, is_storable=False)
    assert store.current("key") is running

    assert not store.finish(running, "value")

    assert served(store, "key") is None
    assert store.info().discards == 0


def test_a_forgotten_key_takes_its_running_fill_along() -> None:
    store = make()
    fill(store, "key")
    running = store.begin("key", now=0, run=None)

    assert store.forget("key")
    assert not store.finish(running, "old")
    assert not store.forget("key")
    assert served(store, "key") is None


# --- scopes


@pytest.mark.parametrize(
    ("changed", "is_met"),
    [
        (Scope("c", "users"), True),
        (Scope("c", "users", key="5"), True),
        (Scope("c", "users", schema="public"), True),
        (Scope("c"), True),
        (Scope(), True),
        (Scope("c", "orders"), True),
        (Scope("c", "items"), False),
        (Scope("other", "users"), False),
        (Scope("c", "orders", schema="s2"), False),
    ],
)
def test_a_change_flushes_the_stores_that_depend_on_it(changed: Scope, is_met: bool) -> None:
    store = make(10, Scope("c", "users"), Scope("c", "orders", schema="public"))
    fill(store, "key")

    assert store.invalidate(changed) is is_met
    assert (served(store, "key") is None) is is_met


# --- horizons


def test_a_flush_that_falls_due_is_made_good_by_whoever_comes_next() -> None:
    store = make()
    fill(store, "key")
    store.flush_at(10.0)
    store.flush_at(20.0)
    assert store.horizon == 10.0

    store.expire(9.9)
    assert served(store, "key") == "value"
    store.expire(10.0)

    assert served(store, "key") is None
    assert store.horizon == FOREVER


def test_a_fill_that_was_running_when_a_flush_fell_due_is_not_joined_later() -> None:
    store = make()
    running = store.begin("key", now=0, run=None)
    store.flush_at(10.0)

    store.expire(11.0)

    assert store.current("key") is None
    assert not store.finish(running, "old")


# --- bounds


def test_a_store_without_room_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="maxsize"):
        make(0)


@pytest.mark.parametrize("count", [3, 4, 100])
def test_entries_are_bounded(count: int) -> None:
    store = make(3)
    for number in range(count):
        fill(store, number)

    assert len(store.entries) == min(count, 3)
    assert store.info().currsize == min(count, 3)
    assert store.info().evictions == max(0, count - 3)
    assert served(store, count - 1) == "value"


def test_what_is_hit_outlives_what_is_not() -> None:
    store = make(10)
    fill(store, "hot")
    for number in range(200):
        entry = store.lookup("hot")
        assert entry is not None
        entry.hits += 1
        fill(store, number)

    assert store.info().hits == 200


def test_dead_entries_go_before_live_ones() -> None:
    store = make(4)
    for number in range(4):
        fill(store, number)
    store.flush()
    fill(store, "live")
    fill(store, "too")

    assert served(store, "live") == served(store, "too") == "value"


def test_the_hand_spares_a_bounded_number_of_entries() -> None:
    store = make(STEPS_PER_EVICTION * 2)
    for number in range(STEPS_PER_EVICTION * 2):
        fill(store, number)
        entry = store.lookup(number)
        assert entry is not None
        entry.hits += 1

    fill(store, "new")

    assert len(store.entries) == STEPS_PER_EVICTION * 2
    assert sum(entry.seen for entry in store.entries.values()) == STEPS_PER_EVICTION


def test_dead_values_go_as_new_ones_come_although_there_is_room() -> None:
    store = make(1_000)
    for number in range(100):
        fill(store, number)
    store.flush()
    for number in range(60):
        fill(store, number % 3)

    assert len(store.entries) == 3


def test_counts_of_hits_survive_eviction() -> None:
    store = make(1)
    for number in range(5):
        fill(store, number)
        entry = store.lookup(number)
        assert entry is not None
        entry.hits += 2

    assert store.info().hits == 10


def test_a_flush_waits_for_the_lock_that_fills_hold() -> None:
    store: Store[object, None] = Store(Trust(FOREVER), lock=threading.RLock())
    flushed = threading.Event()

    def flush() -> None:
        store.flush()
        flushed.set()

    with store.lock:
        thread = threading.Thread(target=flush)
        thread.start()
        assert store.generation == 0
        store.flush()  # reentrant: what runs while an entry dies may flush
    thread.join()

    assert flushed.is_set()
    assert store.info().flushes == 2


# --- the proof obligations, by a state machine


@dataclass(eq=False)
class Caller:
    """Somebody who waits. `due` is the version that was applied when the call started."""

    due: int
    answer: int | None = None


@dataclass(eq=False)
class Running:
    """One fill: what it saw of the database, and who waits for it."""

    fill: Fill[Running | None]
    key: str
    saw: int
    callers: list[Caller] = field(default_factory=list)


keys = st.sampled_from(["a", "b", "c"])


class StoreMachine(RuleBasedStateMachine):
    """A database of one version, a link that delivers its changes, and one store."""

    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.trust = Trust(0.0)
        self.store: Store[int, Running | None] = Store(self.trust, scopes=[Scope("c", "t")], maxsize=2)
        self.now = 0.0
        self.version = 0  # committed
        self.applied = 0  # delivered, or made up for by a gap
        self.fills: list[Running] = []

    @property
    def is_fresh(self) -> bool:
        return self.now < self.trust.deadline

    # --- the database and the link

    @rule()
    def commit(self) -> None:
        self.version += 1

    @rule()
    def deliver(self) -> None:
        assert self.store.invalidate(Scope("c", "t", key="5"))
        self.applied = self.version

    @rule()
    def deliver_what_concerns_others(self) -> None:
        assert not self.store.invalidate(Scope("c", "other"))

    @rule()
    def lose_the_link(self) -> None:
        self.trust.renew(0.0)

    @rule()
    def gap(self) -> None:
        self.trust.gap()
        self.applied = self.version

    @rule()
    def renew(self) -> None:
        # A proof comes behind the events it speaks of.
        if self.applied < self.version:
            self.deliver()
        self.trust.renew(self.now + 3)

    @rule()
    def time_passes(self) -> None:
        self.now += 1

    @rule()
    def throttle(self) -> None:
        self.store.flush_at(self.now + 2)

    # --- the callers

    @rule(target=running, key=keys)
    def call(self, key: str) -> object:
        self.store.expire(self.now)
        caller = Caller(due=self.applied)
        if self.is_fresh:
            entry = self.store.lookup(key)
            if entry is not None:
                entry.hits += 1
                self.answer(caller, entry.value)
                return multiple()
        fill = self.store.current(key)
        if fill is not None and fill.run is not None:
            fill.run.callers.append(caller)
            return multiple()
        fill = self.store.begin(key, now=self.now, run=None, is_storable=self.is_fresh)
        started = Running(fill, key, self.version, [caller])
        fill.run = started
        self.fills.append(started)
        return started

    @rule(one=consumes(running))
    def finish(self, one: Running) -> None:
        self.fills.remove(one)
        is_stored = self.store.finish(one.fill, one.saw)
        assert not (is_stored and one.saw < self.applied), "stored what is known to be old"
        for caller in one.callers:
            self.answer(caller, one.saw)

    @rule(one=consumes(running))
    def fail(self, one: Running) -> None:
        self.fills.remove(one)
        self.store.abandon(one.fill)

    @rule(one=running)
    def leave(self, one: Running) -> None:
        """A caller is cancelled. The fill goes on for the others, and ends when nobody is left."""
        if one in self.fills and one.callers:
            one.callers.pop()
            if not one.callers:
                self.fills.remove(one)
                self.store.abandon(one.fill)

    @rule(key=keys)
    def forget(self, key: str) -> None:
        self.store.forget(key)
        assert self.store.lookup(key) is None
        assert self.store.current(key) is None

    # --- the guarantees

    def answer(self, caller: Caller, value: int) -> None:
        assert value >= caller.due, "G4: a call got what was read before a change that was applied before the call"
        caller.answer = value

    @invariant()
    def what_is_servable_contains_all_that_was_applied(self) -> None:
        for key in ("a", "b", "c"):
            entry = self.store.lookup(key)
            assert entry is None or entry.value >= self.applied, "G1"

    @invariant()
    def one_current_fill_per_key(self) -> None:
        for key in ("a", "b", "c"):
            current = [one for one in self.fills if one.key == key and self.store.current(key) is one.fill]
            assert len(current) <= 1, "G10"

    @invariant()
    def everybody_waits_for_a_fill_that_runs(self) -> None:
        for one in self.fills:
            assert one.callers, "G8: a fill without callers"

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.store.entries) <= 2, "G9"
        assert len(self.store._order) == len(self.store.entries)


StoreMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStoreMachine = StoreMachine.TestCase
