"""The ratios that were aimed at, each from figures of one run, and whether they were reached."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.bench.fanout.campaign import Results

HEARTBEAT_MS = 500.0


@dataclass(frozen=True, slots=True)
class Target:
    """`figure` of `peer` in `case` is at most `limit` times `other`'s: a peer in the same case, or a case and peer.

    Without `other`, at most `limit`.
    """

    case: str
    peer: str
    limit: float
    other: str = ""
    figure: str = "cpu_us"
    other_case: str = ""

    @property
    def text(self) -> str:
        beside = f" / {self.other or self.peer}{f' in {self.other_case}' if self.other_case else ''}"
        return f"{self.case}: {self.figure} of {self.peer}{beside if self.other or self.other_case else ''}"

    def measured(self, results: Results) -> float | None:
        """None when one of the two was not measured."""
        own = results.summary(self.case).get(self.peer, {}).get(self.figure)
        if own is None or not (self.other or self.other_case):
            return own
        beside = results.summary(self.other_case or self.case).get(self.other or self.peer, {}).get(self.figure)
        return own / beside if beside else None


TARGETS = (
    Target("sat-1000", "ours", 0.2, "nats"),
    Target("sat-1000", "ours", 0.05, "nchan"),
    Target("sat-1000", "ours", 0.03, "broadcast"),
    Target("sat-1000", "ours", 7.0, "floor-1000"),  # 0.35 us where batches of 1,000 cost 0.05
    *(
        Target(case, "ours", limit, other)
        for case in ("c100-10", "c1000-30")
        for other, limit in (("nchan", 1.0), ("nats", 0.65), ("floor", 1.35))
    ),
    *(Target(case, "relay", 1.3, "ours") for case in ("c100-10", "c1000-30", "c1000-200", "sat-100", "sat-1000")),
    *(Target(case, "relay", 2 * HEARTBEAT_MS, figure="mark_interval_p99_ms") for case in ("sat-100", "sat-1000")),
    *(
        Target(f"stuck-{clients}", "ours", 1.2, figure="p99_ms", other_case=f"calm-{clients}")
        for clients in (100, 1_000)
    ),
    Target("idle-10000", "relay", 4.0, figure="resident_per_client_kb"),
    Target("e2e-1", "relay", 1.2, "listener", figure="p50_ms"),
    Target("e2e-100", "relay", 0.6, "original", figure="p50_ms"),
)


def lines(results: Results) -> Iterator[str]:
    """One for each target of which both sides were measured."""
    for target in TARGETS:
        measured = target.measured(results)
        if measured is not None:
            verdict = "reached" if measured <= target.limit else "MISSED"
            yield f"  {target.text:<58} {measured:>9.3f}  <= {target.limit:<6g} {verdict}"
