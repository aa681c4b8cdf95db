"""Workers are started, looked after and replaced; a relay whose workers do not stay up has failed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import pytest

from pgcachewatch_daemon.io.metrics import Reading
from pgcachewatch_daemon.workers import restarts, staff
from pgcachewatch_daemon.workers.messages import Ask, Drain, Message, State
from pgcachewatch_daemon.workers.staff import Staff, WorkersFailed
from tests.waiting import eventually


class Pretended:
    """A member without a process. It ends when it is killed or told to."""

    made: list[Pretended]

    def __init__(self, number: int, received: object) -> None:
        self.number = number
        self.pid = 1_000 + len(self.made)
        self.state = State(is_busy=False, has_stamps=False)
        self.readings: Mapping[str, Reading] = {}
        self.is_following = False
        self.started_s = self.heard_s = time.monotonic()
        self.serving_since_s: float | None = None
        self.exit_code: int | None = None
        self.said: list[Message] = []
        self.is_deaf = False
        self.ended = asyncio.Event()
        self.made.append(self)

    @property
    def is_serving(self) -> bool:
        return self.serving_since_s is not None and not self.ended.is_set()

    def say(self, *messages: Message) -> None:
        self.said += messages
        if Drain() in messages and not self.is_deaf:
            self.ended.set()

    def kill(self) -> None:
        self.ended.set()

    async def run(self, sockets: Sequence[int]) -> float:
        await self.ended.wait()
        self.exit_code = 0
        return 0.0 if self.serving_since_s is None else time.monotonic() - self.serving_since_s


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[Pretended]:
    """The members in the order they were made."""
    Pretended.made = []
    monkeypatch.setattr(staff, "Member", Pretended)
    monkeypatch.setattr(restarts, "PAUSE_S", 0.001)
    return Pretended.made


class Stage:
    def __init__(self, size: int = 2) -> None:
        self.gone: list[object] = []
        self.staff = Staff(size, received=lambda member, messages: None, gone=self.gone.append)

    def serve(self, *members: Pretended) -> None:
        for each in members:
            each.is_following = True
            self.staff.began_to_serve(each)  # type: ignore[arg-type]


async def started(size: int = 2) -> tuple[Stage, list[Pretended]]:
    stage = Stage(size)
    starting = asyncio.create_task(stage.staff.start())
    await eventually(lambda: len(Pretended.made) == size)
    stage.serve(*Pretended.made)
    await starting
    return stage, Pretended.made


async def test_it_has_started_when_all_serve(made: list[Pretended]) -> None:
    stage = Stage()
    starting = asyncio.create_task(stage.staff.start())
    await eventually(lambda: len(made) == 2)
    assert [each.number for each in made] == [1, 2]
    stage.serve(made[0])
    await asyncio.sleep(0)
    assert not starting.done()
    stage.serve(made[1])
    await starting
    assert len(stage.staff.serving) == len(stage.staff.following) == 2
    await stage.staff.close()


async def test_one_that_ends_is_replaced_at_its_place(made: list[Pretended]) -> None:
    stage, _ = await started()
    made[0].kill()
    await eventually(lambda: len(made) == 3)
    assert (made[2].number, stage.staff.restarts) == (1, 1)
    assert stage.gone == [made[0]]
    assert [each.pid for each in stage.staff.serving] == [made[1].pid], "the new one does not serve yet"
    await stage.staff.close()


async def test_one_that_never_stays_fails_the_relay(made: list[Pretended]) -> None:
    stage = Stage(1)
    starting = asyncio.create_task(stage.staff.start())
    for number in range(restarts.TRIES):
        await eventually(lambda: len(made) > number)  # noqa: B023  # of this turn
        made[number].kill()
    with pytest.raises(WorkersFailed, match="worker 1 ended"):
        await starting
    assert stage.staff.failed.is_set()
    assert len(made) == restarts.TRIES
    await stage.staff.close()


async def test_a_silent_one_is_killed_and_those_that_answer_are_not(
    made: list[Pretended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staff, "WATCH_S", 0.01)
    stage, _ = await started()
    made[0].heard_s -= staff.SILENCE_S + 1.0
    await eventually(lambda: len(made) == 3)
    assert made[0].ended.is_set()
    assert not made[1].ended.is_set()
    assert Ask(0) in made[1].said
    await stage.staff.close()


async def test_one_that_does_not_begin_to_serve_is_killed(
    made: list[Pretended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staff, "WATCH_S", 0.01)
    stage = Stage(1)
    starting = asyncio.create_task(stage.staff.start())
    await eventually(lambda: len(made) == 1)
    made[0].started_s -= staff.START_S + 1.0
    await eventually(lambda: len(made) == 2)
    stage.serve(made[1])
    await starting
    await stage.staff.close()


async def test_a_drain_tells_all_and_replaces_none(made: list[Pretended]) -> None:
    stage, _ = await started()
    await stage.staff.drain(60.0)
    assert all(Drain() in each.said for each in made)
    assert len(made) == 2
    assert stage.staff.restarts == 0


async def test_a_drain_ends_with_its_time_and_with_those_who_do_not_hear(made: list[Pretended]) -> None:
    stage, _ = await started()
    made[0].is_deaf = True
    await stage.staff.drain(0.01)
    assert stage.staff.serving == []
    assert set(map(id, stage.gone)) == set(map(id, made))


async def test_a_drain_waits_for_no_replacement(made: list[Pretended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restarts, "PAUSE_S", 3600.0)
    monkeypatch.setattr(restarts, "PAUSE_MAX_S", 3600.0)
    stage, _ = await started(1)
    made[0].kill()
    await eventually(lambda: len(made) == 2)
    made[1].kill()
    await eventually(lambda: len(stage.gone) == 2)
    await stage.staff.drain(60.0)
    assert len(made) == 2


async def test_a_machine_without_room_for_a_process_counts_as_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_room(self: Pretended, sockets: Sequence[int]) -> float:
        raise OSError("no more descriptors")

    monkeypatch.setattr(Pretended, "run", no_room)
    stage = Stage(1)
    with pytest.raises(WorkersFailed):
        await stage.staff.start()
    await stage.staff.close()
