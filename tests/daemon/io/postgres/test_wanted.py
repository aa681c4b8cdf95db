"""Each who wants a channel is answered once: with its proof, with why it can not be had, or not at all at the end."""

from __future__ import annotations

import pytest

from pgcachewatch.errors import ConfigurationError, LimitExceeded
from pgcachewatch_daemon.io.postgres.contract import SourceStats
from pgcachewatch_daemon.io.postgres.wanted import CHANNEL_BYTES, OWN_CHANNELS, Wanted


@pytest.mark.parametrize("name", ["", "é" * (CHANNEL_BYTES // 2 + 1), "a\0b", "\ud800" * 22, *OWN_CHANNELS])
async def test_a_name_that_can_not_be_listened_to_is_refused_at_once_and_not_kept(name: str) -> None:
    wanted = Wanted(SourceStats())
    with pytest.raises(ConfigurationError):
        await wanted.ask(name, limit=9)
    assert list(wanted) == []


async def test_one_more_than_the_limit_is_refused_and_one_that_is_there_is_not() -> None:
    wanted = Wanted(SourceStats())
    first = wanted.ask("a", limit=1)
    again = wanted.ask("a", limit=1)
    with pytest.raises(LimitExceeded, match="limit of 1 channels"):
        await wanted.ask("b", limit=1)
    assert [each.done() for each in (first, again)] == [False, False]


async def test_all_who_wait_for_a_channel_are_answered_and_nobody_else() -> None:
    wanted = Wanted(SourceStats())
    gone, first, second, other = (wanted.ask(name, limit=9) for name in ("a", "a", "a", "b"))
    gone.cancel()
    assert wanted.prove("a")
    assert wanted.missing(9) == ["b"]
    wanted.answer_proven()
    assert [each.done() for each in (first, second, other)] == [True, True, False]


async def test_a_channel_that_postgresql_refuses_is_wanted_no_more() -> None:
    wanted = Wanted(SourceStats())
    waiting = wanted.ask("a", limit=9)
    wanted.refuse("a", ConfigurationError("can not LISTEN"))
    with pytest.raises(ConfigurationError, match="can not LISTEN"):
        await waiting
    assert list(wanted) == []


class Listened:
    """Channels that were asked for and proven, each left at its number."""

    def __init__(self, *channels: str) -> None:
        self.stats = SourceStats()
        self.told: list[str] = []
        self.wanted = Wanted(self.stats, given_up=self.told.append)
        for seq, channel in enumerate(channels):
            self.wanted.ask(channel, limit=9)
            self.wanted.prove(channel)
            self.wanted.leave(channel, seq=seq)


async def test_what_is_given_up_is_told_and_unlistened_once_and_only_when_it_was_listened_to() -> None:
    stage = Listened("proven")
    waiting = stage.wanted.ask("asked", limit=9)
    stage.wanted.leave("asked", seq=0)
    stage.wanted.give_up_before(1)
    assert waiting.cancelled()
    assert ([*stage.wanted], stage.told) == ([], ["proven"])
    assert (stage.wanted.leaving(9), stage.wanted.leaving(9)) == (["proven"], [])
    assert (stage.stats.channels, stage.stats.channels_unused) == (0, 0)
    assert stage.stats.channels_given_up == {"unused": 2}


async def test_what_is_given_up_while_listen_is_under_way_is_unlistened_then() -> None:
    stage = Listened()
    stage.wanted.ask("a", limit=9)
    stage.wanted.leave("a", seq=0)
    stage.wanted.give_up_before(1)
    assert not stage.wanted.prove("a")
    assert (stage.told, stage.stats.channels, stage.wanted.leaving(9)) == ([], 0, ["a"])


async def test_a_new_session_has_nothing_to_unlisten_and_begins_without_what_is_unused() -> None:
    stage = Listened("given up", "left", "used")
    stage.wanted.use("used")
    stage.wanted.give_up_before(1)
    stage.wanted.disprove()
    stage.wanted.forget_unused()
    assert (stage.wanted.leaving(9), stage.wanted.missing(9)) == ([], ["used"])
    assert stage.told == ["given up"], "what a lost session heard is told of by other means"


async def test_only_what_is_wanted_can_be_left() -> None:
    stage = Listened()
    stage.wanted.leave("never asked for", seq=1)
    assert stage.stats.channels_unused == 0


@pytest.mark.parametrize(("name", "told"), [("b", []), ("new", ["a", "b"]), ("", [])])
async def test_a_lower_limit_is_kept_by_giving_up_more_than_one(name: str, told: list[str]) -> None:
    stage = Listened("a", "b", "c")
    asked = stage.wanted.ask(name, limit=2)
    assert stage.told == told
    assert isinstance(asked.exception() if asked.done() else None, ConfigurationError if not name else type(None))


async def test_the_first_missing_are_told_in_the_order_they_were_asked_for() -> None:
    wanted = Wanted(SourceStats())
    for name in "cab":
        wanted.ask(name, limit=9)
    assert wanted.missing(2) == ["c", "a"]


async def test_at_the_end_whoever_waits_is_cancelled() -> None:
    wanted = Wanted(SourceStats())
    waiting = wanted.ask("a", limit=9)
    wanted.close()
    assert waiting.cancelled()
