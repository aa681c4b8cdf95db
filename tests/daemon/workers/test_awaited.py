"""Everybody who waits for the primary is answered once, whatever it says."""

from __future__ import annotations

import asyncio

import pytest

from pgcachewatch_daemon.io.http import Answer
from pgcachewatch_daemon.workers import awaited
from pgcachewatch_daemon.workers.awaited import Awaited

SAID = Answer(200, {}, b"said")


async def test_the_primary_is_asked_once_and_its_answer_is_for_all_who_wait() -> None:
    asked: list[None] = []
    waiting = Awaited(lambda: asked.append(None))
    answers: list[Answer] = []
    waiting.wait(answers.append)
    waiting.wait(answers.append)
    waiting.told(SAID)
    assert (len(asked), answers) == (1, [SAID, SAID])
    waiting.wait(answers.append)
    assert len(asked) == 2
    waiting.told(SAID)


async def test_a_primary_that_says_nothing_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(awaited, "WITHIN_S", 0.0)
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    Awaited(lambda: None).wait(answer.set_result)
    assert (await answer).status == 503


async def test_an_answer_that_nobody_waits_for_is_harmless() -> None:
    Awaited(lambda: None).told(SAID)
