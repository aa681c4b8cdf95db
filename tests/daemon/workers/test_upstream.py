"""What a worker asks of the primary, and what it knows of PostgreSQL through it."""

from __future__ import annotations

import asyncio

import pytest

from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch_daemon.core.tokens import Memory
from pgcachewatch_daemon.workers.messages import (
    Begin,
    Ensure,
    Hasten,
    HastenLook,
    Here,
    Listening,
    ListenRefused,
    LoopedBack,
    Message,
    Release,
    SourceLost,
    SourceUp,
    State,
)
from pgcachewatch_daemon.workers.upstream import Upstream, UpstreamWatcher


class Stage:
    def __init__(self) -> None:
        self.said: list[Message] = []
        self.has_stamps = False
        self.given_up: list[str] = []
        self.upstream = Upstream(
            self.said.append, default="default", has_stamps=lambda: self.has_stamps, given_up=self.given_up.append
        )

    def here(self, *channels: str, is_up: bool = True) -> None:
        memory = Memory(None, {}, {})
        self.upstream.began(
            Here(is_up, 1.0, "start", dict.fromkeys(channels, 0), None, 3.5, memory, catalogue=b"", began_s=0.0)
        )


async def test_the_default_channel_needs_no_asking() -> None:
    stage = Stage()
    stage.here("default")
    assert stage.upstream.is_listening("default")
    await stage.upstream.ensure_channel("default")
    assert stage.said == []


@pytest.mark.rule("W-SUB-5")
async def test_another_is_asked_for_once_and_all_who_wait_go_on_when_it_is_proven() -> None:
    stage = Stage()
    stage.here()
    waiting = [stage.upstream.ensure_channel("a") for _ in range(3)]
    waiting[0].cancel()  # whoever asked first has gone
    assert stage.said == [Ensure("a", 1)]
    assert not stage.upstream.listening(Listening("b", 0, 1))
    assert not waiting[1].done()
    assert stage.upstream.listening(Listening("a", 0, 1))
    await asyncio.gather(*waiting[1:])
    assert stage.upstream.is_listening("a")


@pytest.mark.parametrize(("limit", "kind"), [(0, ConfigurationError), (3, LimitExceeded)])
async def test_a_refusal_is_the_error_that_the_source_would_have_raised(limit: int, kind: type[Exception]) -> None:
    stage = Stage()
    stage.here()
    waiting = stage.upstream.ensure_channel("a")
    stage.upstream.refused(ListenRefused("a", "of another question", limit, 7))
    stage.upstream.refused(ListenRefused("a", "why", limit, 1))
    with pytest.raises(kind, match="why"):
        await waiting
    stage.upstream.ensure_channel("a").cancel()
    assert stage.said == [Ensure("a", 1), Ensure("a", 2)], "what was refused may be asked for again"


async def test_what_nobody_uses_at_the_end_of_an_iteration_is_released_and_not_heard_any_more() -> None:
    stage = Stage()
    stage.here("default")
    for channel, number in (("a", 1), ("b", 2)):
        stage.upstream.use(channel)
        stage.upstream.ensure_channel(channel)
        stage.upstream.listening(Listening(channel, 0, number))
        stage.upstream.leave(channel, seq=0)
    stage.upstream.leave("never asked for", seq=0)
    stage.upstream.use("b")  # in the same iteration
    assert stage.upstream.is_listening("a")
    await asyncio.sleep(0)
    assert stage.said[2:] == [Release("a")]
    assert stage.given_up == ["a"]
    assert [stage.upstream.is_listening(channel) for channel in ("default", "a", "b")] == [True, False, True]


async def test_an_answer_that_crossed_a_release_proves_nothing() -> None:
    stage = Stage()
    stage.here()
    stage.upstream.ensure_channel("a")
    stage.upstream.leave("a", seq=0)
    await asyncio.sleep(0)
    waiting = stage.upstream.ensure_channel("a")
    assert stage.said == [Ensure("a", 1), Release("a"), Ensure("a", 2)]
    assert not stage.upstream.listening(Listening("a", 3, 1))
    assert not waiting.done()
    assert stage.upstream.listening(Listening("a", 9, 2))
    await waiting


