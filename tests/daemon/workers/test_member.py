"""The primary's side of one worker: a process that is surely gone in the end."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from pgcachewatch_daemon.workers import member
from pgcachewatch_daemon.workers.member import Member
from pgcachewatch_daemon.workers.messages import Drain, Hello, Message
from tests.waiting import eventually


class Stage:
    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.member = Member(1, self._received)
        self.running = asyncio.create_task(self.member.run(()))

    def _received(self, who: Member, messages: list[Message]) -> None:
        assert who is self.member
        self.heard += messages

    async def until_it_said_hello(self) -> None:
        await eventually(lambda: self.heard == [Hello()])


async def test_a_process_is_started_that_says_hello_and_ends_when_it_is_told_to() -> None:
    stage = Stage()
    await stage.until_it_said_hello()
    stage.member.say(Drain())
    assert await stage.running == 0.0, "it never served"
    assert stage.member.exit_code == 0


async def test_one_that_was_killed_is_noticed() -> None:
    stage = Stage()
    await stage.until_it_said_hello()
    os.kill(stage.member.pid, signal.SIGKILL)
    await stage.running
    assert stage.member.exit_code == -signal.SIGKILL
    stage.member.kill()
    stage.member.say(Drain())


async def test_one_that_does_not_end_after_its_link_did_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "EXIT_S", 0.01)
    stage = Stage()
    await stage.until_it_said_hello()
    os.kill(stage.member.pid, signal.SIGSTOP)
    assert stage.member._link is not None
    stage.member._link.cut()
    await stage.running
    assert stage.member.exit_code == -signal.SIGKILL


async def test_when_its_task_is_cancelled_the_process_is_gone() -> None:
    stage = Stage()
    await stage.until_it_said_hello()
    stage.running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stage.running
    assert stage.member.exit_code == -signal.SIGKILL


async def test_nothing_stays_open_of_one_that_can_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(*_: object, **__: object) -> None:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_room)
    stage = Stage()
    with pytest.raises(OSError, match="no more processes"):
        await stage.running
    assert stage.member.exit_code is None


async def test_one_that_can_not_run_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(member, "MODULE", "pgcachewatch_daemon.there_is_none")
    stage = Stage()
    assert await stage.running == 0.0
    assert stage.member.exit_code == 1
    assert stage.heard == []
