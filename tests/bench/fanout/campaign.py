"""Trials in turns: for each case each peer once, then again, as many rounds as are wanted; and the medians of them.

In turns, so that what else the machine does meets all of them. Of what must not happen at all, as a lost event, the
worst round counts and not the median.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.fanout import machine
from tests.bench.fanout.cases import Case
from tests.bench.fanout.idle import run_idle
from tests.bench.fanout.processes import Failed
from tests.bench.fanout.servers import Missing, Peer
from tests.bench.fanout.trial import Figures, run_trial

NEVER = ("lost", "duplicated", "reordered", "malformed", "chain_breaks", "closed", "conflated")


@dataclass(slots=True)
class Results:
    """Everything that a run found: by case and peer the rounds' figures, and why a peer has none."""

    machine: dict[str, str] = field(default_factory=machine.description)
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    rounds: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def summary(self, case: str) -> dict[str, Figures]:
        """By peer, one figure each from all rounds."""
        return {peer: combined(found) for peer, found in self.rounds.get(case, {}).items() if found}


def combined(rounds: Sequence[Figures]) -> Figures:
    """The median of each number that all rounds have, the worst of what should be 0, the last of anything else."""
    result: Figures = dict(rounds[-1])
    for name, value in rounds[-1].items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            values = [each[name] for each in rounds if each.get(name) is not None]
            result[name] = max(values) if name in NEVER else statistics.median(values)
    return result


def installed(peers: Mapping[str, Peer], results: Results) -> dict[str, Peer]:
    """Those that can be run; of the others `results` says why not."""
    found = {}
    for name, peer in peers.items():
        try:
            peer.check()
            results.versions[name] = peer.version()
        except Missing as reason:
            results.skipped[name] = str(reason)
        else:
            found[name] = peer
    return found


def run_case(
    case: Case,
    peers: Mapping[str, Peer],
    rounds: int,
    results: Results,
    *,
    say: Callable[[str], Any] = sys.stderr.write,
) -> None:
    """All rounds of one case. A trial that fails is told and noted, and the others go on."""
    for turn in range(1 if case.is_once else rounds):
        for name, peer in peers.items():
            if not peer.is_for(case):
                continue
            scaled = case.scaled(peer.share) if case.is_saturated else case
            try:
                if case.is_idle:
                    figures = run_idle(peer, scaled)
                else:
                    figures = run_trial(peer, scaled, has_stamps=case.is_end_to_end)
            except Failed as failure:
                results.failures.append(f"{case.name} {name}: {failure}")
                say(f"{case.name} {name} FAILED: {failure}\n")
                continue
            figures["load_average"] = machine.load_average()
            results.rounds.setdefault(case.name, {}).setdefault(name, []).append(figures)
            cost = f"{figures['cpu_us']:.3f} us a delivery" if "cpu_us" in figures else ""
            say(f"{case.name} round {turn + 1} {name}: {cost} load average {figures['load_average']}\n")
