"""Judges what readers were given against what writers had committed: the stale-read checker without the processes.

Per key the database orders all versions: 0, 1, 2, ... Each committed one has an instant by which its COMMIT had
returned. So the question "was this read too old?" needs no search: of a read of version v, only the earliest return
among the versions after v matters, `outdated_at(v)`, and that is one look into a table.

    G2  a hit that began at t:       outdated_at(v) > t - B
    G3  a read begun after a barrier that was called at b:     outdated_at(v) > b
    G5  no read is older than a read of the same key that ended, in the same process, before it began
    G7  a read begun B after the last write equals the database
    H1  (the harness) nobody is given a version that no commit had been asked for
    H2  (the harness) a call for which the function ran:       outdated_at(v) > t

G4 needs no line of its own: a call that is given the result of a fill too old for it is older than an earlier call's
(G5), a barrier's (G3) or the bound's (G2).

Time is linear in the number of reads. Bounds: per process and key as many instants as versions were seen; of each
kind of violation the first EXAMPLES_LIMIT are kept and all are counted. Pure: no clock, no files.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tests.checker.records import BARRIER, HIT, ReadRecord, WriteRecord

EXAMPLES_LIMIT = 5
EARLIER_THAN_ALL_S = -math.inf


@dataclass(frozen=True, slots=True)
class FinalState:
    """What the database held when writes had stopped for good at `quiet_since_s`: version by key."""

    quiet_since_s: float
    versions: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` was broken by `read` of `process`: at least `needed` had to be returned."""

    rule: str
    process: str
    read: ReadRecord
    needed: int

    def __str__(self) -> str:
        read = self.read
        return (
            f"{self.rule} in {self.process}: key {read.key} gave version {read.version} in a call from "
            f"{read.started_s:.6f} to {read.ended_s:.6f}, {self.needed} was due"
        )


@dataclass(slots=True)
class Verdict:
    """Counts over all processes. `worst_staleness_s` is how long ago the oldest hit's successor had been committed."""

    reads: int = 0
    hits: int = 0
    barriers: int = 0
    final_reads: int = 0
    worst_staleness_s: float = 0.0
    violations: Counter[str] = field(default_factory=Counter)
    examples: list[Violation] = field(default_factory=list)

    def count(self, rule: str, process: str, read: ReadRecord, needed: Callable[[], int]) -> None:
        """One more violation. What was `needed` is worked out for the few that are kept as examples."""
        self.violations[rule] += 1
        if self.violations[rule] <= EXAMPLES_LIMIT:
            self.examples.append(Violation(rule, process, read, needed()))


class Commits:
    """What was written to each key and since when that was a fact."""

    def __init__(self, writes: Iterable[WriteRecord]) -> None:
        self._called: dict[int, dict[int, float]] = {}
        self._returned: dict[int, dict[int, float]] = {}
        for key, version, called_s, returned_s in writes:
            # A commit in doubt that failed leaves its number to the next, so one version may be recorded twice.
            called = self._called.setdefault(key, {})
            called[version] = min(called_s, called.get(version, math.inf))
            returned = self._returned.setdefault(key, {})
            returned[version] = min(returned_s, returned.get(version, math.inf))
        self._outdated = {key: _earliest_after_each(returned) for key, returned in self._returned.items()}

    def outdated_at(self, key: int, version: int) -> float:  # hot path
        """The instant by which a newer version was a fact; infinity when there is none."""
        table = self._outdated.get(key)
        return table[version] if table is not None and version < len(table) else math.inf

    def asked_for_at(self, key: int, version: int) -> float:
        """The instant before which nobody can have seen this version; infinity when nobody wrote it."""
        if version == 0:
            return EARLIER_THAN_ALL_S
        return self._called.get(key, {}).get(version, math.inf)

    def newest_at(self, key: int, instant_s: float) -> int:
        """The newest version whose commit had returned by `instant_s`. Slow: for messages."""
        returned = self._returned.get(key, {})
        return max((version for version, at_s in returned.items() if at_s <= instant_s), default=0)


def _earliest_after_each(returned: Mapping[int, float]) -> list[float]:
    """Index v: the earliest return among versions greater than v."""
    earliest = math.inf
    table = [math.inf] * (max(returned) + 1)
    for version in range(max(returned), 0, -1):
        earliest = min(earliest, returned.get(version, math.inf))
        table[version - 1] = earliest
    return table


