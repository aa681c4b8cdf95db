"""The channels of all workers: told to each of them, needed by any of them, forgotten when by none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

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
        self.retained: list[set[str]] = []

    def is_listening(self, channel: str) -> bool:
        return self.is_up and channel in self.proven

    def ensure_channel(self, channel: str) -> asyncio.Future[None]:
        return self.asked.setdefault(channel, asyncio.get_running_loop().create_future())

    def retain(self, channels: Iterable[str]) -> None:
        self.retained.append(set(channels))

    def prove(self, channel: str) -> None:
        self.proven.add(channel)
        self.asked[channel].set_result(None)


class Stage:
    def __init__(self) -> None:
        self.source = Source()
        self.seq = 0
        self.told: list[Listening] = []
        self.answers: list[Listening | ListenRefused] = []
        self.channels = SharedChannels(self.source, default="default", head=lambda: self.seq, tell=self.told.append)

    def ensure(self, channel: str) -> None:
        self.channels.ensure(channel, self.answers.append)

    async def prove(self, channel: str) -> None:
        self.source.prove(channel)
        await asyncio.sleep(0)


@pytest.mark.rule("W-SUB-5")
async def test_all_are_told_once_it_is_proven_with_the_position_of_then() -> None:
    stage = Stage()
    stage.ensure("a")
    await asyncio.sleep(0)
    assert stage.told == []
    stage.seq = 7
    await stage.prove("a")
    assert stage.told == [Listening("a", 7)]
    assert stage.answers == [], "who asked hears what all hear"


async def test_who_asks_for_what_was_told_before_is_answered_alone() -> None:
    stage = Stage()
    stage.ensure("a")
    await stage.prove("a")
    stage.seq = 9
    stage.ensure("a")
    assert stage.answers == [Listening("a", 0)]
    assert len(stage.told) == 1


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (ConfigurationError("why"), 0),
        (LimitExceeded("why", rule="W-LIMIT-6", limit="channels", allowed=3, value=4), 3),
    ],
)
async def test_a_refusal_is_for_who_asked(error: Exception, limit: int) -> None:
    stage = Stage()
    stage.ensure("a")
    stage.source.asked["a"].set_exception(error)
    await asyncio.sleep(0)
    assert stage.answers == [ListenRefused("a", "why", limit)]
    assert stage.told == []


async def test_a_new_epoch_begins_with_the_channels_that_are_listened_to() -> None:
    stage = Stage()
    for channel in ("a", "b", "c"):
        stage.ensure(channel)
    stage.seq = 5
    await stage.prove("a")
    stage.source.proven.add("b")  # its future is answered a moment later
    stage.channels.lost([])
    assert stage.channels.listened == {}
    assert stage.channels.came_up() == ("a", "b")
    assert stage.channels.listened == {"a": 0, "b": 0}
    await stage.prove("b")
    assert len(stage.told) == 1, "all know of b from the new epoch"
    await stage.prove("c")
    assert stage.told[-1] == Listening("c", 5)


async def test_what_is_proven_as_the_source_is_lost_is_not_told() -> None:
    stage = Stage()
    stage.ensure("a")
    stage.source.prove("a")
    stage.source.is_up = False
    stage.channels.lost([])
    await asyncio.sleep(0)
    assert stage.told == []


async def test_what_no_worker_needs_is_forgotten_once_all_have_answered() -> None:
    stage = Stage()
    number = stage.channels.lost(["one", "two", "three"])
    stage.channels.needed("one", number, ["a"])
    stage.channels.needed("one", number, ["never counted twice"])
    stage.channels.needed("two", number - 1, ["of another round"])
    stage.channels.gone("three")
    assert stage.source.retained == []
    stage.channels.needed("two", number, ["a", "b"])
    assert stage.source.retained == [{"default", "a", "b"}]
    stage.channels.gone("two")
    assert len(stage.source.retained) == 1


async def test_without_workers_only_the_default_channel_is_needed() -> None:
    stage = Stage()
    stage.channels.lost([])
    assert stage.source.retained == [{"default"}]


async def test_a_relay_that_ends_answers_nobody() -> None:
    stage = Stage()
    stage.ensure("a")
    stage.source.asked["a"].cancel()
    await asyncio.sleep(0)
    assert (stage.answers, stage.told) == ([], [])
