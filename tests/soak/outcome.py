"""What a soak showed: figures, a verdict with its reasons, and the picture.

Memory is judged on medians of minutes after the warm-up, in which faults and bursts are dense. It is flat when the 95 %
interval of its slope reaches below GROWTH_MIB_PER_HOUR, and the last quarter's median is at most that above the
first's. A taste is too short for that: it shows the figures and judges the rest.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from tests.checker.faults import Happened
from tests.soak.crowd import Report
from tests.soak.figures import HOUR_S, Slope, minute_medians, percentile, quarters, slope
from tests.soak.plan import SoakSettings
from tests.soak.plot import Panel, Picture
from tests.soak.samples import MIB, Sample, Sampler
from tests.soak.stage import LINKED
from tests.soak.tape import outside

GROWTH_MIB_PER_HOUR = 2.0
SERIOUS = re.compile(
    r"level=(?:error|critical)|\"level\": ?\"(?:error|critical)|Traceback|never awaited", re.IGNORECASE
)
# Faults that end the relay's source, and so its readiness.
OF_THE_SOURCE = ("listen_", "postgres_", "source_", "relay_stopped")


@dataclass(frozen=True)
class Outcome:
    """`failures` are what the run itself found; `broken` is everything."""

    settings: SoakSettings
    sampler: Sampler
    happened: list[Happened]
    reports: dict[str, Report]
    log: str
    baseline: Sample
    end: Sample
    failures: list[str]

    @property
    def is_clean(self) -> bool:
        return not self.broken

    @cached_property
    def broken(self) -> list[str]:
        """One sentence each."""
        return [*self.failures, *self._unheard(), *self._unsound(), *self._serious_lines(), *self._growth()]

    def _unheard(self) -> Iterator[str]:
        doubts = self.reports["tapes"]["in_doubt"]
        for name in LINKED:
            for reader in self.reports[name].get("readers", ()):
                heard = reader["heard"]
                missed = outside(heard["missing"], doubts[reader["tape"]])
                if missed or heard["missing_more"]:
                    yield f"{name}: a {reader['mode']} reader missed {len(missed)} events untold: {missed[:10]}"
                if heard["repeats"]:
                    yield f"{name}: a {reader['mode']} reader heard {heard['repeats']} events twice"

    def _unsound(self) -> Iterator[str]:
        for name in LINKED:
            yield from self.reports[name].get("breaks", ())
        yield from self.reports["caches"]["violations"]

    def _serious_lines(self) -> Iterator[str]:
        for line in self.log.splitlines():
            if SERIOUS.search(line):
                yield f"the relay's log: {line[:300]}"

    def _growth(self) -> Iterator[str]:
        if self.settings.is_taste:
            return
        grown, by_quarters = self.slope, self.memory_quarters.growth
        if grown.low_per_hour > GROWTH_MIB_PER_HOUR or by_quarters > GROWTH_MIB_PER_HOUR:
            yield (
                f"memory grows by {grown.per_hour:.2f} MiB/h ({grown.low_per_hour:.2f} to {grown.high_per_hour:.2f}), "
                f"from the first to the last quarter by {by_quarters:.2f} MiB; {GROWTH_MIB_PER_HOUR} is allowed"
            )

    @cached_property
    def _settled(self) -> list[tuple[float, float]]:
        """Medians of memory after the warm-up, while everybody was there; all of it in a taste."""
        first_s = self.settings.warm_up_s
        step_s = 1.0 if self.settings.is_taste else 60.0
        last_s = self.settings.duration_s
        points = [point for point in self.sampler.memory() if first_s <= point[0] <= last_s]
        return minute_medians(points, step_s=step_s)

    @cached_property
    def slope(self) -> Slope:
        """Of the memory, in MiB."""
        return slope(self._settled)

    @cached_property
    def memory_quarters(self) -> Any:
        return quarters(self._settled)

    def recoveries_s(self) -> list[float]:
        """For each fault of the source, from its end to the next sample that found the relay ready."""
        ready_s = [sample.at_s for sample in self.sampler.samples if sample.is_ready]
        healed_s = [
            fault.healed_s - self.sampler.began_s for fault in self.happened if fault.kind.startswith(OF_THE_SOURCE)
        ]
        return [next((at_s for at_s in ready_s if at_s >= each), float("inf")) - each for each in healed_s]

    def figures(self) -> dict[str, Any]:
        """For the JSON line."""
        samples = self.sampler.samples
        recoveries = self.recoveries_s()
        clients = [value for _, value in self.sampler.curve("clients")]
        return {
            "seed": self.settings.seed,
            "duration_s": self.settings.duration_s,
            "faults": dict(Counter(fault.kind for fault in self.happened)),
            "anonymous_mib": {
                "baseline": round(self.baseline.anonymous_bytes / MIB, 2),
                "first_quarter": round(self.memory_quarters.first, 2),
                "last_quarter": round(self.memory_quarters.last, 2),
                "peak": round(max(sample.anonymous_bytes for sample in samples) / MIB, 2),
                "end": round(self.end.anonymous_bytes / MIB, 2),
                "slope_per_hour": round(self.slope.per_hour, 3),
                "slope_95": [round(self.slope.low_per_hour, 3), round(self.slope.high_per_hour, 3)],
            },
            "files": {
                "baseline": self.baseline.files,
                "most": max(sample.files for sample in samples),
                "end": self.end.files,
            },
            "clients": {"median": median(clients), "most": max(clients)} if clients else {},
            "events": self._last("events_received_total"),
            "frames": self._last("frames_sent_total"),
            "conflations": self._last("conflations_total"),
            "epochs": self._last("epoch_changes_total"),
            "cpu_share": round((samples[-1].cpu_s - samples[0].cpu_s) / (samples[-1].at_s - samples[0].at_s), 3),
            "recovery_s": {
                "median": round(median(recoveries), 2),
                "p95": round(percentile(recoveries, 95), 2),
                "longest": round(max(recoveries), 2),
            }
            if recoveries
            else {},
            "heard": sum(self.reports[name].get("heard", 0) for name in LINKED),
            "told_gaps": sum(
                reader["heard"]["gaps"] for name in LINKED for reader in self.reports[name].get("readers", ())
            ),
            "calls": self.reports["caches"]["calls"],
            "jobs": sum(last - first + 1 for first, last in self.reports["tapes"]["jobs"]),
            "strangers": self.reports["strangers"]["came"],
            "missed_scrapes": self.sampler.missed_scrapes,
            "broken": self.broken,
        }

    def _last(self, metric: str) -> float:
        curve = self.sampler.curve(metric)
        return curve[-1][1] if curve else 0.0

    def picture(self) -> Picture:
        """Memory, clients, events and files over time, with the faults."""
        sampler = self.sampler
        memory = {"anonymous": sampler.memory(), "RSS": [(each.at_s, each.rss_bytes / MIB) for each in sampler.samples]}
        files = [(each.at_s, float(each.files)) for each in sampler.samples]
        history = [(at_s, value / MIB) for at_s, value in sampler.curve("history_bytes")]
        panels = [
            Panel("memory, MiB", memory, starts_at_zero=False),
            Panel("the history's share of it, MiB", {"history": history}),
            Panel("clients and open files", {"clients": sampler.curve("clients"), "files": files}),
            Panel("events in, each second", {"events": sampler.rate("events_received_total")}),
            Panel("frames out, each second", {"frames": sampler.rate("frames_sent_total")}),
        ]
        return Picture(
            title=self.title(),
            duration_s=max(sampler.samples[-1].at_s, self.settings.duration_s),
            panels=panels,
            faults=[(fault.started_s - sampler.began_s, fault.kind) for fault in self.happened],
            shaded_s=self.settings.warm_up_s,
        )

    def title(self) -> str:
        """The figures that matter in one line."""
        grown = self.slope
        return (
            f"{self.settings.duration_s / HOUR_S:.2f} h, seed {self.settings.seed}, {len(self.happened)} faults: "
            f"{grown.per_hour:+.2f} MiB/h ({grown.low_per_hour:+.2f} to {grown.high_per_hour:+.2f}), "
            f"quarters {self.memory_quarters.first:.1f} and {self.memory_quarters.last:.1f} MiB"
        )

    def json_line(self) -> str:
        return json.dumps(self.figures())
