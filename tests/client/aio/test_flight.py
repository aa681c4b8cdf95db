"""Flights: how each of them ends, what those who wait get, and who may wait for whom."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from pgcachewatch.aio.flight import (
    CURRENT,
    Abandoned,
    Flight,
    LoopFlight,
    Node,
    ThreadFlight,
    copy_of,
    may_wait,
    stop_waiting,
)


def failed(flight: Flight[Any], error: BaseException) -> None:
    """End `flight` as a shell does: the error is caught where the function was called."""
    try:
        raise error
    except BaseException as caught:
        flight.fail(caught)


# --- the ends


def test_each_caller_gets_the_value() -> None:
    flight = Flight[str]()
    flight.land("value")

    assert [flight.result(), flight.result()] == ["value", "value"]


def test_who_waited_for_an_abandoned_flight_is_told_to_start_over() -> None:
    flight = Flight[str]()
    flight.abandon()

    with pytest.raises(Abandoned):
        flight.result()


@pytest.mark.parametrize("late", ["land", "fail", "abandon"])
def test_the_first_end_counts(late: str) -> None:
    def end(flight: Flight[str]) -> None:
        match late:
            case "land":
                flight.land("late")
            case "fail":
                failed(flight, ValueError("late"))
            case _:
                flight.abandon()

    landed, broken, abandoned = Flight[str](), Flight[str](), Flight[str]()
    landed.land("value")
    failed(broken, KeyError("first"))
    abandoned.abandon()

    for flight in (landed, broken, abandoned):
        end(flight)

    assert landed.result() == "value"
    with pytest.raises(KeyError, match="first"):
        broken.result()
    with pytest.raises(Abandoned):
        abandoned.result()


# --- errors


def raised_by(flight: Flight[object]) -> BaseException:
    try:
        flight.result()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def test_the_first_caller_gets_the_error_itself_and_the_others_get_equal_ones() -> None:
    flight = Flight[object]()
    original = ValueError("a", 1)
    original.__cause__ = KeyError("why")
    original.add_note("note")
    failed(flight, original)

    first, second, third = (raised_by(flight) for _ in range(3))

    assert first is original
    assert len({id(first), id(second), id(third)}) == 3
    for other in (second, third):
        assert type(other) is ValueError
        assert other.args == ("a", 1)
        assert other.__cause__ is original.__cause__
        assert other.__notes__ == ["note"]


def test_an_error_that_was_raised_already_is_copied_for_everybody() -> None:
    flight = Flight[object]()
    original = ValueError("a")
    flight.take_error()
    failed(flight, original)

    assert raised_by(flight) is not original


def test_a_note_on_one_callers_error_is_not_on_anothers() -> None:
    flight = Flight[object]()
    original = ValueError("a")
    original.add_note("of the function")
    failed(flight, original)
    first, second = raised_by(flight), raised_by(flight)

    second.add_note("of the second caller")

    assert first.__notes__ == ["of the function"]


def test_no_callers_traceback_is_in_anothers() -> None:
    flight = Flight[object]()
    failed(flight, ValueError("a"))

    def one_caller() -> BaseException:
        return raised_by(flight)

    def other_caller() -> BaseException:
        return raised_by(flight)

    errors = [one_caller(), other_caller(), other_caller()]

    frames = [len(traceback.extract_tb(error.__traceback__)) for error in errors]
    assert frames[0] == frames[1] == frames[2]


def test_the_traceback_keeps_the_functions_frame_and_not_the_flights() -> None:
    flight = Flight[object]()

    def function() -> None:
        raise ValueError("a")

    try:
        function()
    except ValueError as error:
        flight.fail(error)

    names = [frame.name for frame in traceback.extract_tb(raised_by(flight).__traceback__)]
    assert names[-1] == "function"
    assert "test_the_traceback_keeps_the_functions_frame_and_not_the_flights" not in names


class WithState(Exception):
    """Its parameters are not its args."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def test_an_error_with_parameters_of_its_own_is_copied_with_its_state() -> None:
    error = WithState(5, detail="no")

    other = copy_of(error)

    assert other is not error
    assert isinstance(other, WithState)
    assert (other.args, other.code, other.detail) == (("5: no",), 5, "no")


class WithSlots(Exception):
    """Keeps a value where no copy would find it."""

    __slots__ = ("value",)


class Unwilling(Exception):
    """Can be made in one way only."""

    def __new__(cls, *, only: str) -> Unwilling:
        return super().__new__(cls, only)

    def __init__(self, *, only: str) -> None:
        super().__init__(only)


def _os_error() -> OSError:
    return FileNotFoundError(2, "No such file", "name")


def _decode_error() -> Exception:
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why")


def _json_error() -> Exception:
    return json.JSONDecodeError("why", "{", 0)


