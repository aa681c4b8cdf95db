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
    ListenRefused,
    LoopedBack,
    Message,
    Needed,
    SourceLost,
    SourceUp,
    State,
)
from pgcachewatch_daemon.workers.upstream import Upstream, UpstreamWatcher


class Stage:
    def __init__(self) -> None:
        self.said: list[Message] = []
        self.has_stamps = False
        self.upstream = Upstream(self.said.append, has_stamps=lambda: self.has_stamps)

    def here(self, *channels: str, is_up: bool = True) -> None:
        memory = Memory(None, {}, {})
        self.upstream.began(
            Here(is_up, 1.0, "start", dict.fromkeys(channels, 0), None, 3.5, memory, catalogue=b"", began_s=0.0)
        )


async def test_a_channel_that_the_primary_listens_to_needs_no_asking() -> None:
    stage = Stage()
    stage.here("a")
    assert stage.upstream.is_listening("a")
    await stage.upstream.ensure_channel("a")
    assert stage.said == []


@pytest.mark.rule("W-SUB-5")
async def test_another_is_asked_for_once_and_all_who_wait_go_on_when_it_is_proven() -> None:
    stage = Stage()
    stage.here()
    waiting = [stage.upstream.ensure_channel("a") for _ in range(3)]
    waiting[0].cancel()  # whoever asked first has gone
    assert stage.said == [Ensure("a")]
    stage.upstream.listening("b")
    assert not waiting[1].done()
    stage.upstream.listening("a")
    await asyncio.gather(*waiting[1:])
    assert stage.upstream.is_listening("a")


@pytest.mark.parametrize(("limit", "kind"), [(0, ConfigurationError), (3, LimitExceeded)])
async def test_a_refusal_is_the_error_that_the_source_would_have_raised(limit: int, kind: type[Exception]) -> None:
    stage = Stage()
    stage.here()
    waiting = stage.upstream.ensure_channel("a")
    stage.upstream.refused(ListenRefused("a", "why", limit))
    with pytest.raises(kind, match="why"):
        await waiting
    stage.upstream.ensure_channel("a").cancel()
    assert stage.said == [Ensure("a"), Ensure("a")], "what was refused may be asked for again"


async def test_while_the_source_is_lost_nothing_is_listened_to_and_waiting_goes_on() -> None:
    stage = Stage()
    stage.here("a")
    stage.upstream.lost(SourceLost("connection_lost", 5.0, 3))
    assert (stage.upstream.is_up, stage.upstream.since_s) == (False, 5.0)
    assert not stage.upstream.is_listening("a")
    waiting = stage.upstream.ensure_channel("a")
    stage.upstream.retain(["a", "b"])
    assert stage.said == [Ensure("a"), Needed(3, ("a", "b"))]
    stage.upstream.came_up(SourceUp(Begin("e" * 16, 0), ("a",), 6.0))
    assert not waiting.done(), "the clients' part hears of the new epoch first"
    stage.upstream.answer_listening()
    await waiting
    assert stage.upstream.since_s == 6.0


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
