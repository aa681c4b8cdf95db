"""The plan of faults: dense, varied, repeatable, and never two at once in one place."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checker.faults import KINDS, MOST_APART_S, schedule
from tests.checker.inflict import Inflictor
from tests.checker.plan import RunSettings
from tests.checker.stage import Stage

DURATION_S = 600.0


def test_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    plan = schedule(7, duration_s=DURATION_S, readers=4)
    assert plan == schedule(7, duration_s=DURATION_S, readers=4)
    assert plan != schedule(8, duration_s=DURATION_S, readers=4)


@given(st.integers(0, 1_000_000), st.integers(1, 8))
def test_a_fault_begins_at_least_every_two_seconds(seed: int, readers: int) -> None:
    plan = schedule(seed, duration_s=60.0, readers=readers)
    instants = [0.0, *(fault.at_s for fault in plan), 60.0]
    assert max(later - earlier for earlier, later in pairwise(instants)) <= MOST_APART_S


@given(st.integers(0, 1_000_000))
def test_two_faults_never_meet_in_one_component(seed: int) -> None:
    over_s: dict[str, float] = {}
    for fault in schedule(seed, duration_s=120.0, readers=3):
        assert fault.at_s >= over_s.get(fault.component, 0.0), fault
        over_s[fault.component] = fault.at_s + fault.length_s


def test_ten_minutes_hold_hundreds_of_faults_of_every_kind() -> None:
    kinds = Counter(fault.kind for fault in schedule(1, duration_s=DURATION_S, readers=4))
    assert set(kinds) == {kind.name for kind in KINDS}
    assert kinds.total() >= 300
    assert min(kinds.values()) >= 10


@given(st.integers(0, 1_000_000))
def test_twenty_seconds_hold_at_least_eight_kinds(seed: int) -> None:
    assert len({fault.kind for fault in schedule(seed, duration_s=20.0, readers=4)}) >= 8


@pytest.mark.parametrize("readers", [1, 4])
def test_every_fault_is_over_in_time_and_names_a_reader_that_exists(readers: int) -> None:
    for fault in schedule(3, duration_s=DURATION_S, readers=readers):
        assert fault.at_s + fault.length_s <= DURATION_S
        assert fault.reader is None or 0 <= fault.reader < readers


def test_every_kind_can_be_inflicted() -> None:
    assert {kind.name for kind in KINDS} <= Inflictor(Stage(RunSettings(1, 1.0, Path())), seed=1).kinds