@pytest.mark.parametrize(
    "make",
    [
        _os_error,
        _decode_error,
        lambda: StopIteration(5),
        lambda: SystemExit(3),
        lambda: ExceptionGroup("several", [ValueError("a")]),
        lambda: WithSlots("a"),
        lambda: Unwilling(only="a"),
        lambda: AttributeError("a", name="b", obj=5),
    ],
)
def test_an_error_that_can_not_be_copied_safely_is_shared(make: Callable[[], BaseException]) -> None:
    error = make()

    assert copy_of(error) is error


def test_an_error_with_ordinary_attributes_is_copied_with_them() -> None:
    error = _json_error()

    other = copy_of(error)

    assert other is not error
    assert (str(other), vars(other)) == (str(error), vars(error))


# --- a flight on a loop


async def test_everybody_who_joined_is_woken_when_it_ends() -> None:
    loop = asyncio.get_running_loop()
    flight = LoopFlight[str](loop)
    early = [flight.join(loop), flight.join(loop)]
    assert not any(future.done() for future in early)

    flight.land("value")
    late = flight.join(loop)

    assert all(future.done() for future in [*early, late])
    assert not flight.waiters


async def test_the_last_who_leaves_is_told_that_nobody_is_left() -> None:
    loop = asyncio.get_running_loop()
    flight = LoopFlight[str](loop)
    one, other = flight.join(loop), flight.join(loop)

    assert not flight.leave(one)
    assert flight.leave(other)


async def test_nobody_is_the_last_to_leave_a_flight_that_has_ended() -> None:
    loop = asyncio.get_running_loop()
    flight = LoopFlight[str](loop)
    one = flight.join(loop)
    flight.land("value")

    assert not flight.leave(one)


async def test_a_waiter_on_another_loop_is_woken_there() -> None:
    flight = LoopFlight[str](asyncio.get_running_loop())
    joined = threading.Event()
    woken_on: list[int] = []

    async def elsewhere() -> str:
        future = flight.join(asyncio.get_running_loop())
        joined.set()
        await future
        woken_on.append(threading.get_ident())
        return flight.result()

    other = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(elsewhere())))
    await asyncio.to_thread(joined.wait)
    flight.land("value")

    assert await other == "value"
    assert woken_on != [threading.get_ident()]


async def test_a_waiter_whose_loop_is_closed_hinders_nobody() -> None:
    loop = asyncio.get_running_loop()
    flight = LoopFlight[str](loop)
    closed = asyncio.new_event_loop()
    flight.join(closed)
    closed.close()
    here = flight.join(loop)

    flight.land("value")

    assert here.done()


# --- a flight in a thread


def test_threads_that_wait_are_woken_however_it_ends() -> None:
    ends: list[Callable[[ThreadFlight[str]], None]] = [
        lambda one: one.land("value"),
        lambda one: one.fail(ValueError()),
        lambda one: one.abandon(),
    ]
    for end in ends:
        flight = ThreadFlight[str]()
        thread = threading.Thread(target=flight.landed.wait)
        thread.start()
        end(flight)
        thread.join()
        assert flight.is_done


# --- who waits for whom


def inside(caller: Node, wanted: Node) -> bool:
    """Whether the function of `caller`'s flight may wait for `wanted`."""

    def ask() -> bool:
        CURRENT.set(caller)
        return may_wait(wanted)

    return contextvars.copy_context().run(ask)


def test_a_caller_outside_of_any_flight_may_wait() -> None:
    assert CURRENT.get() is None
    assert may_wait(Node())
    stop_waiting(Node())


def test_a_function_may_not_wait_for_its_own_flight() -> None:
    node = Node()

    assert not inside(node, node)
    assert node.waits_for == []


def test_of_two_functions_that_wait_for_each_other_the_second_may_not() -> None:
    one, other = Node(), Node()

    assert inside(one, other)
    assert not inside(other, one)


def test_a_circle_is_seen_from_afar() -> None:
    chain = [Node() for _ in range(5)]
    for caller, wanted in itertools.pairwise(chain):
        assert inside(caller, wanted)

    assert not inside(chain[-1], chain[0])
    assert not inside(chain[-1], chain[2])


def test_two_ways_to_one_flight_are_no_circle() -> None:
    top, left, right, bottom = (Node() for _ in range(4))

    assert inside(top, left)
    assert inside(top, right)
    assert inside(left, bottom)
    assert inside(right, bottom)
    assert inside(top, bottom)


def test_a_wait_that_is_over_closes_no_circle() -> None:
    one, other = Node(), Node()

    def wait_and_go_on() -> None:
        CURRENT.set(one)
        assert may_wait(other)
        stop_waiting(other)

    contextvars.copy_context().run(wait_and_go_on)

    assert inside(other, one)


def test_of_two_waits_for_the_same_flight_one_is_left_when_the_other_is_over() -> None:
    one, other = Node(), Node()

    def wait_twice() -> None:
        CURRENT.set(one)
        assert may_wait(other)
        assert may_wait(other)
        stop_waiting(other)

    contextvars.copy_context().run(wait_twice)

    assert not inside(other, one)
