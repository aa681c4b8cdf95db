"""The store: which entry may be served, which fill may be joined, and what becomes of both when something changes.

That these rules add up to the guarantees is shown in test_store_guarantees.py.
"""

from __future__ import annotations

import threading

import pytest

from pgcachewatch.core.store import DEAD, STEPS_PER_EVICTION, Entry, Store
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


def test_a_gap_that_falls_while_a_result_is_being_stored_takes_it_along() -> None:
    class Breaking(Trust):
        """A gap falls, found by another thread, behind the second look at the generation."""

        looks = 0

        def __getattribute__(self, name: str) -> object:
            if name == "generation":
                self.looks += 1
                return int(self.looks > 2)
            return super().__getattribute__(name)

    store: Store[object, None] = Store(Breaking(FOREVER))

    assert fill(store, "key")
    assert served(store, "key") is None


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


def test_an_old_fill_that_fails_touches_no_newer_one() -> None:
    store = make()
    old = store.begin("key", now=0, run=None)
    store.flush()
    new = store.begin("key", now=0, run=None)

    store.abandon(old)

    assert store.current("key") is new
    assert not new.is_closed
    assert store.finish(new, "new")


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


def test_a_key_is_forgotten_together_with_what_it_has_running() -> None:
    store = make()
    store.begin("key", now=0, run=None)

    assert not store.forget("key")
    assert store.current("key") is None


def test_a_forgotten_key_takes_no_other_along() -> None:
    store = make()
    fill(store, "other")

    store.forget("key")

    assert served(store, "other") == "value"


# --- what may be newer than the entry beside it


def test_an_old_fill_that_returns_late_takes_the_newer_entry_along() -> None:
    store = make()
    old = store.begin("key", now=0, run=None)
    store.flush()
    fill(store, "key", "read before the old fill's")

    assert not store.finish(old, "read last")

    assert served(store, "key") is None


def test_a_fill_that_another_run_overtook_is_current_and_not_stored() -> None:
    store = make()
    old = store.begin("key", now=0, run=None)
    store.flush()
    new = store.begin("key", now=0, run=None)

    store.finish(old, "read last")

    assert store.current("key") is new
    assert new.is_closed
    assert not store.finish(new, "read before")
    assert served(store, "key") is None


def test_a_fill_that_begins_after_the_overtaking_is_stored() -> None:
    store = make()
    fill(store, "key", "old")
    store.overtake("key")

    assert served(store, "key") is None
    assert fill(store, "key", "new")
    assert served(store, "key") == "new"


def test_a_run_that_overtakes_concerns_its_own_key_only() -> None:
    store = make()
    fill(store, "other")
    running = store.begin("another", now=0, run=None)

    store.overtake("key")

    assert served(store, "other") == "value"
    assert store.finish(running, "value")


def test_a_result_that_was_not_to_be_stored_overtakes_all_the_same() -> None:
    store = make()
    shared = store.begin("key", now=0, run=None, is_storable=False)
    newer = store.begin("key", now=0, run=None)

    store.finish(shared, "value")

    assert newer.is_closed


def test_a_failure_overtakes_nothing() -> None:
    store = make()
    fill(store, "key")

    store.abandon(store.begin("key", now=0, run=None))

    assert served(store, "key") == "value"


def test_a_key_that_is_forgotten_while_it_runs_is_not_stored_late() -> None:
    store = make()
    forgotten = store.begin("key", now=0, run=None)
    store.forget("key")
    fill(store, "key", "new")

    store.finish(forgotten, "of unknown age")

    assert served(store, "key") is None


# --- entries are read without a lock


def test_while_an_entry_is_replaced_it_is_dead() -> None:
    seen: list[int] = []

    class Watched(Entry[str]):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            if name in ("value", "gap"):
                seen.append(getattr(self, "generation", DEAD))
            super().__setattr__(name, value)

    entry = Watched("key")
    entry.put("old", gap=0, generation=0)
    seen.clear()

    entry.put("new", gap=1, generation=1)

    assert seen == [DEAD, DEAD]
    assert (entry.value, entry.gap, entry.generation) == ("new", 1, 1)


def test_an_entry_whose_key_is_no_tuple_knows_the_type_it_was_filled_for() -> None:
    assert Entry(1).kind is int
    assert Entry((1, 2)).kind is not tuple


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


def test_an_invalidation_makes_a_flush_that_was_due_later_superfluous() -> None:
    store = make()
    store.flush_at(10.0)

    store.flush()
    fill(store, "key")
    store.expire(11.0)

    assert served(store, "key") == "value"


def test_a_generation_that_was_left_never_comes_back() -> None:
    store = make()
    seen = {store.generation}
    for _ in range(100):
        store.flush()
        seen.add(store.generation)

    assert len(seen) == 101
    assert DEAD not in seen


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


def test_the_oldest_that_was_not_hit_makes_room() -> None:
    store = make(4)
    for key in ("a", "b", "c", "d"):
        fill(store, key)
    for key in ("a", "c", "d"):
        store.entries[key].hits += 1

    fill(store, "e")

    assert set(store.entries) == {"a", "c", "d", "e"}


def test_a_dead_entry_makes_room_although_it_was_hit() -> None:
    store = make(2)
    fill(store, "dead")
    store.entries["dead"].hits += 1
    fill(store, "live")
    store.forget("dead")

    fill(store, "new")

    assert set(store.entries) == {"live", "new"}


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
