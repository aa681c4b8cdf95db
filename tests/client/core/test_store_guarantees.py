"""The store's rules add up to the guarantees: G1, G4, G5, G8, G9 and G10, shown by a state machine.

Beside a store it keeps a database of one version, which each run of the function reads at an instant of its own between
its start and its end. Calls are made as the shells make them. What a call must at least return is known when it starts:
the version that had been applied (G4), and the newest that any call of the key had returned (G5).
"""

from __future__ import annotations

import collections
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pgcachewatch.core.store import Fill, Store
from pgcachewatch.core.trust import Trust
from pgcachewatch.models import Scope

KEYS = ("a", "b")
MAXSIZE = 1
LEASE_S = 10.0

keys = st.sampled_from(["a", "a", "a", "b"])
numbers = st.integers(min_value=0, max_value=9)


@dataclass(eq=False)
class Caller:
    """Somebody who waits. He may get `applied` and `returned` or newer, as both were when he called."""

    key: str
    applied: int
    returned: int


@dataclass(eq=False)
class Run:
    """One run of the function, and who waits for it. Without a fill it is one that passes the cache by.

    `saw` is the version it read when it started; None when it reads just before it ends.
    """

    key: str
    saw: int | None
    fill: Fill[Run | None] | None
    callers: list[Caller]
    awaiting: list[Caller] = field(default_factory=list)  # for its end, not for its value


class StoreMachine(RuleBasedStateMachine):
    """A database of one version, a link that delivers its changes, one store and its callers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.trust = Trust(LEASE_S)
        self.store: Store[int, Run | None] = Store(self.trust, scopes=[Scope("c", "t")], maxsize=MAXSIZE)
        self.version = 0  # committed
        self.applied = 0  # delivered, or made up for by a gap
        self.returned: collections.Counter[str] = collections.Counter()  # the newest version, by key
        self.runs: list[Run] = []
        self.open_calls = 0

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

    @rule(what=st.sampled_from(["others", "gap", "proof", "silence", "throttle", "time", "forget"]), key=keys)
    def disturb(self, what: str, key: str) -> None:
        """What is rarer than calls and changes: one rule, so that it stays rarer."""
        match what:
            case "others":
                assert not self.store.invalidate(Scope("c", "other"))
            case "gap":
                self.trust.gap()
                self.applied = self.version
            case "proof":
                if self.applied < self.version:
                    self.deliver()  # a proof comes behind the events it speaks of
                self.trust.renew(self.now + LEASE_S)
            case "silence":
                self.trust.renew(self.now)
            case "throttle":
                self.store.flush_at(self.now + 2)
            case "time":
                self.now += 1
            case "forget":
                self.store.forget(key)
                assert self.store.lookup(key) is None
                assert self.store.current(key) is None

    # --- the callers

    @rule(key=keys, reads_at_once=st.booleans())
    def call(self, key: str, reads_at_once: bool) -> None:
        self.open_calls += 1
        self._call(Caller(key, self.applied, self.returned[key]), reads_at_once=reads_at_once)

    @rule(key=keys, reads_at_once=st.booleans())
    def call_past_the_cache(self, key: str, reads_at_once: bool) -> None:
        self.open_calls += 1
        self._run(None, Caller(key, self.applied, self.returned[key]), reads_at_once=reads_at_once)

    @precondition(lambda self: self.runs)
    @rule(number=numbers)
    def finish(self, number: int) -> None:
        one = self._ended(number)
        value = self.version if one.saw is None else one.saw
        if one.fill is None:
            self.store.overtake(one.key)
        else:
            is_stored = self.store.finish(one.fill, value)
            assert not (is_stored and value < self.applied), "G1: stored what is known to be old"
        for caller in one.callers:
            self._answer(caller, value)
        self._call_again(one)

    @precondition(lambda self: self.runs)
    @rule(number=numbers, is_whole=st.booleans())
    def break_off(self, number: int, is_whole: bool) -> None:
        """The function raises, or a caller is cancelled: the last one takes the run along."""
        one = self.runs[number % len(self.runs)]
        if len(one.callers) > 1 and not is_whole:
            one.callers.pop()
            self.open_calls -= 1
            return
        self._ended(number)
        self.open_calls -= len(one.callers)
        if one.fill is not None:
            self.store.abandon(one.fill)
        self._call_again(one)

    # --- as the shells do it

    def _call(self, caller: Caller, *, reads_at_once: bool) -> None:
        self.store.expire(self.now)
        entry = self.store.lookup(caller.key)
        if self.is_fresh and entry is not None:
            entry.hits += 1
            self._answer(caller, entry.value)
            return
        fill = self.store.current(caller.key)
        if fill is not None and fill.run is not None:
            (fill.run.awaiting if fill.is_closed else fill.run.callers).append(caller)
            return
        fill = self.store.begin(caller.key, now=self.now, run=None, is_storable=self.is_fresh)
        self._run(fill, caller, reads_at_once=reads_at_once)

    def _run(self, fill: Fill[Run | None] | None, caller: Caller, *, reads_at_once: bool) -> None:
        run = Run(caller.key, self.version if reads_at_once else None, fill, [caller])
        self.runs.append(run)
        if fill is not None:
            fill.run = run

    def _ended(self, number: int) -> Run:
        return self.runs.pop(number % len(self.runs))

    def _call_again(self, one: Run) -> None:
        for caller in one.awaiting:
            self._call(caller, reads_at_once=True)

    # --- the guarantees

    def _answer(self, caller: Caller, value: int) -> None:
        assert value >= caller.applied, "G4: what was read before a change that was applied before the call"
        assert value >= caller.returned, "G5: older than what a call returned that ended before this one began"
        self.returned[caller.key] = max(self.returned[caller.key], value)
        self.open_calls -= 1

    @invariant()
    def what_is_servable_contains_all_that_was_applied_and_returned(self) -> None:
        for key in KEYS:
            entry = self.store.lookup(key)
            assert entry is None or entry.value >= self.applied, "G1"
            assert entry is None or entry.value >= self.returned[key], "G5"

    @invariant()
    def what_may_be_joined_runs(self) -> None:
        running = [one.fill for one in self.runs]
        for key in KEYS:
            current = self.store.current(key)
            assert current is None or current in running, "G8"

    @invariant()
    def one_fill_per_key_and_generation_may_be_joined_by_a_later_call(self) -> None:
        for key in KEYS:
            fills = [one.fill for one in self.runs if one.fill is not None and one.key == key]
            tokens = [(one.gap, one.generation) for one in fills if self.store.current(key) is one]
            assert len(tokens) == len(set(tokens)) <= 1, "G10"

    @invariant()
    def every_caller_waits_for_a_run_that_goes_on(self) -> None:
        assert sum(len(one.callers) + len(one.awaiting) for one in self.runs) == self.open_calls, "G8"

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.store.entries) <= MAXSIZE, "G9"
        assert len(self.store._order) == len(self.store.entries)

    def teardown(self) -> None:
        """When nobody calls any more, every call ends: with each run that ends, one at least of those that wait."""
        while self.runs:
            before = self.open_calls
            self.finish(0)
            assert self.open_calls < before, "G8: a run ended, and nobody got anything"
        assert self.open_calls == 0


StoreMachine.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestStoreMachine = StoreMachine.TestCase
