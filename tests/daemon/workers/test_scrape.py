"""A scrape waits for the workers, for a bounded time, and adds up what they say; nothing counted is lost with one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import pytest

from pgcachewatch_daemon.io.metrics import METRICS, Reading
from pgcachewatch_daemon.sights import Sights, TableSight
from pgcachewatch_daemon.workers import scrape
from pgcachewatch_daemon.workers.messages import Ask, Message
from pgcachewatch_daemon.workers.scrape import Scrapes
from tests.waiting import eventually


class Worker:
    def __init__(self) -> None:
        self.readings: Mapping[str, Reading] = {}
        self.sights: Sights | None = None
        self.asked: list[Message] = []

    def say(self, *messages: Message) -> None:
        self.asked += messages


def own() -> dict[str, Reading]:
    return {"source_up": 1.0}


class Stage:
    def __init__(self, count: int) -> None:
        self.workers = [Worker() for _ in range(count)]
        self.scrapes = Scrapes(lambda: self.workers, own)

    def answer(self, worker: Worker, *, frames: int, clients: int, sights: Sights | None = None) -> None:
        number = next(message.number for message in reversed(worker.asked) if isinstance(message, Ask))
        readings: dict[str, Reading] = {"frames_sent": frames, "clients": {("v1",): clients}}
        self.scrapes.counted(worker, number, readings, sights)


def values(text: bytes) -> tuple[float, float | None]:
    """Frames and clients."""
    frames = re.search(rb"^pgcachewatch_frames_sent_total (\S+)$", text, re.MULTILINE)
    clients = re.search(rb'^pgcachewatch_clients{path="v1"} (\S+)$', text, re.MULTILINE)
    assert frames is not None
    return float(frames[1]), float(clients[1]) if clients else None


async def test_the_answers_of_all_are_added_up_once_the_last_has_come() -> None:
    stage = Stage(2)
    text = stage.scrapes.ask()
    stage.answer(stage.workers[0], frames=3, clients=1)
    await asyncio.sleep(0)
    assert not text.done()
    stage.answer(stage.workers[1], frames=4, clients=2)
    assert values(await text) == (7.0, 3.0)


async def test_who_asks_meanwhile_gets_the_same_round() -> None:
    stage = Stage(1)
    first, second = stage.scrapes.ask(), stage.scrapes.ask()
    assert stage.workers[0].asked == [Ask(1)]
    stage.answer(stage.workers[0], frames=1, clients=1)
    assert await first == await second
    third = stage.scrapes.ask()
    assert stage.workers[0].asked == [Ask(1), Ask(2)]
    stage.answer(stage.workers[0], frames=2, clients=1)
    assert values(await third) == (2.0, 1.0)


async def test_each_who_asks_gets_the_format_that_was_asked_for() -> None:
    stage = Stage(1)
    texts = [stage.scrapes.ask(is_openmetrics=each) for each in (False, True)]
    assert stage.workers[0].asked == [Ask(1)]
    stage.answer(stage.workers[0], frames=1, clients=1)
    assert [(await text).endswith(b"# EOF\n") for text in texts] == [False, True]
    assert [values(await text) for text in texts] == [(1.0, 1.0)] * 2


async def test_a_silent_worker_is_left_out_with_its_gauges_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(2)
    before = stage.scrapes.ask()
    for worker in stage.workers:
        stage.answer(worker, frames=5, clients=5)
    assert values(await before) == (10.0, 10.0)
    monkeypatch.setattr(scrape, "ANSWER_S", 0.01)
    text = stage.scrapes.ask()
    stage.answer(stage.workers[0], frames=6, clients=6)
    assert values(await text) == (11.0, 6.0)
    assert stage.scrapes.silences == 1


async def test_an_answer_that_comes_too_late_counts_from_the_next_round_on() -> None:
    stage = Stage(1)
    stage.scrapes.counted(stage.workers[0], 0, {"frames_sent": 9})
    text = stage.scrapes.ask()
    assert not text.done()
    stage.scrapes.counted(stage.workers[0], 0, {"frames_sent": 10})
    assert not text.done()
    stage.answer(stage.workers[0], frames=11, clients=0)
    assert values(await text) == (11.0, 0.0)


async def test_what_an_ended_worker_had_counted_stays_and_its_clients_do_not() -> None:
    stage = Stage(2)
    first = stage.scrapes.ask()
    for worker in stage.workers:
        stage.answer(worker, frames=5, clients=5)
    await first
    second = stage.scrapes.ask()
    stage.answer(stage.workers[0], frames=6, clients=1)
    ended = stage.workers.pop()
    stage.scrapes.gone(ended)
    assert values(await second) == (11.0, 1.0)
    stage.scrapes.gone(Worker())  # one that never served
    third = stage.scrapes.ask()
    stage.answer(stage.workers[0], frames=7, clients=1)
    assert values(await third) == (12.0, 1.0)


async def test_without_workers_there_is_what_the_primary_knows() -> None:
    stage = Stage(0)
    text = await stage.scrapes.ask()
    assert values(text) == (0.0, None)
    assert b"pgcachewatch_source_up 1.0" in text
    assert all(f"# TYPE {row.full_name} ".encode() in text for row in METRICS)


async def test_whoever_waits_at_the_end_is_answered_no_more() -> None:
    stage = Stage(1)
    text = stage.scrapes.ask()
    stage.scrapes.close()
    assert text.cancelled()


TABLE = TableSight("public", "users", "update", 1.0, 3, 2)


async def test_a_look_asks_all_for_clients_and_one_for_tables() -> None:
    stage = Stage(2)
    look = asyncio.create_task(stage.scrapes.look())
    await asyncio.sleep(0)
    assert [worker.asked for worker in stage.workers] == [[Ask(1, True, True)], [Ask(1, True, False)]]
    stage.answer(stage.workers[0], frames=1, clients=1, sights=Sights(tables=(TABLE,), tables_total=1))
    stage.answer(stage.workers[1], frames=2, clients=1, sights=Sights())
    assert await look == Sights(tables=(TABLE,), tables_total=1)
    assert stage.scrapes.sum["frames_sent"] == 3


async def test_a_look_is_a_round_of_its_own_behind_the_scrape_under_way() -> None:
    stage = Stage(1)
    (worker,) = stage.workers
    text = stage.scrapes.ask()
    look = asyncio.create_task(stage.scrapes.look())
    await asyncio.sleep(0)
    assert worker.asked == [Ask(1)]
    stage.answer(worker, frames=1, clients=1)
    await text
    await eventually(lambda: len(worker.asked) == 2)
    assert worker.asked[1] == Ask(2, True, True)
    stage.answer(worker, frames=1, clients=1, sights=Sights())
    assert await look == Sights()
    await asyncio.sleep(0)
    stage.scrapes.ask()
    assert worker.asked[2] == Ask(3)
    stage.scrapes.close()
