"""Conditions that a soak waits for, before anybody writes and when nobody does any more.

Is everybody there? Has everybody heard the last of everything, and has the relay let go of who left? The reports that
they read are a second old at most.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.soak.crowd import Report
from tests.soak.samples import Sample, Sampler
from tests.soak.stage import LINKED, Stage
from tests.soak.tape import outside

# What a relay opens at the first need and then keeps, as the session of the durable consumers.
FILES_KEPT = 4


async def is_all_there(stage: Stage) -> bool:
    """Readers are connected; the durable consumer exists, so that the first job is in it."""
    return all(stage.report(name).get("is_there") for name in LINKED)


async def is_all_heard(stage: Stage, versions: dict[int, int]) -> bool:
    return not what_is_missing(stage, versions)


def what_is_missing(stage: Stage, versions: dict[int, int]) -> list[str]:
    """One sentence for each thing that did not arrive, or is not yet reported."""
    written = stage.report("tapes")
    reports = {name: stage.report(name) for name in LINKED}
    return [
        *_behind(reports, last_numbers(written)),
        *_scattered(reports),
        *_outdated(reports["caches"], versions),
        *_jobs_undone(reports["caches"], written),
    ]


def last_numbers(written: Report) -> list[int]:
    """Of each tape, the last one that was committed beyond doubt."""
    return [
        max(set(range(last - 5_000, last + 1)) - set(_numbers(doubts)), default=0)
        for last, doubts in zip(written["last"], written["in_doubt"], strict=True)
    ]


def _numbers(spans: list[tuple[int, int]]) -> Iterator[int]:
    for first, last in spans:
        yield from range(first, last + 1)


def _behind(reports: dict[str, Report], last: list[int]) -> Iterator[str]:
    for name in LINKED:
        for reader in reports[name].get("readers", ()):
            heard = reader["heard"]["last"]
            # Who was told of a gap after the last event knows as much: what it had is flushed.
            if heard < last[reader["tape"]] and not reader["heard"]["knows_a_gap"]:
                yield f"{name}: a {reader['mode']} reader of tape {reader['tape']} stands at {heard} of {last}"


def _scattered(reports: dict[str, Report]) -> Iterator[str]:
    positions = {tuple(each) for name in LINKED for each in reports[name].get("positions", ())}
    if len(positions) != 1:
        yield f"readers stand at {len(positions)} positions, and should at one: {sorted(positions)[:5]}"


def _outdated(caches: Report, versions: dict[int, int]) -> Iterator[str]:
    wanted = {str(key): version for key, version in versions.items()}
    for number, seen in enumerate(caches["versions"]):
        if seen != wanted:
            yield f"cache {number} served {seen}, the database has {wanted}"


def _jobs_undone(caches: Report, written: Report) -> Iterator[str]:
    undone = outside(written["jobs"], caches["jobs"])
    if undone and not caches["job_gaps"]:
        yield f"{len(undone)} jobs were given to nobody: {undone[:10]}"


async def is_all_left(sampler: Sampler, baseline: Sample) -> bool:
    """The relay has as many files open as before its first client, but for those it keeps."""
    return (await sampler.look()).files <= baseline.files + FILES_KEPT
