"""Readings of several processes add up row by row; counters outlive the process, gauges do not."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.io.metrics import METRICS, Histogram, Reading
from pgcachewatch_daemon.workers.sums import nothing, total, without_gauges


def histogram(*values: float) -> Histogram:
    result = Histogram()
    for value in values:
        result.observe(value)
    return result


def test_histograms_add_up_as_if_one_had_seen_everything() -> None:
    both = total([{"barrier_seconds": histogram(0.001, 3.0)}, {"barrier_seconds": histogram(0.02)}])["barrier_seconds"]
    assert both == histogram(0.001, 3.0, 0.02)


def test_the_addends_stay_as_they_are() -> None:
    one = histogram(0.1)
    total([{"barrier_seconds": one}, {"barrier_seconds": one}])
    assert one == histogram(0.1)


def test_labels_that_one_lacks_count_from_the_other() -> None:
    assert total([{"disconnects": {("1000",): 1}}, {"disconnects": {("4103",): 2, ("1000",): 3}}, {}]) == {
        "disconnects": {("1000",): 4, ("4103",): 2}
    }


def test_what_is_the_same_for_all_processes_is_not_added_up() -> None:
    name = "tls_certificate_not_after_seconds"
    assert total([{name: 0}, {name: 1_800_000_000.0}, {name: 1_800_000_000.0}]) == {name: 1_800_000_000.0}


def test_readings_of_different_kinds_are_a_mistake() -> None:
    with pytest.raises(TypeError, match="Histogram"):
        total([{"writes": 1}, {"writes": Histogram()}])


def test_only_gauges_end_with_their_process() -> None:
    kinds = {row.name: row.kind for row in METRICS}
    left = without_gauges(dict.fromkeys(kinds, 1.0))
    assert set(left) == {name for name, kind in kinds.items() if kind != "gauge"}
    assert "clients" not in left
    assert "frames_sent" in left


def test_nothing_is_each_row_and_adds_nothing() -> None:
    readings: dict[str, Reading] = {"writes": 3, "disconnects": {("1000",): 1}, "barrier_seconds": histogram(0.1)}
    both = total([nothing(), readings])
    assert set(both) == {row.name for row in METRICS}
    assert {name: both[name] for name in readings} == readings
