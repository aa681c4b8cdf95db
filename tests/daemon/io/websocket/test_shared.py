"""Turns: long work that comes in crowds leaves room for everybody else."""

from __future__ import annotations

import asyncio
import time

from pgcachewatch_daemon.io.websocket.shared import TURN_S, Turns
from tests.waiting import eventually


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_work_is_done_in_its_order_and_not_by_who_brings_it() -> None:
    done: list[int] = []
    turns = Turns(Clock(), rest=1.0)
    for number in range(3):
        turns.take(lambda number=number: done.append(number))  # type: ignore[misc]  # a default binds it
    assert done == []
    await asyncio.sleep(0)
    assert done == [0, 1, 2]


async def test_others_have_their_turn_between_two_slices() -> None:
    clock, order = Clock(), [""]
    turns = Turns(clock, rest=0.0)

    def work() -> None:
        order.append("work")
        clock.now_s += TURN_S / 2

    for _ in range(4):
        turns.take(work)
    asyncio.get_running_loop().call_soon(order.append, "other")
    for _ in range(3):
        await asyncio.sleep(0)
    assert order[1:] == ["work", "work", "other", "work", "work"]


async def test_a_crowd_has_half_of_the_time_however_dear_each_piece_is() -> None:
    clock, began_s, spent_s = time.monotonic, [0.0], [0.0]
    turns = Turns(clock, rest=1.0)

    def work() -> None:
        began_s.append(clock())
        while clock() - began_s[-1] < 2 * TURN_S:
            pass
        spent_s.append(clock() - began_s[-1])

    for _ in range(3):
        turns.take(work)
    await eventually(lambda: len(spent_s) == 4)
    turns.take(work)  # nothing waits, and the last was a moment ago
    await eventually(lambda: len(spent_s) == 5)
    for number in range(2, 5):
        assert began_s[number] - began_s[number - 1] > 1.8 * spent_s[number - 1]  # timers have milliseconds


async def test_work_that_brings_more_work_has_it_done_too() -> None:
    done: list[str] = []
    turns = Turns(Clock(), rest=1.0)
    turns.take(lambda: turns.take(lambda: done.append("more")))
    for _ in range(2):
        await asyncio.sleep(0)
    assert done == ["more"]


async def test_work_that_fails_does_not_keep_others_from_their_turn() -> None:
    told: list[BaseException] = []
    done: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
    turns = Turns(Clock(), rest=1.0)

    def fail() -> None:
        raise RuntimeError("planted")

    turns.take(fail)
    turns.take(lambda: done.append("next"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert done == ["next"]
    assert [str(error) for error in told] == ["planted"]
