"""The verdict of a soak finds what it is for: growth, lost events, broken chains and serious lines."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.checker.faults import Happened
from tests.soak.outcome import Outcome
from tests.soak.plan import SoakSettings
from tests.soak.samples import MIB, Sample, Sampler

HOUR_S = 3600.0
REPORTS: dict[str, dict[str, Any]] = {
    "readers-a": {
        "readers": [
            {"mode": "stream", "tape": 0, "heard": {"missing": [], "missing_more": 0, "repeats": 0, "gaps": 1}}
        ],
        "breaks": [],
        "heard": 10,
    },
    "readers-b": {"readers": [], "breaks": [], "heard": 5},
    "caches": {"violations": [], "calls": {"by row": 3}, "jobs": [[1, 5]], "job_gaps": 0},
    "strangers": {"came": {"visitor": 2}},
    "tapes": {"last": [20], "in_doubt": [[[7, 8]]], "jobs": [[1, 5]]},
}


def sample(at_s: float, own_mib: float, *, is_ready: bool = True) -> Sample:
    return Sample(at_s, int(own_mib * MIB), int(own_mib * MIB) + 5, 100, 3, at_s / 10, is_ready)


def an_hour(growth_per_hour: float, *, reports: dict[str, Any] | None = None, log: str = "") -> Outcome:
    sampler = Sampler(1, 1, 1.0, 5.0, Path(), began_s=1_000.0)
    for second in range(int(HOUR_S)):
        # The first ten minutes fill what is filled once.
        filling = 20 * min(second / 600, 1)
        sampler.samples.append(sample(float(second), 40 + filling + growth_per_hour * second / HOUR_S))
    settings = SoakSettings(1, HOUR_S, Path())
    first, last = sampler.samples[0], sampler.samples[-1]
    return Outcome(settings, sampler, [], reports or copy.deepcopy(REPORTS), log, first, last, [])


@pytest.mark.parametrize("growth", [0.0, -5.0, 1.0])
def test_memory_that_fills_up_and_stays_is_flat(growth: float) -> None:
    assert an_hour(growth).broken == []


def test_memory_that_grows_on_is_broken() -> None:
    (sentence,) = an_hour(6.0).broken

    assert sentence.startswith("memory grows by 6.00 MiB/h")


def test_a_taste_says_nothing_about_growth() -> None:
    outcome = an_hour(600.0)

    assert replace(outcome, settings=SoakSettings(1, 60.0, Path())).broken == []


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ({"missing": [[5, 8]]}, "missed 2 events untold: [5, 6]"),
        ({"repeats": 3}, "heard 3 events twice"),
        ({"missing_more": 1}, "missed 0 events untold"),
    ],
)
def test_events_that_nobody_can_explain_are_broken(where: dict[str, Any], what: str) -> None:
    reports = copy.deepcopy(REPORTS)
    reports["readers-a"]["readers"][0]["heard"] |= where

    (sentence,) = an_hour(0.0, reports=reports).broken
    assert what in sentence


def test_a_number_whose_commit_is_in_doubt_is_missed_by_nobody() -> None:
    reports = copy.deepcopy(REPORTS)
    reports["readers-a"]["readers"][0]["heard"]["missing"] = [[7, 8]]

    assert an_hour(0.0, reports=reports).is_clean


def test_broken_chains_and_values_that_went_back_are_broken() -> None:
    reports = copy.deepcopy(REPORTS)
    reports["readers-b"]["breaks"] = ["the chain broke"]
    reports["caches"]["violations"] = ["key 1 was at 5, then at 4"]

    assert an_hour(0.0, reports=reports).broken == ["the chain broke", "key 1 was at 5, then at 4"]


@pytest.mark.parametrize(
    ("line", "is_serious"),
    [
        ("2026-11-25T21:45:18Z level=ERROR connection failed peer=127.0.0.1", True),
        ("Traceback (most recent call last):", True),
        ('{"level": "critical", "event": "x"}', True),
        ("sys:1: RuntimeWarning: coroutine 'x' was never awaited", True),
        ("2026-11-25T21:45:18Z level=WARNING source lost reason=connection_lost", False),
        ('2026-11-25T21:45:18Z level=INFO source up error="none"', False),
    ],
)
def test_serious_lines_of_the_log_are_broken(line: str, is_serious: bool) -> None:
    assert an_hour(0.0, log=f"fine\n{line}\n").is_clean is not is_serious


def test_recovery_is_counted_from_the_end_of_a_fault_of_the_source() -> None:
    outcome = an_hour(0.0)
    for second in range(100, 104):
        outcome.sampler.samples[second] = sample(float(second), 60.0, is_ready=False)
    began_s = outcome.sampler.began_s
    outcome.happened.append(Happened("postgres_killed", None, began_s + 99.0, began_s + 100.5))
    outcome.happened.append(Happened("link_cut", 1, began_s + 200.0, began_s + 200.5))

    assert outcome.recoveries_s() == [pytest.approx(3.5)]


def test_figures_are_one_line_of_json_and_the_picture_has_all_panels() -> None:
    outcome = an_hour(0.0)
    outcome.sampler.scrapes += [(0.0, {"clients": 3.0, "events_received_total": 0.0}), (10.0, {"clients": 5.0})]

    assert json.loads(outcome.json_line())["anonymous_mib"]["last_quarter"] == pytest.approx(60.0, abs=0.1)
    assert outcome.picture().panels[0].title == "memory, MiB"
    assert outcome.picture().shaded_s == 600.0
