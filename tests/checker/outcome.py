"""What a run showed: the verdict on every reader's record, and the text that is published."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.checker.faults import Happened
from tests.checker.history import Commits, FinalState, ProcessCheck, Verdict
from tests.checker.plan import ReaderFiles, RunSettings, writes_path
from tests.checker.reading import Summary
from tests.checker.records import NEVER_RETURNED, WriteRecord, reads_of, writes_of
from tests.checker.recovery import Recovery, StateChange, median_and_longest, recovery, states_of

PROMISES = ("G2", "G3", "G5", "G7")
HARNESS = ("H1", "H2")
CRASHES = ("postgres_killed", "listen_backend_killed")  # each begins a new epoch of the journal


@dataclass(slots=True)
class Outcome:
    """Everything a run found. `verdicts` and `summaries` are by group of readers and by name of reader."""

    settings: RunSettings
    writes: int
    happened: list[Happened]
    did_not_happen: int
    verdicts: dict[str, Verdict]
    summaries: dict[str, Summary]
    recovery: Recovery
    relay_exits: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def faults(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.happened)

    @property
    def violations(self) -> Counter[str]:
        """Of all groups, the harness's own included."""
        return sum((verdict.violations for verdict in self.verdicts.values()), Counter())

    @property
    def is_clean(self) -> bool:
        """Nothing promised was broken, no call hung, processes ended in order, and the journal spared its flushes."""
        hung = sum(summary.hung for summary in self.summaries.values())
        flushes = self.kept_epoch_flushes if self.settings.mode == "journal" else 0
        return not (self.violations or hung or self.failures or self.relay_exits or flushes)

    @property
    def kept_epoch_flushes(self) -> int:
        """Times that a reader flushed everything in one epoch. In journal mode only a crash of PostgreSQL ends one."""
        return sum(summary.kept_epoch_flushes for summary in self.summaries.values())


def judge(
    settings: RunSettings,
    groups: Mapping[str, str],
    final: FinalState,
    happened: Sequence[Happened],
    *,
    did_not_happen: int = 0,
) -> Outcome:
    """Read what the processes left. `groups` is each reader's group by its name, in order of their numbers."""
    writes = [record for number in range(settings.writers) for record in _writes(settings, number)]
    commits = Commits(writes)
    verdicts: dict[str, Verdict] = {}
    states: dict[int, list[StateChange]] = {}
    summaries: dict[str, Summary] = {}
    for number, (name, group) in enumerate(groups.items()):
        files = ReaderFiles.of(settings.directory, name)
        verdict = verdicts.setdefault(group, Verdict())
        ProcessCheck(name, commits, staleness_s=settings.staleness_s, verdict=verdict, final=final).check(
            reads_of(files.reads)
        )
        states[number] = states_of(files.states)
        if files.summary.exists():
            summaries[name] = Summary(**json.loads(files.summary.read_text()))
    return Outcome(
        settings=settings,
        writes=sum(record.returned_s < NEVER_RETURNED for record in writes),
        happened=list(happened),
        did_not_happen=did_not_happen,
        verdicts=verdicts,
        summaries=summaries,
        recovery=recovery(happened, states),
    )


def _writes(settings: RunSettings, number: int) -> Iterator[WriteRecord]:
    return writes_of(writes_path(settings.directory, f"writer-{number}"))


def report(outcome: Outcome) -> str:
    """The published text: counts, faults by kind with the time to come back, and examples of what was broken."""
    faults, settings = outcome.faults, outcome.settings
    lines = [
        f"{settings.mode} mode, seed {settings.seed}, {settings.duration_s:g} s, staleness bound "
        f"{settings.staleness_s:g} s, {outcome.writes:,} commits",
        f"{faults.total()} faults of {len(faults)} kinds; {outcome.did_not_happen} more found nothing to strike",
        "",
        *_table(outcome.verdicts),
        "",
        *_fault_lines(outcome),
        *(f"  {name}: {_told(summary)}" for name, summary in outcome.summaries.items()),
        *(f"  {violation}" for verdict in outcome.verdicts.values() for violation in verdict.examples),
        *(f"  failed: {failure}" for failure in outcome.failures),
    ]
    if settings.mode == "journal":
        crashes = sum(faults[kind] for kind in CRASHES)
        lines.append(
            f"  flushes: {outcome.kept_epoch_flushes} without a crash of PostgreSQL; it crashed {crashes} times, the "
            f"relay ended {faults['relay_killed'] + faults['relay_restarted']} times"
        )
    if outcome.relay_exits:
        lines.append(f"  the relay ended by itself {outcome.relay_exits} times")
    return "\n".join(lines)


def _table(verdicts: Mapping[str, Verdict]) -> Iterator[str]:
    """A column for each group."""
    width = max(16, *(len(group) for group in verdicts)) + 2
    yield f"{'':34}" + "".join(f"{group:>{width}}" for group in verdicts)
    rows = [
        ("reads checked", [f"{verdict.reads:,}" for verdict in verdicts.values()]),
        ("  of them hits", [f"{verdict.hits:,}" for verdict in verdicts.values()]),
        ("  after all was quiet", [f"{verdict.final_reads:,}" for verdict in verdicts.values()]),
        ("barriers passed", [f"{verdict.barriers:,}" for verdict in verdicts.values()]),
    ]
    meaning = {
        "G2": "older than the bound",
        "G3": "behind a barrier",
        "G5": "back in version",
        "G7": "wrong when quiet",
    }
    for rule in PROMISES:
        rows.append((f"{rule} {meaning[rule]}", [f"{verdict.violations[rule]:,}" for verdict in verdicts.values()]))
    rows.append(("worst staleness of a hit, s", [f"{verdict.worst_staleness_s:.3f}" for verdict in verdicts.values()]))
    for rule in HARNESS:
        if any(verdict.violations[rule] for verdict in verdicts.values()):
            rows.append(
                (f"{rule} (the checker is wrong)", [f"{verdict.violations[rule]:,}" for verdict in verdicts.values()])
            )
    for title, cells in rows:
        yield f"{title:34}" + "".join(f"{cell:>{width}}" for cell in cells)


def _fault_lines(outcome: Outcome) -> Iterator[str]:
    back = outcome.recovery
    median_s, longest_s = median_and_longest(back.all_s)
    yield (
        f"live again {median_s:.3f} s after a fault (median; longest {longest_s:.3f} s) over {len(back.all_s)} faults; "
        f"{back.unnoticed} threw nobody out of live, {back.interrupted} met the next one first"
    )
    for kind, count in sorted(outcome.faults.items()):
        times = back.by_kind.get(kind, [])
        median_s, longest_s = median_and_longest(times)
        told = f"live again {median_s:.3f} s, longest {longest_s:.3f} s, of {len(times)}" if times else ""
        yield f"  {kind:28}{count:>5}  {told}".rstrip()


def _told(summary: Summary) -> str:
    counters = ", ".join(f"{count:,} {name}" for name, count in summary.counters.items())
    return (
        f"{summary.calls:,} calls, {summary.errors:,} ended with the function's error, {summary.given_up:,} given up, "
        f"{summary.hung} hung, {summary.barriers_failed:,} barriers failed{', ' if counters else ''}{counters}"
    )
