"""What a caller writes down: each call that ended with a value, as a hit or a run, and nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.checker.history import Commits, ProcessCheck, Verdict
from tests.checker.plan import ReaderTask
from tests.checker.reading import BURST, Caller, Subject, Summary
from tests.checker.records import RecordFile, WriteRecord, reads_of
from tests.checker.source import Value

TASK = ReaderTask("r", "", "", "", seed=1, keys=[3], reads_per_s=1_000.0, staleness_s=2.0)


class Scene:
    """One caller, and what it has written down."""

    def __init__(self, path: Path, call: Callable[[int], Awaitable[Value]]) -> None:
        self.path = path
        self.summary = Summary()
        self.records = RecordFile(path)
        self.caller = Caller(
            Subject(call=call, state=lambda: "live"), self.records, self.summary, random.Random(1), TASK
        )

    def judged(self, *writes: WriteRecord) -> Verdict:
        self.records.__exit__(None, None, None)
        verdict = Verdict()
        ProcessCheck("r", Commits(writes), staleness_s=2.0, verdict=verdict).check(reads_of(self.path))
        return verdict


async def runs_each_time(key: int) -> Value:
    return 0, time.monotonic()


async def test_value_that_began_within_the_call_is_a_run(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "reads", runs_each_time)
    await scene.caller.burst()
    verdict = scene.judged()
    assert verdict.reads >= BURST
    assert verdict.hits == 0


async def test_value_that_was_there_before_is_a_hit_and_is_judged_as_one(tmp_path: Path) -> None:
    async def never_invalidated(key: int) -> Value:
        return 0, 1.0

    scene = Scene(tmp_path / "reads", never_invalidated)
    await scene.caller.burst()
    verdict = scene.judged(WriteRecord(3, 1, 2.0, 2.5))
    assert verdict.hits == verdict.reads == verdict.violations["G2"]


async def test_call_that_ends_with_the_functions_error_is_no_read(tmp_path: Path) -> None:
    async def away(key: int) -> Value:
        raise ConnectionResetError("the database is away")

    scene = Scene(tmp_path / "reads", away)
    with pytest.raises(ConnectionResetError):
        await scene.caller.burst()
    assert scene.judged().reads == 0


async def test_call_that_is_given_up_is_counted_and_is_no_read(tmp_path: Path) -> None:
    async def never_ends(key: int) -> Value:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    scene = Scene(tmp_path / "reads", never_ends)
    await scene.caller.give_up_early()
    assert scene.summary.given_up == 1
    assert scene.judged().reads == 0
