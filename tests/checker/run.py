"""One run of the stale-read checker, from an empty folder to an Outcome.

    writers and readers start -> faults for `duration_s` -> faults and writers stop -> quiet -> readers stop -> judge

Quiet begins when the last writer has ended and the relay says that it is ready; one staleness bound later every hit
must equal the database, and the readers go on for QUIET_READS_S to show that.
"""

from __future__ import annotations

import asyncio
import time

from tests.checker.faults import schedule
from tests.checker.history import FinalState
from tests.checker.inflict import Inflictor
from tests.checker.outcome import Outcome, judge
from tests.checker.plan import RunSettings
from tests.checker.processes import Child, ChildFailed
from tests.checker.stage import Stage

WARM_UP_S = 1.0
QUIET_READS_S = 2.0


async def run(settings: RunSettings) -> Outcome:
    """Run it, and leave the records in `settings.directory`. Raises ChildFailed when a process does not start."""
    failures: list[str] = []
    async with Stage(settings) as stage:
        await stage.start_writers()
        await stage.start_readers()
        await asyncio.sleep(WARM_UP_S)
        inflictor = Inflictor(stage, settings.seed)
        await inflictor.play(schedule(settings.seed, duration_s=settings.duration_s, readers=len(stage.readers)))
        for writer in stage.writers:
            await _stop(writer, failures)
        await asyncio.to_thread(stage.relay.wait_ready)
        quiet_since_s = time.monotonic()
        await asyncio.sleep(settings.staleness_s + QUIET_READS_S)
        for reader in stage.readers:
            await _stop(reader.child, failures)
        final = FinalState(quiet_since_s, await stage.versions())
        groups = {reader.task.name: reader.group for reader in stage.readers}
        relay_exits = stage.relay_exits
    outcome = judge(settings, groups, final, inflictor.happened, did_not_happen=inflictor.did_not_happen)
    outcome.relay_exits = relay_exits
    outcome.failures += failures
    return outcome


async def _stop(child: Child, failures: list[str]) -> None:
    try:
        await child.stop()
    except ChildFailed as failure:
        failures.append(str(failure))