class ProcessCheck:
    """Checks the reads of one process. Give it the records in the order in which the calls ended."""

    def __init__(
        self,
        process: str,
        commits: Commits,
        *,
        staleness_s: float,
        verdict: Verdict,
        final: FinalState | None = None,
    ) -> None:
        self._process = process
        self._commits = commits
        self._staleness_s = staleness_s
        self._verdict = verdict
        self._final = final
        self._final_from_s = final.quiet_since_s + staleness_s if final else math.inf
        self._seen: dict[int, _Seen] = {}
        self._barriers = _Barriers()

    def check(self, records: Iterable[ReadRecord]) -> None:
        """Every record of the process. May be called again with what follows."""
        for record in records:
            if record.kind == BARRIER:
                self._barriers.passed(called_s=record.started_s, returned_s=record.ended_s)
                self._verdict.barriers += 1
            else:
                self._check_read(record)

    def _check_read(self, read: ReadRecord) -> None:  # hot path
        key, version, started_s, ended_s, kind = read
        verdict = self._verdict
        verdict.reads += 1
        outdated_s = self._commits.outdated_at(key, version)
        if kind == HIT:
            verdict.hits += 1
            staleness_s = started_s - outdated_s
            if staleness_s > verdict.worst_staleness_s:
                verdict.worst_staleness_s = staleness_s
            if staleness_s >= self._staleness_s:
                self._report("G2", read, needed_by_s=started_s - self._staleness_s)
        elif outdated_s < started_s:
            self._report("H2", read, needed_by_s=started_s)
        # A read that nothing outdated is as new as anything: only the others can break what follows.
        if outdated_s < started_s:
            barrier_s = self._barriers.newest_before(started_s)
            if outdated_s < barrier_s:
                self._report("G3", read, needed_by_s=barrier_s)
        seen = self._seen.get(key)
        if seen is None:
            seen = self._seen[key] = _Seen()
        if version < seen.newest and version < (needed := seen.newest_before(started_s)):
            verdict.count("G5", self._process, read, lambda: needed)
        elif version > seen.newest:
            if self._commits.asked_for_at(key, version) > ended_s:
                verdict.count("H1", self._process, read, lambda: self._commits.newest_at(key, ended_s))
            seen.add(version, ended_s)
        if started_s >= self._final_from_s:
            self._check_final(read)

    def _check_final(self, read: ReadRecord) -> None:
        assert self._final is not None
        self._verdict.final_reads += 1
        held = self._final.versions.get(read.key, 0)
        if read.version != held:
            self._verdict.count("G7", self._process, read, lambda: held)

    def _report(self, rule: str, read: ReadRecord, *, needed_by_s: float) -> None:
        self._verdict.count(rule, self._process, read, lambda: self._commits.newest_at(read.key, needed_by_s))


class _Seen:
    """When each new maximum of one key had been returned to somebody, oldest first."""

    __slots__ = ("_ended_s", "_versions", "newest")

    def __init__(self) -> None:
        self.newest = -1
        self._ended_s: list[float] = []
        self._versions: list[int] = []

    def add(self, version: int, ended_s: float) -> None:
        self.newest = version
        self._ended_s.append(ended_s)
        self._versions.append(version)

    def newest_before(self, instant_s: float) -> int:
        """The newest version returned by a call that ended before `instant_s`; -1 when there was none."""
        index = bisect_left(self._ended_s, instant_s) - 1
        return self._versions[index] if index >= 0 else -1


class _Barriers:
    """The barriers that passed in one process, in the order in which they did."""

    def __init__(self) -> None:
        self._returned_s: list[float] = []
        self._called_s: list[float] = []

    def passed(self, *, called_s: float, returned_s: float) -> None:
        newest = self._called_s[-1] if self._called_s else EARLIER_THAN_ALL_S
        self._returned_s.append(returned_s)
        self._called_s.append(max(newest, called_s))

    def newest_before(self, instant_s: float) -> float:
        """When the newest barrier was called that had passed before `instant_s`; -infinity when none had."""
        index = bisect_left(self._returned_s, instant_s) - 1
        return self._called_s[index] if index >= 0 else EARLIER_THAN_ALL_S
