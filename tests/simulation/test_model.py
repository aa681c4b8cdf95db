"""The rules hold together, and none of them can be spared.

The second half is what makes the first half mean something: an explorer that finds nothing when a rule is taken away
would find nothing at all. Each counterexample is bounded in length, because the trace is there to be read.
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.simulation import explorer
from tests.simulation.explorer import Counterexample, Holds, explore
from tests.simulation.model import Guards, World

FULL = World(commits=3, fills=2, losses=2)
NO_HISTORY = World(commits=2, fills=2, losses=2, keeps_history=False)
RESTARTS = World(commits=2, fills=2, losses=0, restarts=1)
OLD_SNAPSHOTS = World(commits=2, fills=2, losses=1, reads_old_snapshots=True)
CLOCK = World(commits=1, fills=1, losses=1, ticks=2)

# What each rule is good for: without it, this world breaks this invariant within this many steps.
NEEDED = [
    ("fill_token", FULL, "I1", 6),
    ("flush_or_resume_on_gap", FULL, "I1", 9),
    ("ready_ack", FULL, "I2", 6),
    ("epoch", RESTARTS, "I2", 9),
    ("snapshot_check", OLD_SNAPSHOTS, "I1", 6),
    ("no_stale_joiner", FULL, "I3", 7),
    ("no_overtaken_entry", FULL, "I3", 10),
    ("no_overtaken_entry", CLOCK, "I3", 16),
    ("lease", CLOCK, "I4", 7),
    ("mark_behind_events", CLOCK, "I4", 12),
]


@pytest.mark.parametrize(
    ("world", "states_at_least"),
    [(FULL, 20_000), (NO_HISTORY, 7_000), (RESTARTS, 4_000), (OLD_SNAPSHOTS, 5_000), (CLOCK, 10_000)],
    ids=["resume", "flush", "relay restarts", "old snapshots", "clock"],
)
def test_with_every_rule_on_no_reachable_state_breaks_an_invariant(world: World, states_at_least: int) -> None:
    result = explore(world, Guards())
    assert isinstance(result, Holds), str(result)
    assert result.states > states_at_least


@pytest.mark.parametrize(("rule", "world", "invariant", "steps_at_most"), NEEDED)
def test_without_the_rule_an_invariant_breaks_within_a_readable_trace(
    rule: str, world: World, invariant: str, steps_at_most: int
) -> None:
    result = explore(world, dataclasses.replace(Guards(), **{rule: False}))
    assert isinstance(result, Counterexample)
    assert result.broken.startswith(invariant)
    assert len(result.trace) <= steps_at_most, str(result)


def test_each_rule_has_its_counterexample() -> None:
    assert {rule for rule, *_ in NEEDED} == {field.name for field in dataclasses.fields(Guards)}


def test_epoch_is_needed_only_where_the_relay_resumes() -> None:
    flushes_always = dataclasses.replace(RESTARTS, keeps_history=False)
    assert isinstance(explore(flushes_always, Guards(epoch=False)), Holds)


def test_snapshot_check_makes_the_fill_token_needless() -> None:
    assert isinstance(explore(OLD_SNAPSHOTS, Guards(fill_token=False)), Holds)


def test_stored_fill_race_reads_as_a_story() -> None:
    result = explore(FULL, Guards(fill_token=False))
    assert str(result).splitlines() == [
        "I1: entry 0 is servable, 1 was applied",
        "  1. start fill",
        "  2. fill 0 reads 0",
        "  3. commit 1",
        "  4. connect",
        "  5. deliver Welcome(resumed=False, epoch=0, seq=0, version=1)",
        "  6. fill 0 ends, stored",
    ]


def test_more_states_than_the_limit_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "STATES_LIMIT", 100)
    with pytest.raises(MemoryError, match="make World"):
        explore(FULL, Guards())
