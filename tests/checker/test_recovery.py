"""Time to LIVE is read off the readers' own logs; these are such logs."""

from __future__ import annotations

from pathlib import Path

from tests.checker.faults import Happened
from tests.checker.recovery import StateChange, median_and_longest, recovery, states_of

CUT = Happened("link_cut", 0, started_s=10.0, healed_s=10.0)


def log(*changes: tuple[float, str]) -> list[StateChange]:
    return [StateChange(0.0, "live"), *(StateChange(at_s, state) for at_s, state in changes)]


def test_time_runs_from_the_end_of_the_fault_to_live() -> None:
    result = recovery([CUT], {0: log((10.01, "suspect"), (10.25, "live"))})
    assert result.by_kind == {"link_cut": [0.25]}


def test_fault_that_nobody_left_live_for_is_unnoticed() -> None:
    result = recovery([CUT], {0: log()})
    assert (result.by_kind, result.unnoticed) == ({}, 1)


def test_doubt_much_later_has_another_cause() -> None:
    assert recovery([CUT], {0: log((14.0, "suspect"), (14.1, "live"))}).unnoticed == 1


def test_slowest_reader_counts_and_other_links_do_not() -> None:
    relay = Happened("relay_stopped", None, started_s=10.0, healed_s=12.0)
    states = {0: log((11.0, "suspect"), (12.5, "live")), 1: log((11.0, "suspect"), (13.0, "live"))}
    assert recovery([relay], states).by_kind == {"relay_stopped": [1.0]}
    link = recovery([CUT], states | {0: log((10.25, "suspect"), (10.5, "live"))})
    assert link.by_kind == {"link_cut": [0.5]}


def test_live_again_before_the_fault_was_over_takes_no_time() -> None:
    stall = Happened("link_stalled", 0, started_s=10.0, healed_s=12.0)
    assert recovery([stall], {0: log((11.0, "suspect"), (11.5, "live"))}).by_kind == {"link_stalled": [0.0]}


def test_next_fault_of_the_same_reader_interrupts() -> None:
    again = Happened("link_cut", 0, started_s=10.1, healed_s=10.1)
    elsewhere = Happened("link_cut", 1, started_s=10.1, healed_s=10.1)
    states = {0: log((10.05, "suspect"), (10.2, "live")), 1: log()}
    assert recovery([CUT, again], states).interrupted == 2
    assert recovery([CUT, elsewhere], states).interrupted == 0


def test_other_readers_tell_the_time_when_one_was_interrupted() -> None:
    relay = Happened("relay_killed", None, started_s=10.0, healed_s=10.0)
    cut = Happened("link_cut", 1, started_s=10.2, healed_s=10.2)
    states = {0: log((10.01, "suspect"), (10.5, "live")), 1: log((10.01, "suspect"), (10.75, "live"))}
    assert recovery([relay, cut], states).by_kind["relay_killed"] == [0.5]


def test_load_interrupts_nothing() -> None:
    burst = Happened("burst", None, started_s=10.1, healed_s=10.2)
    assert recovery([CUT, burst], {0: log((10.05, "suspect"), (10.25, "live"))}).by_kind["link_cut"] == [0.25]


def test_reader_that_never_came_back_is_not_a_time() -> None:
    assert recovery([CUT], {0: log((10.05, "suspect"))}).interrupted == 1


def test_log_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "states"
    path.write_text("1.5 cold\n2.25 live\n3.1 sus")
    assert states_of(path) == [StateChange(1.5, "cold"), StateChange(2.25, "live")]


def test_no_times_are_told_as_zero() -> None:
    assert median_and_longest([]) == (0.0, 0.0)
    assert median_and_longest([3.0, 1.0, 2.0]) == (2.0, 3.0)
