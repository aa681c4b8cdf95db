"""Whatever pieces the bytes of a link come in, the messages are those that were said; anything else ends the link."""

from __future__ import annotations

import itertools
import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.workers.framing import FRAME_BYTES, Decoder, LinkBroken, encode
from pgcachewatch_daemon.workers.messages import Ask, Ensure, Hasten, Message

SAID: list[list[Message]] = [[Ask(1)], [Ensure("ch" * 500, 1), Hasten(0.5)], [], [Ask(2)]]
BYTES = b"".join(map(encode, SAID))


@given(cuts=st.lists(st.integers(0, len(BYTES)), max_size=20))
def test_pieces_of_any_size_give_the_same_messages(cuts: list[int]) -> None:
    decoder = Decoder()
    heard: list[Message] = []
    places = [0, *sorted(cuts), len(BYTES)]
    for start, end in itertools.pairwise(places):
        heard += decoder.feed(BYTES[start:end])
    assert heard == [message for messages in SAID for message in messages]


def test_what_is_complete_is_not_held() -> None:
    decoder = Decoder()
    decoder.feed(BYTES)
    assert not decoder._held


def test_a_length_that_nobody_says_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(LinkBroken, match=str(FRAME_BYTES)):
        Decoder().feed(struct.pack("!I", FRAME_BYTES + 1))


@pytest.mark.parametrize("data", [b"", b"garbage", pickle.dumps([Ask(1)])[:-3]], ids=["empty", "garbage", "cut off"])
def test_what_is_no_pickle_breaks_the_link(data: bytes) -> None:
    with pytest.raises(LinkBroken, match="can not be read"):
        Decoder().feed(struct.pack("!I", len(data)) + data)
