"""A soak itself, for some seconds: real PostgreSQL, one relay, crowds and faults.

The published run is the same for an hour: `make soak`. Of memory this says nothing; that everybody is served, hears the
last of everything and leaves nothing behind is the same.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from pgcachewatch_daemon.embedded import find_binaries
from tests.checker.faults import KINDS
from tests.checker.inflict import Inflictor
from tests.soak import plot
from tests.soak.plan import SOAK_KINDS, SoakSettings
from tests.soak.run import faults_of, soak
from tests.soak.samples import sums
from tests.soak.stage import Stage

DURATION_S = 4.0


@pytest.mark.slow
async def test_a_taste_of_a_soak_is_clean(tmp_path: Path) -> None:
    if not find_binaries():
        pytest.skip("no PostgreSQL server binaries on this machine to run a private server from")
    settings = SoakSettings(
        seed=180,
        duration_s=DURATION_S,
        directory=tmp_path,
        fault_every_s=0.8,
        readers_per_mode=3,
        caches=2,
        strangers_per_s=10.0,
        burst_every_s=1.0,
        sample_every_s=0.25,
        scrape_every_s=1.0,
    )
    outcome = await soak(settings)

    figures = outcome.figures()
    text = f"{outcome.log}\n{figures}"
    assert outcome.broken == [], text
    assert outcome.happened, text
    assert figures["heard"] > 100, text
    assert figures["calls"]["by row"] > 10, text
    assert figures["clients"]["most"] >= 20, text
    assert len(figures["strangers"]) >= 3, text
    assert figures["jobs"] > 0, text
    assert (tmp_path / "samples.jsonl").read_text().count("\n") == len(outcome.sampler.samples)
    assert "faults" in plot.text(outcome.picture())


@pytest.mark.parametrize("seed", range(1, 6))
def test_an_hour_holds_every_kind_of_fault_twice_over_and_none_that_ends_the_relay(seed: int) -> None:
    settings = SoakSettings(seed, 3600.0, Path())
    plan = faults_of(settings, readers=3)
    warm_up = [fault for fault in plan if fault.at_s < settings.warm_up_s]
    measured = [fault for fault in plan if fault.at_s >= settings.warm_up_s]

    for part in (warm_up, measured):
        assert {fault.kind for fault in part} == {kind.name for kind in SOAK_KINDS}
        assert len(part) > 90
    assert not {fault.kind for fault in plan} & {"relay_killed", "relay_restarted"}
    assert max(later.at_s - earlier.at_s for earlier, later in pairwise(plan)) <= 40.0


def test_every_kind_can_be_inflicted() -> None:
    inflictor = Inflictor(Stage(SoakSettings(1, 1.0, Path())), seed=1)

    assert inflictor.kinds == {kind.name for kind in (*KINDS, *SOAK_KINDS)}


def test_a_metric_is_summed_over_its_labels_without_its_buckets() -> None:
    exposition = (
        "# HELP pgcachewatch_refusals_total Requests\n"
        'pgcachewatch_refusals_total{status="404"} 2.0\n'
        'pgcachewatch_refusals_total{status="503"} 3.0\n'
        'pgcachewatch_barrier_seconds_bucket{le="0.1"} 9.0\n'
        "pgcachewatch_barrier_seconds_count 4.0\n"
        "python_info 1.0\n"
    )

    assert sums(exposition) == {"refusals_total": 5.0, "barrier_seconds_count": 4.0}
