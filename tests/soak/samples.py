"""What is measured while a soak runs: the relay's memory, files and CPU from /proc, and its own metrics.

Memory is what the process allocated itself (Anonymous in smaps_rollup). Its share of files that it maps, as of the
interpreter, depends on who else maps them at that moment; RSS is shown beside it. With workers it would have to be
summed; a soak runs one process.

Bound: a sample is about 150 bytes, and there is one a second.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.soak.figures import Point

ANSWERS_WITHIN_S = 5.0
SERIES = re.compile(r"^pgcachewatch_(\w+?)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
MIB = 1_048_576
KIB = 1_024


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the process. `at_s` is since the start of the soak."""

    at_s: float
    anonymous_bytes: int
    rss_bytes: int
    files: int
    threads: int
    cpu_s: float
    is_ready: bool


@dataclass(slots=True)
class Sampler:
    """Looks every `sample_every_s`, asks for /metrics every `scrape_every_s`, until cancelled."""

    pid: int
    port: int
    sample_every_s: float
    scrape_every_s: float
    file: Path
    began_s: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    scrapes: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    missed_scrapes: int = 0

    async def run(self) -> None:
        next_scrape_s = 0.0
        while True:
            sample = await self.look()
            self.samples.append(sample)
            with self.file.open("a") as file:  # at once: whoever waits an hour may look before
                file.write(json.dumps(dataclasses.asdict(sample)) + "\n")
            if self.now_s() >= next_scrape_s:
                next_scrape_s = self.now_s() + self.scrape_every_s
                await self._scrape()
            await asyncio.sleep(self.sample_every_s)

    def now_s(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began_s

    async def look(self) -> Sample:
        """One sample, now."""
        at_s = self.now_s()
        process = Path(f"/proc/{self.pid}")
        memory = dict(re.findall(r"^(Rss|Anonymous): +(\d+) kB", (process / "smaps_rollup").read_text(), re.MULTILINE))
        spent = (process / "stat").read_text().rpartition(")")[2].split()
        return Sample(
            at_s=at_s,
            anonymous_bytes=int(memory["Anonymous"]) * KIB,
            rss_bytes=int(memory["Rss"]) * KIB,
            files=len(os.listdir(process / "fd")),  # noqa: PTH208  # names alone, no objects
            threads=int(spent[17]),
            cpu_s=(int(spent[11]) + int(spent[12])) / os.sysconf("SC_CLK_TCK"),
            is_ready=(await self.ask("/readyz"))[0] == 200,
        )

    async def _scrape(self) -> None:
        await self.ask("/v1/status")  # as an open page does
        status, body = await self.ask("/metrics")
        if status == 200:
            self.scrapes.append((self.now_s(), sums(body)))
        else:
            self.missed_scrapes += 1

    async def ask(self, path: str) -> tuple[int, str]:
        """Status and body; 0 when nobody answers in time."""
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n".encode())
                    head, _, body = (await reader.read(-1)).decode().partition("\r\n\r\n")
                finally:
                    writer.transport.abort()
        except (OSError, TimeoutError):
            return 0, ""
        return (int(head.split()[1]) if head else 0), body

    def curve(self, metric: str) -> list[Point]:
        """Of one metric, all labels together."""
        return [(at_s, values[metric]) for at_s, values in self.scrapes if metric in values]

    def rate(self, metric: str) -> list[Point]:
        """Of a counter, in each second."""
        points = self.curve(metric)
        return [
            (later_s, (after - before) / (later_s - earlier_s))
            for (earlier_s, before), (later_s, after) in pairwise(points)
        ]

    def memory(self) -> list[Point]:
        """What it allocated itself, in MiB."""
        return [(sample.at_s, sample.anonymous_bytes / MIB) for sample in self.samples]


def sums(exposition: str) -> dict[str, float]:
    """Each metric of the relay, summed over its labels; buckets are left out.

    >>> sums('pgcachewatch_clients{path="v1"} 3.0\\npgcachewatch_clients{path="plain"} 4.0\\n')
    {'clients': 7.0}
    """
    totals: dict[str, float] = {}
    for name, value in SERIES.findall(exposition):
        if not name.endswith(("_bucket", "_created")):
            totals[name] = totals.get(name, 0.0) + float(value)
    return totals
