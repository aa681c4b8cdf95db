"""The channels of all workers: a worker's until it releases them, and given up only when they are no worker's."""

from __future__ import annotations

import asyncio

import pytest

from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch_daemon.workers.channels import SharedChannels
from pgcachewatch_daemon.workers.messages import Listening, ListenRefused


class Source:
    """LISTENs when the test says so."""

    def __init__(self) -> None:
        self.is_up = True
        self.asked: dict[str, asyncio.Future[None]] = {}
        self.proven: set[str] = set()
        self.uses: list[str] = []

    def is_listening(self, channel: str) -> bool:
        return self.is_up and channel in self.proven

    def ensure_channel(self, channel: str) -> asyncio.Future[None]:
        return self.asked.setdefault(channel, asyncio.get_running_loop().create_future())

    def use(self, channel: str) -> None:
        self.uses.append(f"+{channel}")

    def leave(self, channel: str, *, seq: int) -> None:
        self.uses.append(f"-{channel}@{seq}")


class Stage:
    def __init__(self) -> None:
        self.source = Source()
        self.seq = 0
        self.answers: list[tuple[str, Listening | ListenRefused]] = []
        self.channels = SharedChannels(self.source, head=lambda: self.seq)

    def ensure(self, worker: str, channel: str, number: int = 1) -> None:
        self.channels.ensure(worker, channel, number=number, answer=lambda told: self.answers.append((worker, told)))

    async def prove(self, channel: str) -> None:
        self.source.proven.add(channel)
        self.channels.channel_listened(channel)
        self.source.asked.pop(channel).set_result(None)
        await asyncio.sleep(0)


@pytest.mark.rule("W-SUB-5")
async def test_who_asks_is_told_once_it_is_proven_with_the_position_of_then() -> None:
    stage = Stage()
    stage.ensure("one", "a", 3)
    await asyncio.sleep(0)
    assert stage.answers == []
    stage.seq = 7
    await stage.prove("a")
    stage.seq = 9
    stage.ensure("two", "a", 5)
    assert stage.answers == [("one", Listening("a", 7, 3)), ("two", Listening("a", 7, 5))]


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (ConfigurationError("why"), 0),
        (LimitExceeded("why", rule="W-LIMIT-6", limit="channels", allowed=3, value=4), 3),
    ],
)
async def test_a_refusal_is_for_who_asked_and_leaves_nobody_using_it(error: Exception, limit: int) -> None:
    stage = Stage()
    stage.ensure("one", "a")
    stage.source.asked["a"].set_exception(error)
    await asyncio.sleep(0)
    assert stage.answers == [("one", ListenRefused("a", "why", limit, 1))]
    assert stage.source.uses == ["+a", "-a@0"]


async def test_a_channel_is_used_until_the_last_worker_has_released_it_or_is_gone() -> None:
    stage = Stage()
    for worker in ("one", "two", "three"):
        stage.ensure(worker, "a")
    stage.ensure("one", "a", 2)
    stage.seq = 4
    stage.channels.release("one", "a")
    stage.channels.release("one", "a")
    stage.channels.release("stranger", "b")
    stage.channels.gone("two")
    assert stage.source.uses == ["+a"]
    stage.channels.gone("three")
    assert stage.source.uses == ["+a", "-a@4"]


@pytest.mark.rule("W-RESUME-3")
async def test_one_that_is_listened_to_anew_is_told_with_its_new_beginning() -> None:
    stage = Stage()
    stage.ensure("one", "a")
    await stage.prove("a")
    stage.channels.release("one", "a")
    stage.channels.channel_given_up("a")
    stage.source.proven.discard("a")
    stage.seq = 8
    stage.ensure("one", "a", 2)
    await stage.prove("a")
    assert stage.answers == [("one", Listening("a", 0, 1)), ("one", Listening("a", 8, 2))]


async def test_an_answer_that_crossed_a_release_is_not_given() -> None:
    stage = Stage()
    stage.ensure("one", "a", 1)
    stage.channels.release("one", "a")
    stage.ensure("one", "a", 2)
    stage.source.asked["a"].set_exception(ConfigurationError("why"))
    await asyncio.sleep(0)
    assert stage.answers == [("one", ListenRefused("a", "why", 0, 2))]


async def test_a_new_epoch_begins_with_the_channels_that_are_listened_to() -> None:
    stage = Stage()
    for channel in ("a", "b", "c"):
        stage.ensure("one", channel)
    stage.seq = 5
    await stage.prove("a")
    stage.channels.lost()
    assert stage.channels.listened == {}
    stage.source.proven.add("b")  # its future is answered a moment later
    assert stage.channels.came_up() == ("a", "b")
    stage.source.asked["b"].set_result(None)
    await asyncio.sleep(0)
    await stage.prove("c")
    assert [told for _, told in stage.answers[1:]] == [Listening("b", 0, 1), Listening("c", 5, 1)]


async def test_what_is_proven_as_the_source_is_lost_is_not_told() -> None:
    stage = Stage()
    stage.ensure("one", "a")
    stage.source.asked["a"].set_result(None)
    stage.source.is_up = False
    stage.channels.lost()
    await asyncio.sleep(0)
    assert stage.answers == []


async def test_a_relay_that_ends_answers_nobody() -> None:
    stage = Stage()
    stage.ensure("one", "a")
    stage.source.asked["a"].cancel()
    await asyncio.sleep(0)
    assert stage.answers == []
