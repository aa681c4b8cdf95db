"""The longest unused goes first, and what no resume can need goes by itself."""

from __future__ import annotations

from pgcachewatch_daemon.core.unused import Unused


def left(*channels: str) -> Unused:
    unused = Unused()
    for seq, channel in enumerate(channels):
        unused.add(channel, seq=seq)
    return unused


def test_channels_are_in_the_order_in_which_they_were_left_last() -> None:
    unused = left("a", "b", "a", "c")
    assert (unused.longest(0), unused.longest(2), unused.all(), len(unused)) == ([], ["b", "a"], ["b", "a", "c"], 3)


def test_one_that_is_used_again_is_not_among_them() -> None:
    unused = left("a", "b")
    unused.discard("a")
    unused.discard("never there")
    assert unused.all() == ["b"]


def test_what_was_left_at_the_floor_can_still_be_resumed() -> None:
    unused = left("a", "b", "c")
    assert [unused.before(floor) for floor in (0, 1, 3)] == [[], ["a"], ["a", "b", "c"]]
