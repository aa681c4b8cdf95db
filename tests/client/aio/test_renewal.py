"""A token is asked for in time, off the loop, and never shown in what is said of it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pgcachewatch.aio.renewal import Renewal, Token, obtain
from pgcachewatch.errors import ConnectionFailed
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.virtual_time import until, virtual_time
from tests.waiting import eventually

__all__ = ["fake_relay"]  # a fixture, for the tests below

SECRET = "s3cret"


class Desk:
    """A source whose answers are listed, what was offered and what was reported, and when."""

    def __init__(self, *answers: str | Exception, chance: float = 0.0) -> None:
        self.answers = list(answers)
        self.offered: list[tuple[float, str]] = []
        self.reported: list[ConnectionFailed] = []
        self._began_s = asyncio.get_running_loop().time()
        self.renewal = Renewal(self.source, offer=self._offer, report=self.reported.append, chance=lambda: chance)

    async def source(self) -> str:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _offer(self, token: str) -> None:
        self.offered.append((round(asyncio.get_running_loop().time() - self._began_s), token))


async def failure(token: Token) -> str:
    with pytest.raises(ConnectionFailed) as caught:
        await obtain(token)
    return str(caught.value)


async def test_a_text_is_the_token_and_so_is_what_any_kind_of_function_returns() -> None:
    threads: list[int] = []

    def plain() -> str:
        threads.append(threading.get_ident())
        return "plain"

    async def coroutine() -> str:
        threads.append(threading.get_ident())
        return "coroutine"

    assert await obtain(None) is None
    assert await obtain("text") == "text"
    assert await obtain(plain) == "plain"
    assert await obtain(coroutine) == "coroutine"
    assert await obtain(lambda: coroutine()) == "coroutine"
    home = threading.get_ident()
    assert [thread == home for thread in threads] == [False, True, True]


async def test_a_plain_function_that_waits_does_not_hold_up_the_loop() -> None:
    may_end = threading.Event()

    def slow() -> str:
        assert may_end.wait(60)
        return "late"

    asking = asyncio.create_task(obtain(slow))
    await asyncio.sleep(0)
    may_end.set()  # this loop went on meanwhile
    assert await asking == "late"


async def test_what_a_source_raises_is_reported_without_its_text() -> None:
    def broken() -> str:
        raise RuntimeError(f"no answer for {SECRET}")

    text = await failure(broken)
    assert "RuntimeError" in text
    assert SECRET not in text


async def test_what_is_no_text_is_reported() -> None:
    assert "returned bytes" in await failure(lambda: b"x")  # type: ignore[arg-type, return-value]  # what is tested


@virtual_time
async def test_a_source_that_never_answers_is_given_up() -> None:
    async def silent() -> str:
        await asyncio.Event().wait()
        return ""

    assert "TimeoutError" in await failure(silent)


@virtual_time
async def test_a_token_is_offered_while_there_is_time_and_not_by_all_at_once() -> None:
    for left_s, chance, at_s in (
        (3_600.0, 0.0, 3_540),
        (3_600.0, 0.99, 3_570),
        (40.0, 0.0, 30),
        (40.0, 0.99, 35),
        (0.5, 0, 1),
    ):
        desk = Desk("next", chance=chance)
        desk.renewal.ends_in(left_s)
        await asyncio.sleep(left_s + 1.0)
        assert desk.offered == [(at_s, "next")]


@virtual_time
async def test_a_source_that_fails_is_asked_again_while_there_is_time() -> None:
    desk = Desk(OSError(), OSError(), "next")
    desk.renewal.ends_in(1_000.0)
    await until(lambda: bool(desk.offered))

    assert [type(error.__cause__) for error in desk.reported] == [OSError, OSError]
    assert 940 < desk.offered[0][0] < 1_000


@virtual_time
async def test_when_time_is_over_the_next_connection_asks() -> None:
    desk = Desk(*[OSError() for _ in range(100)])
    desk.renewal.ends_in(1_000.0)
    await asyncio.sleep(2_000.0)
    asked = len(desk.reported)
    await asyncio.sleep(2_000.0)

    assert desk.offered == []
    assert 5 < asked == len(desk.reported) < 60


@virtual_time
async def test_each_answer_of_the_relay_begins_anew() -> None:
    desk = Desk("one", "two", "three")
    desk.renewal.ends_in(1_000.0)
    desk.renewal.ends_in(100.0)
    await until(lambda: len(desk.offered) == 1)
    desk.renewal.ends_in(100.0)
    await until(lambda: len(desk.offered) == 2)
    desk.renewal.ends_in(None)
    await asyncio.sleep(10_000.0)

    assert desk.offered == [(75, "one"), (150, "two")]


@virtual_time
async def test_a_token_that_could_not_be_checked_is_followed_by_another() -> None:
    desk = Desk("one", "two")
    assert not desk.renewal.refused_for_now(1.0), "nothing was offered"
    desk.renewal.ends_in(100.0)
    assert not desk.renewal.refused_for_now(1.0), "nothing was offered yet"
    await until(lambda: len(desk.offered) == 1)
    assert desk.renewal.refused_for_now(1.0)
    await until(lambda: len(desk.offered) == 2)

    assert desk.offered == [(75, "one"), (76, "two")]


@virtual_time
async def test_a_fixed_token_is_not_renewed() -> None:
    offered: list[str] = []
    renewal = Renewal("text", offer=offered.append, report=lambda error: None, chance=lambda: 0.0)
    renewal.ends_in(10.0)
    await asyncio.sleep(100.0)

    assert offered == []


@virtual_time
async def test_nothing_is_asked_after_the_end() -> None:
    desk = Desk("one")
    desk.renewal.ends_in(10.0)
    desk.renewal.stop()
    await asyncio.sleep(100.0)

    assert desk.answers == ["one"]


async def test_a_source_that_fails_is_the_last_error_of_the_client_and_it_connects_with_the_next(
    fake_relay: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[str | None] = [SECRET, None, SECRET]

    def source() -> str:
        answer = answers.pop(0)
        if answer is None:
            raise ZeroDivisionError(SECRET)
        return answer

    async with fake_relay.connect(token=source) as client:
        fake_relay.close(4200, "expired")
        await eventually(lambda: not answers)
        await client.wait_live()
        assert client.status.reconnects == 1
        assert SECRET not in caplog.text
        assert "ZeroDivisionError" in caplog.text
