"""Cutting a stream into frames: the same messages and the same end as the library's own reader, however it is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from pgcachewatch.aio.frames import FrameReader

LIMIT_BYTES = 70_000

Message = tuple[Opcode, bytes, bool]


def wire(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin=fin).serialize(mask=False)


def text(content: str) -> bytes:
    return wire(Opcode.TEXT, content.encode())


class Reference:
    """The library's reader: what it says of a stream."""

    def __init__(self) -> None:
        self.protocol = Protocol(Side.CLIENT, state=OPEN, max_size=LIMIT_BYTES)
        self.messages: list[Message] = []

    def feed(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            self.messages.append((event.opcode, bytes(event.data), event.fin))

    def end(self) -> tuple[object, ...]:
        """How the connection stands, and what of it can be seen from the other end."""
        sent_bytes = sum(len(data) for data in self.protocol.data_to_send())  # masked by chance
        return self.protocol.state, self.protocol.close_rcvd, self.protocol.close_sent, sent_bytes


class Lean(Reference):
    """The same with the plain frames taken out before, as the link does."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = 0
        self._frames = FrameReader(limit_bytes=LIMIT_BYTES)

    def feed(self, data: bytes) -> None:
        for part in self._frames.feed(data):
            if isinstance(part, bytes):
                super().feed(part)
            elif self.protocol.state is OPEN:
                self.plain += len(part)
                self.messages += [(Opcode.TEXT, content.encode(), True) for content in part]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[start:end] for start, end in itertools.pairwise(ends)]


PAYLOADS = st.binary(max_size=5) | st.sampled_from([b"x" * size for size in (125, 126, 65_535, 65_536, LIMIT_BYTES)])
FRAMES = st.one_of(
    st.text(max_size=5).map(text),
    PAYLOADS.map(lambda data: wire(Opcode.TEXT, data)),
    PAYLOADS.map(lambda data: wire(Opcode.BINARY, data)),
    st.sampled_from([wire(Opcode.PING, b"p"), wire(Opcode.PONG, b"")]),
    # A message in parts, with a control frame between them.
    st.sampled_from(
        [
            wire(Opcode.TEXT, b"a", fin=False) + wire(Opcode.PING, b"") + wire(Opcode.CONT, b"b"),
            wire(Opcode.BINARY, b"a", fin=False) + wire(Opcode.CONT, b"", fin=False) + wire(Opcode.CONT, b"b"),
        ]
    ),
)
# What ends a connection: wrong, too long, masked, or a close frame.
ENDS = [
    wire(Opcode.CLOSE, b"\x03\xe8bye"),
    wire(Opcode.CLOSE, b"\x03"),
    wire(Opcode.TEXT, b"a", fin=False) + text("b"),
    wire(Opcode.CONT, b"alone"),
    wire(Opcode.TEXT, b"x" * (LIMIT_BYTES + 1)),
    b"\xc1\x01a",
    b"\x83\x01a",
    b"\x09\x00",
    b"\x89\x7e\x00\x7e" + b"p" * 126,
    Frame(Opcode.TEXT, b"masked").serialize(mask=True),
    b"\x81\xff" + b"\xff" * 8,
    b"\x81\x7f" + b"\xff" * 8,
]
PLACES = st.lists(st.integers(0, 200_000), max_size=8)


@given(st.lists(FRAMES, max_size=6), st.none() | st.sampled_from(ENDS), st.lists(FRAMES, max_size=2), PLACES)
def test_a_stream_says_what_it_says_to_the_library(
    frames: list[bytes], end: bytes | None, behind: list[bytes], places: list[int]
) -> None:
    stream = b"".join([*frames, end or b"", *behind])
    library, lean = Reference(), Lean()
    library.feed(stream)

    for piece in cut(stream, places):
        lean.feed(piece)

    assert lean.messages == library.messages
    assert lean.end() == library.end()


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end[:2].hex())
@pytest.mark.parametrize("piece_bytes", [1, 1_000_000])
def test_each_end_is_the_end_it_is_to_the_library(end: bytes, piece_bytes: int) -> None:
    stream = text("before") + end + text("behind")
    library, lean = Reference(), Lean()
    library.feed(stream)

    for at in range(0, len(stream), piece_bytes):
        lean.feed(stream[at : at + piece_bytes])

    assert lean.messages == library.messages
    assert lean.end() == library.end()
    assert lean.plain == 1


@given(st.binary(max_size=60), PLACES)
def test_any_bytes_say_what_they_say_to_the_library(stream: bytes, places: list[int]) -> None:
    library, lean = Reference(), Lean()
    library.feed(stream)

    for piece in cut(stream, places):
        lean.feed(piece)

    assert [one for one in lean.messages if one[2]] == [one for one in library.messages if one[2]]
    assert lean.end() == library.end()


def test_all_plain_frames_of_one_read_come_together_and_none_reaches_the_library() -> None:
    frames = FrameReader(limit_bytes=LIMIT_BYTES)
    contents = ["", "a", "ü" * 63, "b" * 70_000, "c"]

    assert frames.feed(b"".join(map(text, contents)) + text("next")[:-1]) == [contents]
    assert frames.feed(b"t") == [["next"]]


def test_a_long_frame_that_comes_in_pieces_is_looked_at_once_more_when_it_is_whole() -> None:
    frames, stream = FrameReader(limit_bytes=LIMIT_BYTES), text("x" * 60_000)

    for at in range(len(stream) - 1):
        assert frames.feed(stream[at : at + 1]) == []

    assert frames.feed(stream[-1:]) == [["x" * 60_000]]


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 2**62])
def test_a_frame_beyond_the_limit_is_not_waited_for(size: int) -> None:
    frames = FrameReader(limit_bytes=LIMIT_BYTES)
    beginning = b"\x81\x7f" + size.to_bytes(8, "big") + b"x"

    assert frames.feed(text("before") + beginning) == [["before"], beginning]
    assert frames.feed(text("behind")) == [text("behind")], "nothing is held any more"
