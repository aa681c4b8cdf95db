"""The watchdog bites when nothing comes, and not when what came only waits for its turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from pgcachewatch_daemon.io.postgres.watchdog import Watchdog
from tests.client.virtual_time import virtual_time

LIMIT_S = 3.0


@dataclass
class Answers:
    heard: int = 0
    since_s: float = 0.0
    bites: list[float] = field(default_factory=list)

    def waiting_since_s(self) -> float:
        return self.since_s

    def overdue(self) -> None:
        self.bites.append(asyncio.get_running_loop().time())


def watching(answers: Answers) -> Watchdog:
    watchdog = Watchdog(answers, limit_s=LIMIT_S, clock=asyncio.get_running_loop().time)
    watchdog.start()
    return watchdog


@virtual_time
async def test_an_answer_that_never_comes_is_overdue_a_little_behind_its_limit() -> None:
    loop = asyncio.get_running_loop()
    answers = Answers(since_s=loop.time())
    watching(answers)
    asked_s = loop.time()
    await asyncio.sleep(60)
    (bitten_s,) = answers.bites
    assert LIMIT_S < bitten_s - asked_s <= LIMIT_S * 1.5


@virtual_time
async def test_answers_that_come_keep_it_quiet_and_asleep() -> None:
    loop = asyncio.get_running_loop()
    answers = Answers()
    watchdog = watching(answers)
    for _ in range(100):
        answers.since_s = loop.time()
        await asyncio.sleep(LIMIT_S * 0.9)
        answers.since_s = 0.0
        answers.heard += 1
    watchdog.stop()
    assert answers.bites == []


@virtual_time
async def test_what_is_read_meanwhile_gives_a_late_answer_its_time() -> None:
    loop = asyncio.get_running_loop()
    answers = Answers(since_s=loop.time())
    watchdog = watching(answers)
    for _ in range(100):  # a burst that takes ten times the limit to read
        answers.heard += 1
        await asyncio.sleep(LIMIT_S / 10)
    assert answers.bites == []
    watchdog.stop()


@virtual_time
async def test_a_moment_in_which_the_process_did_not_run_is_no_reason() -> None:
    loop = asyncio.get_running_loop()
    answers = Answers(since_s=loop.time())
    watchdog = watching(answers)
    await asyncio.sleep(0)
    loop.block(100.0)  # type: ignore[attr-defined]  # of the virtual loop
    await asyncio.sleep(0.001)
    answers.since_s = 0.0  # it was there all the time, and is read now
    await asyncio.sleep(60)
    watchdog.stop()
    assert answers.bites == []


@virtual_time
async def test_a_stopped_one_bites_nobody() -> None:
    loop = asyncio.get_running_loop()
    answers = Answers(since_s=loop.time())
    watching(answers).stop()
    await asyncio.sleep(60)
    assert answers.bites == []
