"""The stale-read checker itself, for twenty seconds in each mode: real server, relay, processes and faults.

The published run is the same with more time: `make checker DURATION=600`. Besides the verdict this asserts that the run
was one: that faults of many kinds happened, that the cache was hit, invalidated and lost, and that barriers passed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded import find_binaries
from tests.checker.faults import KINDS, schedule
from tests.checker.outcome import report
from tests.checker.plan import MODES, Mode, RunSettings
from tests.checker.run import run

DURATION_S = 20.0
SEED_VARIABLE = "PGCW_CHECKER_SEED"
SEEDS: dict[Mode, str] = {"direct": "2", "journal": "3"}  # together they have every kind of fault
READS_PER_S = 1_000.0  # of each reader: other tests run beside this one and want their share of the machine


def test_the_seeds_together_have_every_kind_of_fault() -> None:
    kinds = {fault.kind for seed in SEEDS.values() for fault in schedule(int(seed), duration_s=DURATION_S, readers=5)}

    assert kinds == {kind.name for kind in KINDS}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
async def test_twenty_seconds_of_faults_yield_no_stale_read(tmp_path: Path, mode: Mode) -> None:
    if not find_binaries():
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    seed = int(os.environ.get(SEED_VARIABLE, SEEDS[mode]))
    outcome = await run(RunSettings(seed, DURATION_S, tmp_path, mode=mode, reads_per_s=READS_PER_S))
    text = report(outcome)
    assert outcome.is_clean, text
    assert outcome.faults.total() >= 8, text
    assert len(outcome.faults) >= 8, text
    assert outcome.writes > 100, text
    assert set(outcome.verdicts) == {"by row", "by table"}
    for verdict in outcome.verdicts.values():
        assert verdict.hits > 1_000, text
        assert verdict.reads - verdict.hits > 100, text  # the function ran again: entries had been dropped
        assert verdict.barriers > 10, text
        assert verdict.final_reads > 100, text
