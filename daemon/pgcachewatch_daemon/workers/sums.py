"""Readings of several processes as those of one relay.

A counter must never go back, or Prometheus takes it for a restart and counts everything twice: so what a worker had
counted when it was heard last stays in the sum after its end. What it counted between that and a kill is not known.
Its gauges end with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgcachewatch_daemon.io.metrics import METRICS, Histogram, Reading

# What is the same for all processes of a relay, and not to be added up.
LARGEST = frozenset({"tls_certificate_not_after_seconds"})
GAUGES = frozenset(row.name for row in METRICS if row.kind == "gauge")


def total(all_readings: Iterable[Mapping[str, Reading]]) -> dict[str, Reading]:
    """The sum, row by row. A row that some lack is the sum over the others.

    >>> total([{"writes": 1, "resumes": {("epoch",): 2}}, {"writes": 3, "resumes": {("resumed",): 1}}])
    {'writes': 4, 'resumes': {('epoch',): 2, ('resumed',): 1}}
    """
    result: dict[str, Reading] = {}
    for readings in all_readings:
        for name, reading in readings.items():
            if name not in result:
                result[name] = reading
            elif name in LARGEST:
                result[name] = _largest(result[name], reading)
            else:
                result[name] = _plus(result[name], reading)
    return result


def nothing() -> dict[str, Reading]:
    """Each row of the table before anybody has counted: a scrape shows them also when no worker answers."""
    return {row.name: Histogram() if row.kind == "histogram" else {} if row.labels else 0 for row in METRICS}


def without_gauges(readings: Mapping[str, Reading]) -> dict[str, Reading]:
    """What stays of a process that does not answer, or has ended."""
    return {name: reading for name, reading in readings.items() if name not in GAUGES}


def _largest(one: Reading, other: Reading) -> Reading:
    assert isinstance(one, int | float), "a plain number"
    assert isinstance(other, int | float), "a plain number"
    return max(one, other)


def _plus(one: Reading, other: Reading) -> Reading:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        counts = [first + second for first, second in zip(one.counts, other.counts, strict=True)]
        return Histogram.of(one.bounds, counts, one.total + other.total)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return {labels: one.get(labels, 0) + other.get(labels, 0) for labels in dict.fromkeys([*one, *other])}
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    raise TypeError(f"readings of one row are of one kind, not {type(one).__name__} and {type(other).__name__}")
