"""Frames built once, and what the library's protocol does differently here."""

from __future__ import annotations

import pytest
from websockets.exceptions import NegotiationError
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.streams import StreamReader
from websockets.typing import Subprotocol

from pgcachewatch_daemon.io.websocket import text_frame
from pgcachewatch_daemon.io.websocket.wire import REASON_BYTES, WireProtocol, shorten


def parse(data: bytes) -> Frame:
    """Read one frame as a client does."""
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as ended:
        next(parser)
    assert not reader.buffer, "there is more than the frame"
    frame = ended.value.value
    assert isinstance(frame, Frame)
    return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_frame_of_each_length_is_read_back_whole(size: int) -> None:
    text = "x" * size
    assert bytes(parse(text_frame(text)).data) == text.encode()


def test_a_frame_holds_utf_8() -> None:
    assert bytes(parse(text_frame("ü")).data).decode() == "ü"


@pytest.mark.parametrize(("too_big", "code"), [(None, 1009), ((4308, "limit"), 4308)])
def test_a_frame_over_the_size_closes_with_the_code_it_was_given(too_big: tuple[int, str] | None, code: int) -> None:
    protocol = WireProtocol(state=OPEN, max_size=10)
    protocol.too_big = too_big
    protocol.receive_data(b"\x81\x8b" + bytes(4) + b"x" * 11)
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == code


def test_the_subprotocol_is_taken_from_the_offer_or_the_offer_is_refused_by_name() -> None:
    protocol = WireProtocol()
    assert protocol.select_subprotocol([Subprotocol("whatever")]) is None
    protocol.available_subprotocols = [Subprotocol("ours")]
    assert protocol.select_subprotocol([Subprotocol("other"), Subprotocol("ours")]) == "ours"
    with pytest.raises(NegotiationError, match="offer the subprotocol 'ours', not other"):
        protocol.select_subprotocol([Subprotocol("other")])


def test_a_reason_is_cut_to_what_a_close_frame_holds_at_a_character() -> None:
    assert shorten("ü" * 100) == "ü" * (REASON_BYTES // 2)
    assert len(shorten("aü" * 100).encode()) <= REASON_BYTES