async def test_while_the_source_is_lost_nothing_is_listened_to_and_waiting_goes_on() -> None:
    stage = Stage()
    stage.here("default")
    stage.upstream.ensure_channel("used")
    stage.upstream.listening(Listening("used", 0, 1))
    stage.upstream.lost(SourceLost("connection_lost", 5.0))
    assert (stage.upstream.is_up, stage.upstream.since_s) == (False, 5.0)
    assert not stage.upstream.is_listening("used")
    waiting = stage.upstream.ensure_channel("a")
    stage.upstream.came_up(SourceUp(Begin("e" * 16, 0), ("a", "default", "of another worker", "used"), 6.0))
    assert not waiting.done(), "the clients' part hears of the new epoch first"
    stage.upstream.answer_listening()
    await waiting
    assert stage.upstream.since_s == 6.0
    listened = [stage.upstream.is_listening(channel) for channel in ("default", "used", "of another worker")]
    assert listened == [True, True, False], "what others use may be given up without a word to this one"


async def test_what_postgresql_refused_as_it_came_back_may_be_asked_for_again() -> None:
    stage = Stage()
    stage.here()
    stage.upstream.ensure_channel("a")
    stage.upstream.listening(Listening("a", 0, 1))
    stage.upstream.lost(SourceLost("connection_lost", 5.0))
    waiting = stage.upstream.ensure_channel("b")
    stage.upstream.came_up(SourceUp(Begin("e" * 16, 0), (), 6.0))
    assert sorted(stage.said[1:], key=repr) == [Ensure("b", 2), Ensure("b", 3), Release("a")]
    stage.upstream.refused(ListenRefused("b", "why", 0, 3))
    with pytest.raises(ConfigurationError, match="why"):
        await waiting
    stage.upstream.ensure_channel("a").cancel()
    assert stage.said[-1] == Ensure("a", 4)


async def test_wishes_for_a_loopback_are_told_once_a_tick_the_most_urgent_of_them() -> None:
    stage = Stage()
    stage.upstream.hasten(spacing_s=0.05)
    stage.upstream.hasten()
    stage.upstream.hasten(spacing_s=0.5)
    await asyncio.sleep(0)
    assert stage.said == [Hasten(0.0)]
    stage.upstream.hasten(spacing_s=0.5)
    await asyncio.sleep(0)
    assert stage.said[1:] == [Hasten(0.5)]


async def test_the_state_is_told_when_it_is_another_and_before_the_loopback_that_it_bears_on() -> None:
    stage = Stage()
    stage.upstream.set_busy(False)
    assert stage.said == []
    stage.upstream.set_busy(True)
    stage.upstream.set_busy(True)
    assert stage.said == [State(is_busy=True, has_stamps=False)]
    stage.upstream.hasten()
    stage.has_stamps = True
    await asyncio.sleep(0)
    assert stage.said[1:] == [State(is_busy=True, has_stamps=True), Hasten(0.0)]


async def test_how_old_a_proof_may_be_is_the_primary_s_to_say() -> None:
    stage = Stage()
    stage.here()
    assert stage.upstream.proof_limit_s == 3.5
    stage.upstream.looped_back(LoopedBack(1.0, None, 18.0))
    assert stage.upstream.proof_limit_s == 18.0


async def test_nobody_waits_for_one_that_is_closed() -> None:
    stage = Stage()
    stage.here()
    waiting = stage.upstream.ensure_channel("a")
    await stage.upstream.close()
    assert waiting.cancelled()


def test_a_look_is_asked_for_once_until_there_was_one() -> None:
    said: list[Message] = []
    watcher = UpstreamWatcher(said.append)
    watcher.hasten()
    watcher.hasten()
    assert said == [HastenLook()]
    watcher.looked()
    watcher.hasten()
    assert said == [HastenLook(), HastenLook()]
