"""PromQL beside the tables of metrics: each name an expression uses exists, and each label belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgcachewatch.contrib import prometheus as client
from pgcachewatch_daemon.io import metrics as relay

# What Prometheus adds to each series, and the series it has itself.
ADDED = {"job", "instance"}
OTHERS = {
    "up": set[str](),
    "process_cpu_seconds_total": set[str](),
    "process_max_fds": set[str](),
    "process_open_fds": set[str](),
    "process_resident_memory_bytes": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity"},
}
WORDS = {"and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "bool", "offset"}

TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
RANGE = re.compile(r"\[[^\]]*\]")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
SERIES = re.compile(r"(?<![\w$])([a-zA-Z_]\w*)\s*(\(|\{[^}]*\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")


def table() -> dict[str, set[str]]:
    """The labels of each series there can be."""
    found: dict[str, set[str]] = {name: set(labels) for name, labels in OTHERS.items()}
    for row in relay.METRICS:
        if row.kind == "histogram":
            found |= {f"{row.full_name}_{part}": set(row.labels) for part in ("sum", "count")}
            found[f"{row.full_name}_bucket"] = {*row.labels, "le"}
        else:
            found[row.full_name] = set(row.labels)
    found |= {row.full_name: {"client", *row.labels} for row in client.METRICS}
    return found


def faults(expression: str) -> list[str]:
    """What an expression uses that is not in the tables.

    >>> faults('sum by (le, color) (rate(pgcachewatch_loopback_seconds_bucket{job="x"}[5m]))')
    ["no series has the label 'color'"]
    >>> faults('pgcachewatch_clients{mode="v1"} / pgcachewatch_clinets')
    ["pgcachewatch_clients has no label 'mode'", "there is no 'pgcachewatch_clinets'"]
    """
    return list(_faults(expression))


def _faults(expression: str) -> Iterator[str]:
    known = table()
    plain = RANGE.sub("", TEXT.sub('""', expression))
    used: set[str] = set(ADDED)
    for match in SERIES.finditer(GROUPING.sub("", plain)):
        name, behind = match[1], match[2] or ""
        if behind == "(" or name in WORDS:
            continue
        if name not in known:
            yield f"there is no {name!r}"
            continue
        used |= known[name]
        for label in LABEL.findall(behind):
            if label not in known[name] | ADDED:
                yield f"{name} has no label {label!r}"
    for labels in GROUPING.findall(plain):
        for label in filter(None, map(str.strip, labels.split(","))):
            if label not in used:
                yield f"no series has the label {label!r}"
