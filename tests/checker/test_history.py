"""A judge that never convicts is worth nothing: each kind of violation is planted, and innocents are let go."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checker.history import EXAMPLES_LIMIT, Commits, FinalState, ProcessCheck, Verdict
from tests.checker.records import (
    BARRIER,
    HIT,
    NEVER_RETURNED,
    READ,
    RUN,
    ReadRecord,
    RecordFile,
    WriteRecord,
    reads_of,
    writes_of,
)

BOUND_S = 2.0
KEY = 7
# Version 1 is a fact by 10.1, version 2 by 20.1.
WRITES = [WriteRecord(KEY, 1, 10.0, 10.1), WriteRecord(KEY, 2, 20.0, 20.1)]


def judge(*reads: ReadRecord, writes: list[WriteRecord] = WRITES, final: FinalState | None = None) -> Verdict:
    verdict = Verdict()
    check = ProcessCheck("reader", Commits(writes), staleness_s=BOUND_S, verdict=verdict, final=final)
    check.check(reads)
    return verdict


def hit(version: int, started_s: float, ended_s: float | None = None, *, key: int = KEY) -> ReadRecord:
    return ReadRecord(key, version, started_s, started_s if ended_s is None else ended_s, HIT)


def run(version: int, started_s: float, ended_s: float) -> ReadRecord:
    return ReadRecord(KEY, version, started_s, ended_s, RUN)


def barrier(called_s: float, returned_s: float) -> ReadRecord:
    return ReadRecord(0, 0, called_s, returned_s, BARRIER)


def test_hit_older_than_the_bound_breaks_g2() -> None:
    verdict = judge(hit(0, 12.2))
    assert verdict.violations == {"G2": 1}
    assert "G2 in reader: key 7 gave version 0" in str(verdict.examples[0])
    assert verdict.examples[0].needed == 1


def test_hit_just_inside_the_bound_is_allowed_and_measured() -> None:
    verdict = judge(hit(0, 12.0))
    assert not verdict.violations
    assert verdict.worst_staleness_s == pytest.approx(1.9)


def test_commit_in_doubt_is_not_due() -> None:
    in_doubt = [WriteRecord(KEY, 1, 10.0, NEVER_RETURNED)]
    assert not judge(hit(0, 50.0), hit(1, 51.0), hit(0, 51.0, 52.0), writes=in_doubt).violations


def test_later_version_that_returned_first_counts() -> None:
    crossed = [WriteRecord(KEY, 1, 10.0, 19.0), WriteRecord(KEY, 2, 11.0, 11.5)]
    assert judge(hit(0, 13.6), writes=crossed).violations == {"G2": 1}


def test_run_that_misses_a_returned_commit_is_the_harness_fault() -> None:
    assert judge(run(0, 10.2, 10.3)).violations == {"H2": 1}
    assert not judge(run(0, 10.05, 10.3)).violations


def test_read_after_a_barrier_without_an_earlier_commit_breaks_g3() -> None:
    assert judge(barrier(10.2, 10.3), hit(0, 10.4)).violations == {"G3": 1}


def test_old_barrier_still_binds() -> None:
    reads = (barrier(10.2, 10.3), barrier(10.25, 10.4), hit(1, 10.5), hit(0, 10.45, 10.6))
    assert judge(*reads).violations == {"G3": 1}


def test_barrier_called_before_the_commit_returned_promises_nothing() -> None:
    assert not judge(barrier(10.05, 10.3), hit(0, 10.4)).violations


def test_read_that_began_before_the_barrier_passed_is_not_bound_by_it() -> None:
    assert not judge(barrier(10.2, 10.5), hit(0, 10.4, 10.6)).violations


def test_version_that_goes_back_breaks_g5() -> None:
    verdict = judge(hit(1, 10.05, 10.06), hit(0, 10.07))
    assert verdict.violations == {"G5": 1}
    assert verdict.examples[0].needed == 1


def test_overlapping_calls_may_cross() -> None:
    assert not judge(hit(1, 10.05, 10.06), hit(0, 10.06, 10.07)).violations


def test_keys_do_not_bind_one_another() -> None:
    assert not judge(hit(1, 10.05), hit(0, 10.06, key=8)).violations


def test_quiet_read_unequal_to_the_database_breaks_g7() -> None:
    # A lost last write: every other rule is silent, because no commit of version 2 ever returned.
    writes = [*WRITES[:1], WriteRecord(KEY, 2, 20.0, NEVER_RETURNED)]
    final = FinalState(quiet_since_s=30.0, versions={KEY: 2})
    verdict = judge(hit(1, 31.9), hit(1, 32.0), hit(2, 33.0), writes=writes, final=final)
    assert verdict.violations == {"G7": 1}
    assert verdict.final_reads == 2


def test_version_nobody_had_asked_for_is_the_harness_fault() -> None:
    assert judge(hit(3, 30.0)).violations == {"H1": 1}
    assert judge(hit(1, 9.0, 9.9)).violations == {"H1": 1}


def test_all_violations_are_counted_and_some_are_kept() -> None:
    verdict = judge(*(hit(0, 12.2 + at) for at in range(EXAMPLES_LIMIT * 3)))
    assert verdict.violations["G2"] == EXAMPLES_LIMIT * 3
    assert len(verdict.examples) == EXAMPLES_LIMIT


def test_records_survive_the_file_and_a_record_cut_short_is_ignored(tmp_path: Path) -> None:
    reads = [hit(0, 10.0, 10.1), run(1, 10.2, 10.3)]
    path = tmp_path / "reads"
    with RecordFile(path) as file:
        for read in reads:
            file.read(*read)
        file.barrier(10.4, 10.5)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: READ.size - 1])
    assert list(reads_of(path)) == [*reads, barrier(10.4, 10.5)]


def test_writes_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "writes"
    with RecordFile(path) as file:
        for write in WRITES:
            file.wrote(*write)
        file.wrote(KEY, 3, 30.0, NEVER_RETURNED)
    assert list(writes_of(path)) == [*WRITES, WriteRecord(KEY, 3, 30.0, math.inf)]


@st.composite
def linearizable_histories(draw: st.DrawFn) -> tuple[list[WriteRecord], list[ReadRecord]]:
    """Reads that each saw the database at one instant between their start and their end."""
    instants = st.integers(0, 60).map(float)
    waits = st.integers(1, 20).map(float)
    writes, visible = [], []
    for version, at_s in enumerate(sorted(draw(st.lists(instants, max_size=6, unique=True))), 1):
        writes.append(WriteRecord(KEY, version, at_s - draw(waits), at_s + draw(waits)))
        visible.append(at_s)
    reads = []
    for at_s in draw(st.lists(instants, max_size=20)):
        version = sum(1 for commit_s in visible if commit_s <= at_s)
        started_s, ended_s = at_s - draw(waits), at_s + draw(waits)
        kind = draw(st.sampled_from([HIT, RUN, BARRIER]))
        reads.append(ReadRecord(KEY, version, started_s, ended_s, kind))
    return writes, sorted(reads, key=lambda read: read.ended_s)


@given(linearizable_histories())
def test_linearizable_history_is_never_convicted(
    history: tuple[list[WriteRecord], list[ReadRecord]],
) -> None:
    writes, reads = history
    verdict = Verdict()
    ProcessCheck("reader", Commits(writes), staleness_s=0.0, verdict=verdict).check(reads)
    assert not verdict.violations, [str(example) for example in verdict.examples]


@given(linearizable_histories(), st.data())
def test_read_made_older_than_its_bound_is_always_convicted(
    history: tuple[list[WriteRecord], list[ReadRecord]], data: st.DataObject
) -> None:
    writes, reads = history
    outdated = [read for read in reads if read.kind == HIT and Commits(writes).newest_at(KEY, read.started_s) > 0]
    if not outdated:
        return
    victim = data.draw(st.sampled_from(outdated))
    due = Commits(writes).newest_at(KEY, victim.started_s)
    reads[reads.index(victim)] = victim._replace(version=data.draw(st.integers(0, due - 1)))
    verdict = Verdict()
    ProcessCheck("reader", Commits(writes), staleness_s=0.0, verdict=verdict).check(reads)
    assert verdict.violations["G2"] >= 1
