"""What the original's decorator makes of a function: its keys, its face, and what can go wrong around it."""

from __future__ import annotations

import asyncio
import decimal
import gc
import inspect
import itertools
import logging
import weakref
from typing import assert_type

import pytest

from pgcachewatch import decorators
from pgcachewatch.core.store import DEFAULT_MAXSIZE
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.strategies import Greedy
from tests.client.steered import LISTENERS, Steered, event, numbered


@pytest.fixture(params=LISTENERS)
def listener(request: pytest.FixtureRequest) -> Steered:
    made: Steered = request.param()
    return made


# --- keys


async def test_one_true_and_one_point_zero_are_different_arguments(listener: Steered) -> None:
    cached = numbered(Greedy(listener))
    arguments: list[object] = [1, True, 1.0, decimal.Decimal(1), "1"]

    assert [await cached(argument) for argument in arguments * 2] == [1, 2, 3, 4, 5] * 2


async def test_five_spellings_of_one_call_are_one_entry(listener: Steered) -> None:
    runs = itertools.count(1)

    @decorators.cache(strategy=Greedy(listener))
    async def get(user_id: int, language: str = "en") -> int:
        return next(runs)

    spellings = [
        get(5),
        get(5, "en"),
        get(5, language="en"),
        get(user_id=5),
        get(language="en", user_id=5),
    ]
    assert [await call for call in spellings] == [1] * 5
    assert get.cache_info().currsize == 1


async def test_arguments_that_can_not_be_hashed_are_compared_by_content(listener: Steered) -> None:
    cached = numbered(Greedy(listener))

    assert [await cached([1, {"a": {2}}]), await cached([1, {"a": {2}}]), await cached([1, {"a": {3}}])] == [1, 1, 2]


