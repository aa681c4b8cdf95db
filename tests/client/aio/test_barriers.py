"""Barriers under way: their limit, their answers, and their ends."""

from __future__ import annotations

import asyncio

import pytest

from pgcachewatch.aio.barriers import RETRY_AFTER_S, SENT_LIMIT, Barriers
from pgcachewatch.errors import BarrierTimeout, Closed, ConnectionFailed
from pgcachewatch.protocol.client_session import Rejected
from tests.client.virtual_time import virtual_time


class Wire:
    """What was sent; `is_open` says whether there is a connection."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.tokens: list[str] = []
        self.is_open = True

    def send(self, identity: int, token: str | None) -> bool:
        if self.is_open:
            self.sent.append(identity)
            self.tokens += [token] if token is not None else []
        return self.is_open


def make() -> tuple[Barriers, Wire]:
    wire = Wire()
    return Barriers(wire.send, lambda: "barrierok"), wire


async def started(barriers: Barriers, count: int = 1) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(barriers.wait(timeout_s=60)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


@virtual_time
async def test_a_barrier_ends_with_its_own_answer() -> None:
    barriers, wire = make()
    one, other = await started(barriers, 2)
    barriers.passed(wire.sent[1])
    await other
    assert not one.done()
    barriers.passed(wire.sent[0])
    await one


@virtual_time
async def test_barriers_over_the_limit_share_one_request_that_is_sent_later() -> None:
    barriers, wire = make()
    tasks = await started(barriers, SENT_LIMIT + 5)
    assert len(wire.sent) == SENT_LIMIT
    barriers.passed(wire.sent[0])
    assert len(wire.sent) == SENT_LIMIT + 1
    barriers.passed(wire.sent[-1])
    await asyncio.gather(tasks[0], *tasks[SENT_LIMIT:])
    assert not tasks[1].done()
    for identity in wire.sent:
        barriers.passed(identity)
    await asyncio.gather(*tasks)


@virtual_time
async def test_an_answer_to_an_older_request_does_not_end_a_barrier_that_waits_for_room() -> None:
    barriers, wire = make()
    tasks = await started(barriers, SENT_LIMIT + 1)
    for identity in list(wire.sent):
        barriers.passed(identity)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [task.done() for task in tasks] == [True] * SENT_LIMIT + [False]
    barriers.passed(wire.sent[-1])
    await tasks[-1]


@virtual_time
async def test_barriers_wait_for_a_connection_and_are_sent_anew_on_the_next() -> None:
    barriers, wire = make()
    wire.is_open = False
    early = await started(barriers, 3)
    assert wire.sent == []
    wire.is_open = True
    barriers.connected()
    late = await started(barriers)
    assert len(wire.sent) == 2  # the three share one
    before = list(wire.sent)
    barriers.connected()  # the link was lost and is back
    for identity in before:
        barriers.passed(identity)
    await asyncio.sleep(0)
    assert not any(task.done() for task in early + late)
    barriers.passed(wire.sent[-1])
    await asyncio.gather(*early, *late)


@virtual_time
async def test_a_caller_that_gives_up_harms_nobody_who_shares_its_request() -> None:
    barriers, wire = make()
    wire.is_open = False
    impatient, patient = await started(barriers, 2)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    wire.is_open = True
    barriers.connected()
    barriers.passed(wire.sent[-1])
    await patient


@virtual_time
async def test_a_barrier_refused_for_now_is_sent_again() -> None:
    barriers, wire = make()
    (task,) = await started(barriers)
    assert barriers.rejected(Rejected(wire.sent[0], "busy", "later", may_retry=True, after_ms=None))
    assert len(wire.sent) == 1
    await asyncio.sleep(RETRY_AFTER_S * 1.1)
    barriers.passed(wire.sent[1])
    await task


@virtual_time
async def test_a_barrier_refused_for_good_raises() -> None:
    barriers, wire = make()
    (task,) = await started(barriers)
    barriers.rejected(Rejected(wire.sent[0], "forbidden", "no", may_retry=False, after_ms=None))
    with pytest.raises(ConnectionFailed, match="forbidden"):
        await task


@virtual_time
async def test_a_refusal_of_something_else_is_not_a_barriers() -> None:
    barriers, _ = make()
    await started(barriers)
    assert not barriers.rejected(Rejected(3, "forbidden", "no", may_retry=False, after_ms=None))
    assert not barriers.rejected(Rejected(None, "forbidden", "no", may_retry=False, after_ms=None))
    barriers.fail(Closed("over"))


@virtual_time
async def test_all_that_wait_hear_of_the_end() -> None:
    barriers, _ = make()
    tasks = await started(barriers, SENT_LIMIT + 2)
    barriers.fail(Closed("over"))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Closed}


@virtual_time
async def test_running_out_of_time_raises_a_timeout_error() -> None:
    barriers, _ = make()
    with pytest.raises(TimeoutError) as caught:
        await barriers.wait(timeout_s=0.1)
    assert isinstance(caught.value, BarrierTimeout)
    assert caught.value.missing == "barrierok"


async def on_token(barriers: Barriers, token: str) -> asyncio.Task[None]:
    task = asyncio.create_task(barriers.wait_for_token(token, timeout_s=60))
    await asyncio.sleep(0)
    return task


@virtual_time
async def test_a_barrier_on_a_token_ends_with_its_own_answer_and_is_shared_with_nobody() -> None:
    barriers, wire = make()
    one, other = await on_token(barriers, "a"), await on_token(barriers, "b")

    barriers.passed(wire.sent[1])
    await other

    assert wire.tokens == ["a", "b"]
    assert not one.done()
    barriers.passed(wire.sent[0])
    await one


@virtual_time
@pytest.mark.rule("W-BARRIER-2")
async def test_a_lost_token_is_made_up_for_by_a_barrier_without_it() -> None:
    barriers, wire = make()
    task = await on_token(barriers, "a")

    assert barriers.rejected(Rejected(wire.sent[0], "token_lost", "lost", may_retry=False, after_ms=None))
    await asyncio.sleep(0)

    assert not task.done()
    assert len(wire.sent) == 2
    assert wire.tokens == ["a"]
    barriers.passed(wire.sent[1])
    await task


@virtual_time
async def test_a_token_is_asked_for_again_on_a_connection_that_resumed_and_given_up_on_one_that_did_not() -> None:
    barriers, wire = make()
    task = await on_token(barriers, "a")

    barriers.connected(is_resumed=True)
    assert wire.tokens == ["a", "a"]
    barriers.connected(is_resumed=False)
    await asyncio.sleep(0)

    assert wire.tokens == ["a", "a"]
    barriers.passed(wire.sent[-1])
    await task


@virtual_time
async def test_a_token_that_is_refused_for_now_is_asked_for_again_and_one_refused_for_good_fails() -> None:
    barriers, wire = make()
    task = await on_token(barriers, "a")
    barriers.rejected(Rejected(wire.sent[0], "too_many_barriers", "wait", may_retry=True, after_ms=50))
    await asyncio.sleep(1)
    assert wire.tokens == ["a", "a"]

    barriers.rejected(Rejected(wire.sent[1], "forbidden", "no", may_retry=False, after_ms=None))

    with pytest.raises(ConnectionFailed, match="forbidden"):
        await task


@virtual_time
async def test_a_token_nobody_answers_times_out_and_one_of_an_ended_client_fails() -> None:
    barriers, wire = make()
    with pytest.raises(BarrierTimeout):
        await barriers.wait_for_token("a", timeout_s=1)
    barriers.passed(wire.sent[0])  # late, and nobody's any more
    task = await on_token(barriers, "b")

    barriers.fail(Closed("closed"))

    with pytest.raises(Closed):
        await task
    with pytest.raises(Closed):
        await barriers.wait_for_token("c", timeout_s=1)
