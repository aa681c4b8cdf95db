"""The table of metrics, its document, and what a scrape shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import pgcachewatch_daemon
from pgcachewatch_daemon.io.metrics import (
    BASE_UNITS,
    METRICS,
    RENDERS_PER_S,
    Exposition,
    Histogram,
    Reading,
    Row,
    render_table,
)
from tests.promtool import needs_promtool, promtool

DOCUMENT = Path(pgcachewatch_daemon.__file__).parent / "METRICS.md"


def readings() -> dict[str, Reading]:
    """Something for each row."""
    return {row.name: _reading(row) for row in METRICS}


def _reading(row: Row) -> Reading:
    if row.kind == "histogram":
        return Histogram()
    return {tuple("x" for _ in row.labels): 3.0} if row.labels else 2.0


def test_the_document_is_what_the_table_says() -> None:
    assert DOCUMENT.read_text() == render_table(), "run python -m pgcachewatch_daemon.io.metrics > .../METRICS.md"


def test_names_are_unique_and_follow_the_conventions_of_prometheus() -> None:
    names = [row.full_name for row in METRICS]
    assert len(set(names)) == len(names)
    for row in METRICS:
        assert re.fullmatch(r"pgcachewatch_[a-z]+(_[a-z]+)*", row.full_name), row
        assert not row.name.endswith("_total"), "the collector adds it"
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)$", row.name), "base units only"
        assert row.meaning[-1] != "."


def test_units_are_base_units_and_a_name_that_ends_in_one_has_it() -> None:
    for row in METRICS:
        suffix = row.name.rpartition("_")[2]
        if suffix in BASE_UNITS:
            assert row.unit == suffix, row
        assert row.unit not in {"ms", "milliseconds", "minutes", "kilobytes", "percent", ""}, row
        assert row.kind != "histogram" or row.unit in BASE_UNITS, row
        assert f"| `{row.full_name}` | {row.kind} | {row.unit} |" in render_table()


def test_a_scrape_shows_each_row_and_the_process() -> None:
    text = Exposition(readings).render().decode()
    for row in METRICS:
        assert f"# HELP {row.full_name} {row.meaning}" in text
        assert f"# TYPE {row.full_name} {row.kind}" in text
    assert 'pgcachewatch_disconnects_total{code="x"} 3.0' in text
    assert "process_resident_memory_bytes" in text
    assert "python_info" in text


def test_a_reading_that_is_missing_fails_the_scrape_instead_of_showing_nothing() -> None:
    def incomplete() -> Mapping[str, Reading]:
        return {name: value for name, value in readings().items() if name != "clients"} if calls.pop() else readings()

    calls = [True]
    exposition = Exposition(incomplete)
    with pytest.raises(KeyError, match="clients"):
        exposition.render()


def test_a_histogram_counts_cumulatively_and_its_bounds_belong_to_the_lower_bucket() -> None:
    histogram = Histogram(bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    assert histogram.buckets() == [("0.1", 2.0), ("1", 3.0), ("+Inf", 4.0)]
    assert histogram.total == pytest.approx(7.65)


def samples(families: Iterable[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Bounds as numbers, as the two formats spell them in different ways. Without what changes by itself."""
    return {
        (each.name, tuple((name, str(float(text)) if name == "le" else text) for name, text in each.labels.items())): (
            each.value
        )
        for family in families
        for each in family.samples
        if not family.name.startswith("process_")
    }


def test_openmetrics_says_the_same_with_its_units() -> None:
    exposition = Exposition(readings)
    text, openmetrics = (exposition.render(is_openmetrics=each).decode() for each in (False, True))

    read = text_string_to_metric_families(openmetrics)  # type: ignore[no-untyped-call]  # the library has no types there
    families = {family.name: family for family in read}

    assert openmetrics.endswith("\n# EOF\n")
    assert samples(families.values()) == samples(parser.text_string_to_metric_families(text))
    for row in METRICS:
        family = families[f"pgcachewatch_{row.name}"]
        assert (family.type, family.documentation) == (row.kind, row.meaning)
        assert family.unit == (row.unit if row.name.rpartition("_")[2] in BASE_UNITS else "")
    assert 'pgcachewatch_barrier_seconds_bucket{le="1.0"}' in openmetrics
    assert 'pgcachewatch_barrier_seconds_bucket{le="1"}' in text, "as ever"
    assert "_created" not in openmetrics


@needs_promtool
def test_prometheus_finds_no_fault_with_it() -> None:
    assert promtool("check", "metrics", given=Exposition(readings).render()) == ""


def test_a_flood_of_scrapes_is_shown_one_text_and_a_moment_later_the_next() -> None:
    now_s, reads = 0.0, 0

    def read() -> dict[str, Reading]:
        nonlocal reads
        reads += 1
        return readings()

    exposition = Exposition(read, clock=lambda: now_s)
    texts = [exposition.render() for _ in range(100)]
    assert reads == RENDERS_PER_S
    assert texts[-1] == texts[50]
    now_s = 1 / RENDERS_PER_S
    exposition.render()
    assert reads == RENDERS_PER_S + 1
