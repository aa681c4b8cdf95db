"""The results as a table to read, as JSON to keep, and as a plot to look at, in a folder that git ignores."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.bench.fanout import targets
from tests.bench.fanout.campaign import Results
from tests.bench.fanout.places import PYTHON_PACKAGES, RESULTS
from tests.bench.fanout.trial import Figures

# Heading, figure, digits behind the point. A column that no peer has is left out.
COLUMNS = (
    ("CPU us/delivery", "cpu_us", 3),
    ("kernel %", "kernel_percent", 0),
    ("deliveries/s", "deliveries_per_s", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("max ms", "max_ms", 2),
    ("kB/client", "resident_per_client_kb", 1),
    ("growth kB", "growth_kb", 0),
    ("connect us", "connect_cpu_us", 0),
    ("idle us/s", "idle_cpu_us_per_client_s", 2),
    ("mark age p99", "mark_age_p99_ms", 0),
    ("interval p99", "mark_interval_p99_ms", 0),
    ("lost", "lost", 0),
    ("dup", "duplicated", 0),
    ("reord", "reordered", 0),
    ("conflated", "conflated", 0),
    ("closed", "closed", 0),
    ("load us", "load_cpu_us", 2),
)
FLOOR = "floor"
BARS = ("c100-10", "c1000-30", "c1000-200", "sat-100", "sat-1000", "burst-1000")


def write(results: Results) -> Path:
    """Write all three; returns the folder. `latest` is always of the last run."""
    RESULTS.mkdir(exist_ok=True)
    stem = "fanout-" + results.machine["at"].replace(":", "").partition("+")[0]
    text = table(results)
    content = json.dumps(dataclasses.asdict(results), indent=1)
    for name in (stem, "fanout-latest"):
        (RESULTS / f"{name}.txt").write_text(text)
        (RESULTS / f"{name}.json").write_text(content)
    return RESULTS


def table(results: Results) -> str:
    """Machine, versions, a table for each case, the targets, and what was skipped or failed."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    yield from (f"{name}: {value}" for name, value in results.machine.items())
    yield from (f"  {peer}: {version}" for peer, version in results.versions.items())
    for case in results.rounds:
        yield ""
        yield from _case_lines(case, results.summary(case), max(map(len, results.rounds[case].values())))
    reached = list(targets.lines(results))
    if reached:
        yield from ("", "targets", *reached)
    yield from (f"skipped {peer}: {reason}" for peer, reason in results.skipped.items())
    yield from (f"failed {failure}" for failure in results.failures)


def _case_lines(case: str, found: dict[str, Figures], rounds: int) -> Iterator[str]:
    columns = [column for column in COLUMNS if any(figures.get(column[1]) is not None for figures in found.values())]
    floor = found.get(FLOOR, {}).get("cpu_us")
    heads = "".join(f"{heading:>{_width(heading)}}" for heading, _, _ in columns)
    yield f"{case} ({rounds} rounds)"
    yield f"  {'':<12}{'x floor':>9}{heads}"
    for peer, figures in found.items():
        ratio = f"{figures['cpu_us'] / floor:.2f}" if floor and "cpu_us" in figures else ""
        cells = "".join(f"{_cell(figures.get(name), digits):>{_width(heading)}}" for heading, name, digits in columns)
        yield f"  {peer:<12}{ratio:>9}{cells}"
        if figures.get("stuck"):
            yield f"  {'':<12}  the one that did not read: {json.dumps(figures['stuck'])}"
        if figures.get("complaint"):
            yield f"  {'':<12}  complaint: {figures['complaint']}"


def _width(heading: str) -> int:
    return max(8, len(heading)) + 2


def _cell(value: Any, digits: int) -> str:  # Any: JSON
    return "" if value is None else f"{value:,.{digits}f}"


def plot(results: Results) -> str:
    """Draw CPU time a delivery for each case; returns what became of it, in a sentence."""
    cases = [case for case in BARS if len(results.summary(case)) > 1]
    if not cases:
        return "no plot: none of its cases was run with two peers"
    sys.path.append(str(PYTHON_PACKAGES))
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("Agg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return "no plot: matplotlib is not installed; make bench-peers, or pip install it into the cache"
    finally:
        sys.path.remove(str(PYTHON_PACKAGES))
    figure, places = pyplot.subplots(1, len(cases), figsize=(3.4 * len(cases), 4.5), squeeze=False)
    for case, axes in zip(cases, places[0], strict=True):
        summary = {peer: figures["cpu_us"] for peer, figures in results.summary(case).items()}
        colours = ["tab:orange" if peer in ("ours", "relay") else "tab:grey" for peer in summary]
        bars = axes.barh(list(summary), list(summary.values()), color=colours)
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
        axes.margins(x=0.2)
        axes.invert_yaxis()
        axes.set_title(case)
        axes.set_xlabel("CPU us a delivery")
    figure.suptitle(f"{results.machine['cpu']}, {results.machine['cores']} cores, {results.machine['at']}", fontsize=8)
    figure.tight_layout()
    figure.savefig(RESULTS / "fanout-latest.png", dpi=110)
    return "plot: fanout-latest.png"
