"""The original's decorator: none of the original's faults, on the original's path."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pydantic
import pytest
from fastapi import FastAPI

from pgcachewatch import decorators
from pgcachewatch.strategies import Greedy, Strategy, Timed
from tests.client.steered import LISTENERS, Steered, event, events, numbered

WITHIN_S = 30.0
LONG_AGO = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(params=LISTENERS)
def listener(request: pytest.FixtureRequest) -> Steered:
    made: Steered = request.param()
    return made


class Query:
    """A cached function whose runs end when, and as, the test says."""

    def __init__(self, strategy: Strategy) -> None:
        self.runs: list[asyncio.Future[str]] = []
        self._cached = decorators.cache(strategy=strategy)(self._run)

    async def _run(self, argument: str) -> str:
        self.runs.append(asyncio.get_running_loop().create_future())
        return await self.runs[-1]

    async def call(self, argument: str = "any") -> str:
        async with asyncio.timeout(WITHIN_S):
            return await self._cached(argument)

    async def called(self, argument: str = "any") -> asyncio.Task[str]:
        """A call that has got as far as it can."""
        task = asyncio.create_task(self.call(argument))
        for _ in range(5):
            await asyncio.sleep(0)
        return task


# --- each event reaches each cache


async def test_two_functions_on_one_listener_steal_no_event_from_each_other(listener: Steered) -> None:
    one, other = numbered(Greedy(listener)), numbered(Greedy(listener))
    assert [await one(), await other(), await one(), await other()] == [1, 1, 1, 1]

    listener.put_nowait(event())

    assert [await one(), await other(), await one(), await other()] == [2, 2, 2, 2]


async def test_two_functions_of_one_strategy_are_both_flushed(listener: Steered) -> None:
    strategy = Greedy(listener)
    one, other = numbered(strategy), numbered(strategy)
    assert [await one(), await other()] == [1, 1]

    listener.put_nowait(event())

    assert [await one(), await other(), await one(), await other()] == [2, 2, 2, 2]


async def test_a_worker_that_reads_the_listener_steals_nothing_from_a_cache(listener: Steered) -> None:
    cached = numbered(Greedy(listener))
    assert await cached() == 1
    change = event()
    listener.put_nowait(change)

    assert await listener.get() == change

    assert [await cached(), await cached()] == [2, 2]


async def test_no_event_of_a_burst_waits_unread_behind_the_others(listener: Steered) -> None:
    cached = numbered(Greedy(listener, predicate=lambda event: event.operation == "delete"))
    assert await cached() == 1

    for change in [*events("insert") * 5_000, event("delete")]:
        listener.put_nowait(change)

    assert [await cached(), await cached()] == [2, 2]


async def test_a_burst_of_events_costs_one_run(listener: Steered) -> None:
    cached = numbered(Greedy(listener))
    assert await cached() == 1
    for _ in range(1_000):
        listener.put_nowait(event())

    assert {await cached() for _ in range(1_000)} == {2}


async def test_a_queue_that_overflows_loses_no_event_for_a_cache() -> None:
    listener = LISTENERS[0](max_size=1)
    cached = numbered(Greedy(listener, predicate=lambda event: event.operation == "delete"))
    assert await cached() == 1

    for change in events("insert", "delete", "insert", "insert"):
        listener.put_nowait(change)

    assert await cached() == 2


async def test_a_call_reads_no_event(listener: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = numbered(Greedy(listener))
    monkeypatch.setattr(listener, "get_nowait", lambda: pytest.fail("a call reads the listener"))

    for _ in range(3):
        listener.put_nowait(event())
        await cached()
        await cached()

    assert listener.qsize() == 3


async def test_what_a_throttle_defers_is_dropped_when_it_falls_due_without_another_event(listener: Steered) -> None:
    cached = numbered(Timed(listener, datetime.timedelta(minutes=1)))
    assert await cached() == 1
    listener.put_nowait(event(sent_at=LONG_AGO))
    listener.time_s += 59
    assert await cached() == 1

    listener.time_s += 1

    assert [await cached(), await cached()] == [2, 2]
    # Nor does the next event drop again what was filled since.
    listener.time_s += 30
    listener.put_nowait(event(sent_at=LONG_AGO))
    assert await cached() == 2


# --- a fill and what happens while it runs


async def test_a_result_read_before_an_event_is_not_served_after_it(listener: Steered) -> None:
    query = Query(Greedy(listener))
    early = await query.called()
    listener.put_nowait(event())

    late = await query.called()
    query.runs[1].set_result("new")
    assert await late == "new"
    query.runs[0].set_result("old")
    assert await early == "old"

    # The run that came late might have read what is newer still, so there is another one.
    later = await query.called()
    query.runs[2].set_result("newest")
    assert await later == "newest"


async def test_another_readers_get_does_not_keep_the_result_of_a_fill_from_before_the_event(listener: Steered) -> None:
    query = Query(Greedy(listener))
    early = await query.called()
    listener.put_nowait(event())
    await listener.get()
    query.runs[0].set_result("old")
    assert await early == "old"

    late = await query.called()
    query.runs[1].set_result("new")

    assert await late == "new"


async def test_an_old_failing_fill_does_not_evict_a_newer_entry(listener: Steered) -> None:
    query = Query(Greedy(listener))
    early = await query.called()
    listener.put_nowait(event())
    late = await query.called()
    query.runs[1].set_result("new")
    assert await late == "new"

    query.runs[0].set_exception(LookupError("old"))
    with pytest.raises(LookupError):
        await early

    assert await query.call() == "new"


async def test_an_event_between_two_calls_keeps_them_apart(listener: Steered) -> None:
    query = Query(Greedy(listener))
    early, joined = await query.called(), await query.called()
    listener.put_nowait(event())
    late = await query.called()

    for number, run in enumerate(query.runs):
        run.set_result(str(number))

    assert [await early, await joined, await late] == ["0", "0", "1"]


async def test_a_fill_that_spans_an_outage_is_not_stored(listener: Steered) -> None:
    query = Query(Greedy(listener))
    early = await query.called()
    listener.is_healthy = False
    alone = await query.called("other")
    query.runs[1].set_result("during")
    assert await alone == "during"
    listener.is_healthy = True

    query.runs[0].set_result("before")
    assert await early == "before"
    late = await query.called()
    query.runs[2].set_result("after")

    assert await late == "after"


# --- one run for all who call meanwhile, and nobody harms another


@pytest.mark.parametrize("count", [1, 4, 64])
async def test_concurrent_calls_are_one_miss_and_otherwise_hits(listener: Steered, count: int) -> None:
    told: Counter[str] = Counter()
    cached = numbered(Greedy(listener), statistics_callback=lambda what: told.update([what]))

    assert set(await asyncio.gather(*[cached() for _ in range(count)])) == {1}
    assert (told["miss"], told["hit"]) == (1, count - 1)

    await cached()
    assert (told["miss"], told["hit"]) == (1, count)


@pytest.mark.parametrize("count", [1, 4, 64])
async def test_concurrent_calls_on_an_unhealthy_listener_run_each_for_itself(listener: Steered, count: int) -> None:
    told: Counter[str] = Counter()
    cached = numbered(Greedy(listener), statistics_callback=lambda what: told.update([what]))
    listener.is_healthy = False

    assert len(set(await asyncio.gather(*[cached() for _ in range(count)]))) == count

    listener.is_healthy = True
    assert await cached() == count + 1
    assert told == {"miss": 1}


async def test_a_cancelled_first_caller_leaves_the_others_their_result(listener: Steered) -> None:
    query = Query(Greedy(listener))
    first, second, third = [await query.called() for _ in range(3)]

    first.cancel()
    await asyncio.wait([first])
    query.runs[0].set_result("done")

    assert first.cancelled()
    assert [await second, await third, await query.call(), len(query.runs)] == ["done", "done", "done", 1]


async def test_a_cancelled_waiter_leaves_the_first_caller_and_the_others_their_result(listener: Steered) -> None:
    query = Query(Greedy(listener))
    first, second, third = [await query.called() for _ in range(3)]

    second.cancel()
    await asyncio.wait([second])
    query.runs[0].set_result("done")

    assert second.cancelled()
    assert [await first, await third, await query.call(), len(query.runs)] == ["done", "done", "done", 1]


async def test_a_call_whose_only_caller_was_cancelled_does_not_hang_the_key(listener: Steered) -> None:
    query = Query(Greedy(listener))
    first = await query.called()
    first.cancel()
    await asyncio.wait([first])

    second = await query.called()
    query.runs[1].set_result("done")

    assert query.runs[0].cancelled()
    assert await second == "done"


async def test_a_timeout_around_one_call_does_not_hang_the_key(listener: Steered) -> None:
    query = Query(Greedy(listener))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await query.call()

    second = await query.called()
    query.runs[-1].set_result("done")

    assert [await second, await query.call()] == ["done", "done"]


class Stop(BaseException):
    """Not an Exception, as CancelledError and SystemExit are not."""


@pytest.mark.parametrize("kind", [LookupError, Stop, asyncio.CancelledError])
async def test_what_a_run_raises_reaches_all_who_joined_and_is_not_stored(
    listener: Steered, kind: type[BaseException]
) -> None:
    query = Query(Greedy(listener))
    tasks = [await query.called() for _ in range(3)]
    query.runs[0].set_exception(kind("why")) if kind is not asyncio.CancelledError else query.runs[0].cancel()

    raised = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(error) for error in raised] == [kind] * 3
    assert len({id(error) for error in raised}) == 3  # one exception in three places would collect their tracebacks
    again = await query.called()
    query.runs[1].set_result("done")
    assert await again == "done"


async def test_a_function_that_calls_itself_with_its_own_arguments_does_not_wait_for_itself(listener: Steered) -> None:
    depth = itertools.count()

    @decorators.cache(strategy=Greedy(listener))
    async def descend(start: int) -> int:
        return start if next(depth) == 3 else await descend(start)

    async with asyncio.timeout(WITHIN_S):
        assert await descend(7) == 7


# --- loops and threads


def test_hits_work_across_event_loops(listener: Steered) -> None:
    cached = numbered(Greedy(listener))

    assert [asyncio.run(_awaited(cached)) for _ in range(4)] == [1, 1, 1, 1]

    listener.put_nowait(event())
    assert asyncio.run(_awaited(cached)) == 2


async def _awaited(cached: Callable[[], Coroutine[Any, Any, int]]) -> int:
    return await cached()


def test_a_call_on_another_loop_and_thread_joins_the_run(listener: Steered) -> None:
    has_begun, has_joined = threading.Event(), threading.Event()
    runs = itertools.count(1)

    def note(what: str) -> None:
        if what == "hit":
            has_joined.set()

    @decorators.cache(strategy=Greedy(listener), statistics_callback=note)
    async def run() -> int:
        has_begun.set()
        assert await asyncio.to_thread(has_joined.wait, WITHIN_S)
        return next(runs)

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(asyncio.run, run())
        assert has_begun.wait(WITHIN_S)
        second = threads.submit(asyncio.run, run())

        assert [first.result(), second.result()] == [1, 1]


class User(pydantic.BaseModel):
    """What an endpoint returns."""

    id: int
    run: int


def test_an_endpoint_can_be_decorated_and_hits_although_each_request_has_its_own_loop(listener: Steered) -> None:
    app, runs = FastAPI(), itertools.count(1)

    @app.get("/users/{user_id}")
    @decorators.cache(strategy=Greedy(listener))
    async def read(user_id: int) -> User:
        return User(id=user_id, run=next(runs))

    assert [asyncio.run(answer(app, "/users/5")) for _ in range(3)] == [{"id": 5, "run": 1}] * 3

    listener.put_nowait(event())
    assert asyncio.run(answer(app, "/users/5")) == {"id": 5, "run": 2}


async def answer(app: FastAPI, path: str) -> object:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return (await client.get(path)).json()
