"""The stale-read checker itself, for half a minute: real PostgreSQL, real relay, several processes, real faults.

The published run is the same with more time: `make checker DURATION=600`. Besides the verdict this asserts that the run
was one: that faults of many kinds happened, that the cache was hit, invalidated and lost, and that barriers passed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded import find_binaries
from tests.checker.outcome import report
from tests.checker.plan import MODES, Mode, RunSettings
from tests.checker.run import run

DURATION_S = 30.0
SEED_VARIABLE = "PGCW_CHECKER_SEED"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", MODES)
async def test_half_a_minute_of_faults_yields_no_stale_read(tmp_path: Path, mode: Mode) -> None:
    if not find_binaries():
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    seed = int(os.environ.get(SEED_VARIABLE, "1"))
    # Other tests run beside this one and want their share of the machine.
    outcome = await run(RunSettings(seed, DURATION_S, tmp_path, mode=mode, reads_per_s=2_000.0))
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