class Unhashable:
    """Equal to others of its kind, in a way of its own."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Unhashable)

    __hash__ = None  # type: ignore[assignment]  # as Python sets it beside __eq__


async def test_an_argument_no_key_can_be_made_of_is_named_with_a_remedy_that_works(listener: Steered) -> None:
    with pytest.raises(ConfigurationError, match=r"argument 'argument' .* ignore=\('argument',\)"):
        await numbered(Greedy(listener))(Unhashable())

    cached = numbered(Greedy(listener), ignore=("argument",))

    assert [await cached(Unhashable()), await cached(Unhashable())] == [1, 1]


async def test_entries_are_bounded(listener: Steered) -> None:
    @decorators.cache(strategy=Greedy(listener))
    async def same(number: int) -> int:
        return number

    @decorators.cache(strategy=Greedy(listener), maxsize=10)
    async def few(number: int) -> int:
        return number

    for number in range(DEFAULT_MAXSIZE + 100):
        assert await same(number) == await few(number) == number

    assert (same.cache_info().currsize, few.cache_info().currsize) == (DEFAULT_MAXSIZE, 10)


class Repository:
    """Its instances are equal to each other, and have a cached method."""

    runs = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Repository)

    def __hash__(self) -> int:
        return 1


async def test_a_method_keeps_no_instance_alive_and_tells_equal_instances_apart(listener: Steered) -> None:
    class Cached(Repository):
        @decorators.cache(strategy=Greedy(listener))
        async def read(self, number: int) -> int:
            self.runs += number
            return self.runs

    one, other = Cached(), Cached()
    assert [await one.read(5), await one.read(5), await other.read(7), await one.read(number=5)] == [5, 5, 7, 5]

    reference = weakref.ref(one)
    del one
    gc.collect()

    assert reference() is None


# --- what is decorated


async def test_a_decorated_function_looks_like_itself_to_people_and_type_checkers(listener: Steered) -> None:
    async def read(user_id: int, *, language: str = "en") -> str:
        """Read it."""
        return language * user_id

    cached = decorators.cache(strategy=Greedy(listener))(read)

    assert (cached.__name__, cached.__doc__, cached.__wrapped__) == ("read", "Read it.", read)
    assert inspect.signature(cached) == inspect.signature(read)
    assert inspect.iscoroutinefunction(cached)
    assert await assert_type(asyncio.create_task(cached(2, language="de")), asyncio.Task[str]) == "dede"


def test_a_plain_function_can_be_decorated_too(listener: Steered) -> None:
    runs = itertools.count(1)

    @decorators.cache(strategy=Greedy(listener))
    def run(number: int) -> int:
        return next(runs) * number

    assert [assert_type(run(10), int), run(10)] == [10, 10]
    listener.put_nowait(event())
    assert run(10) == 20
    listener.is_healthy = False
    assert [run(10), run(10)] == [30, 40]


# --- what can go wrong around it


async def test_what_was_stored_before_an_outage_is_not_served_after_it(listener: Steered) -> None:
    cached = numbered(Greedy(listener))
    assert [await cached("one"), await cached("other")] == [1, 2]
    listener.is_healthy = False
    assert [await cached("one"), await cached("one")] == [3, 4]

    listener.is_healthy = True

    assert [await cached(argument) for argument in ("one", "other", "one", "other")] == [5, 6, 5, 6]


async def test_calls_during_an_outage_log_nothing_each(listener: Steered, caplog: pytest.LogCaptureFixture) -> None:
    cached = numbered(Greedy(listener))
    listener.is_healthy = False

    with caplog.at_level(logging.DEBUG, "pgcachewatch"):
        for _ in range(100):
            await cached()

    assert caplog.records == []


async def test_a_statistics_callback_that_raises_fails_no_call_and_is_logged_once(
    listener: Steered, caplog: pytest.LogCaptureFixture
) -> None:
    cached = numbered(Greedy(listener), statistics_callback=lambda what: [][0])

    assert [await cached() for _ in range(3)] == [1, 1, 1]
    assert len(caplog.records) == 1


async def test_a_predicate_that_raises_fails_no_call_and_drops_the_entry(listener: Steered) -> None:
    cached = numbered(Greedy(listener, predicate=lambda event: event.missing))  # type: ignore[attr-defined]
    assert await cached() == 1

    listener.put_nowait(event())

    assert [await cached(), await cached()] == [2, 2]


# --- strategies that are not ours


class Own:
    """A strategy with no more than the protocol asks for. It counts how often it is asked."""

    def __init__(self) -> None:
        self.is_cleared = False
        self.is_healthy: bool | Exception = True
        self.asked = 0

    def clear(self) -> bool:
        self.asked += 1
        was_cleared, self.is_cleared = self.is_cleared, False
        return was_cleared

    def connection_healthy(self) -> bool:
        if isinstance(self.is_healthy, Exception):
            raise self.is_healthy
        return self.is_healthy


async def test_functions_of_somebodys_own_strategy_share_its_answer_and_ask_once_per_call() -> None:
    strategy = Own()
    one, other = numbered(strategy), numbered(strategy)
    assert [await one(), await other(), await one(), await other()] == [1, 1, 1, 1]
    assert strategy.asked == 4

    strategy.is_cleared = True

    assert [await one(), await other(), await one(), await other()] == [2, 2, 2, 2]
    assert strategy.asked == 8


async def test_a_strategy_that_raises_fails_no_call_and_serves_nothing(caplog: pytest.LogCaptureFixture) -> None:
    strategy = Own()
    cached = numbered(strategy)
    assert await cached() == 1

    strategy.is_healthy = LookupError("released to the pool")

    assert [await cached(), await cached()] == [2, 3]
    assert len(caplog.records) == 1
    strategy.is_healthy = True
    assert [await cached(), await cached()] == [4, 4]


def test_a_strategy_that_can_not_hold_what_its_functions_share_is_refused() -> None:
    class Bare:
        __slots__ = ()
        clear = connection_healthy = bool

    with pytest.raises(ConfigurationError, match="__slots__"):
        decorators.cache(strategy=Bare())
