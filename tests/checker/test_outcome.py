"""From the files that processes leave to the text that is published."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.checker.faults import Happened
from tests.checker.history import FinalState
from tests.checker.outcome import Outcome, judge, report
from tests.checker.plan import ReaderFiles, ReaderTask, RunSettings, WriterTask, from_argument, to_argument, writes_path
from tests.checker.reading import Summary
from tests.checker.records import HIT, NEVER_RETURNED, RecordFile

GROUPS = {"async-0": "pgcachewatch", "threads-1": "pgcachewatch"}


@pytest.fixture
def settings(tmp_path: Path) -> RunSettings:
    """A folder as a run leaves it: two writers, two readers, one fault, nothing wrong."""
    for number in range(2):
        with RecordFile(writes_path(tmp_path, f"writer-{number}")) as writes:
            writes.wrote(number, 1, 10.0, 10.1)
            writes.wrote(number, 2, 20.0, NEVER_RETURNED)
    for name in GROUPS:
        files = ReaderFiles.of(tmp_path, name)
        with RecordFile(files.reads) as reads:
            reads.read(0, 1, 11.0, 11.1, HIT)
            reads.barrier(11.2, 11.3)
            reads.read(1, 1, 33.0, 33.1, HIT)
        files.states.write_text("9.0 live\n10.5 suspect\n10.75 live\n")
        files.summary.write_text(json.dumps(asdict(Summary(calls=2, counters={"gaps": 1}))))
    return RunSettings(seed=5, duration_s=30.0, directory=tmp_path)


def judged(settings: RunSettings, *, version_of_key_1: int = 1) -> Outcome:
    final = FinalState(quiet_since_s=30.0, versions={0: 1, 1: version_of_key_1})
    fault = Happened("relay_killed", None, started_s=10.45, healed_s=10.5)
    return judge(settings, GROUPS, final, [fault], did_not_happen=3)


def test_clean_run_is_clean_and_says_what_it_saw(settings: RunSettings) -> None:
    outcome = judged(settings)
    text = report(outcome)
    assert outcome.is_clean
    assert outcome.writes == 2
    assert (outcome.verdicts["pgcachewatch"].reads, outcome.verdicts["pgcachewatch"].barriers) == (4, 2)
    assert "direct mode, seed 5, 30 s, staleness bound 2 s, 2 commits" in text
    assert "1 faults of 1 kinds; 3 more found nothing to strike" in text
    assert "relay_killed" in text
    assert "live again 0.250 s" in text
    assert "threads-1: 2 calls" in text


def test_violation_makes_the_run_unclean_and_is_shown(settings: RunSettings) -> None:
    outcome = judged(settings, version_of_key_1=2)
    assert not outcome.is_clean
    assert outcome.violations == {"G7": 2}
    assert "G7 in async-0: key 1 gave version 1" in report(outcome)


@pytest.mark.parametrize("trouble", ["hung", "failure", "relay exit"])
def test_trouble_that_is_no_violation_makes_the_run_unclean_too(settings: RunSettings, trouble: str) -> None:
    outcome = judged(settings)
    match trouble:
        case "hung":
            outcome.summaries["async-0"].hung = 1
        case "failure":
            outcome.failures.append("writer-0 ended with 1")
        case _:
            outcome.relay_exits = 1
    assert not outcome.is_clean


def test_a_flush_that_only_a_crash_excuses_makes_a_run_in_journal_mode_unclean(settings: RunSettings) -> None:
    outcome, direct = judged(replace(settings, mode="journal")), judged(settings)
    for one in (outcome, direct):
        one.summaries["async-0"].kept_epoch_flushes = 1
    assert direct.is_clean
    assert not outcome.is_clean
    assert "flushes: 1 without a crash of PostgreSQL; it crashed 0 times, the relay ended 1 times" in report(outcome)


def test_reader_that_left_no_summary_is_still_judged(settings: RunSettings) -> None:
    ReaderFiles.of(settings.directory, "async-0").summary.unlink()
    outcome = judged(settings)
    assert outcome.verdicts["pgcachewatch"].reads == 4
    assert set(outcome.summaries) == {"threads-1"}


def test_tasks_survive_the_command_line() -> None:
    writer = WriterTask("w", "postgresql://", "/tmp", 1, [0, 2], 10.0)
    reader = ReaderTask("r", "postgresql://", "ws://", "/tmp", 1, [0, 1], 10.0, 2.0)
    assert from_argument(WriterTask, to_argument(writer)) == writer
    assert from_argument(ReaderTask, to_argument(reader)) == reader
