"""One soak, from an empty folder to an Outcome.

    relay starts -> baseline -> crowds and writers start -> faults for `duration_s` -> writers stop -> quiet: everybody
    hears the last of everything -> crowds stop -> the relay is as it was before -> judge

What should come true in the quiet is waited for; what does not within QUIET_WITHIN_S is in the outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace

from tests.checker.faults import Fault, schedule
from tests.checker.inflict import Inflictor
from tests.checker.processes import Child, ChildFailed
from tests.soak.outcome import Outcome
from tests.soak.plan import SOAK_KINDS, SoakSettings
from tests.soak.quiet import is_all_heard, is_all_left, is_all_there, what_is_missing
from tests.soak.samples import Sampler
from tests.soak.stage import LINKED, Stage

QUIET_WITHIN_S = 90.0
LOOK_EVERY_S = 0.25
SPREAD = (0.7, 1.3)  # of the time between two faults
# An allocator keeps what its worst moment needed. The worst moments are to come before the measurement begins.
WARM_UP_DENSITY = 6


async def soak(settings: SoakSettings) -> Outcome:
    """Run it, and leave the samples in `settings.directory`. Raises ChildFailed when a process does not start."""
    failures: list[str] = []
    async with Stage(settings) as stage:
        sampler = Sampler(
            pid=stage.relay.pid,
            port=stage.relay.port,
            sample_every_s=settings.sample_every_s,
            scrape_every_s=settings.scrape_every_s,
            file=settings.directory / "samples.jsonl",
        )
        baseline = await sampler.look()
        sampling = asyncio.create_task(sampler.run())
        try:
            await stage.start_crowds()
            if not await _comes_true(lambda: is_all_there(stage)):
                failures.append("not everybody came: see the reports")
            await stage.start_writers()
            inflictor = Inflictor(stage, settings.seed)
            faults = inflictor.play(faults_of(settings, len(stage.readers)))
            await asyncio.gather(faults, asyncio.sleep(settings.duration_s))
            await _stop_all(stage.writers, failures)
            await asyncio.to_thread(stage.relay.wait_ready)
            versions = await stage.versions()
            if not await _comes_true(lambda: is_all_heard(stage, versions)):
                failures += what_is_missing(stage, versions)
            await _stop_all([*stage.strangers, *(crowd.child for crowd in stage.readers)], failures)
            if not await _comes_true(lambda: is_all_left(sampler, baseline)):
                failures.append(f"the relay did not let go of its clients: {await sampler.look()}, was {baseline}")
            end = await sampler.look()
        finally:
            sampling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sampling
        names = [*LINKED, "strangers", "tapes"]
        reports = {name: stage.report(name) for name in names}
        log = stage.relay.log()
    outcome = Outcome(settings, sampler, inflictor.happened, reports, log, baseline, end, failures)
    (settings.directory / "relay.log").write_text(log)
    return outcome


def faults_of(settings: SoakSettings, readers: int) -> list[Fault]:
    """The plan: dense while warming up, then as asked."""
    warm_up_s, every_s = settings.warm_up_s, settings.fault_every_s
    dense = _faults(settings.seed + 1, warm_up_s, readers, every_s / WARM_UP_DENSITY)
    calm = _faults(settings.seed, settings.duration_s - warm_up_s, readers, every_s)
    return [*dense, *(replace(fault, at_s=fault.at_s + warm_up_s) for fault in calm)]


def _faults(seed: int, duration_s: float, readers: int, every_s: float) -> list[Fault]:
    low, high = (every_s * share for share in SPREAD)
    return schedule(seed, duration_s=duration_s, readers=readers, kinds=SOAK_KINDS, apart_s=(low, high))


async def _stop_all(children: list[Child], failures: list[str]) -> None:
    for child in children:
        try:
            await child.stop()
        except ChildFailed as failure:
            failures.append(str(failure))


async def _comes_true(holds: Callable[[], Awaitable[bool]]) -> bool:
    try:
        async with asyncio.timeout(QUIET_WITHIN_S):
            while not await holds():  # noqa: ASYNC110  # other processes announce nothing
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        return False
    return True
