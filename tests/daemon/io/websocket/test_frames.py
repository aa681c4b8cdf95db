"""Frames read and written as RFC 6455 wants it, with the library as the other side."""

from __future__ import annotations

import codecs
import doctest
import itertools
import secrets
import zlib
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.utils import apply_mask

from pgcachewatch_daemon.io.websocket import frames
from pgcachewatch_daemon.io.websocket.frames import Closed, FrameReader, Item, Ping, Pong, Violation

LIMIT = 65_536
TEXT, BINARY, CONT, CLOSE, PING, PONG = (
    Opcode.TEXT, Opcode.BINARY, Opcode.CONT, Opcode.CLOSE, Opcode.PING, Opcode.PONG,
)  # fmt: skip


def sent(opcode: Opcode, data: bytes = b"", *, fin: bool = True, rsv1: bool = False) -> bytes:
    """A frame as the library's client sends it, with no check of what is in it."""
    frame = Frame(opcode, data, fin, rsv1=rsv1)
    frame.check = lambda: None  # type: ignore[method-assign]  # the tests want wrong ones too
    return frame.serialize(mask=True)


def raw(first: int, second: int, rest: bytes = b"") -> bytes:
    return bytes((first, second)) + rest


def read(reader: FrameReader, pieces: Iterable[bytes]) -> list[Item]:
    return list(itertools.chain.from_iterable(reader.feed(piece) for piece in pieces))


def read_all(data: bytes, **options: bool) -> list[Item]:
    return list(FrameReader(limit_bytes=LIMIT, **options).feed(data))


def violation(items: list[Item]) -> int:
    """The code of the violation these items end with."""
    last = items[-1]
    assert isinstance(last, Violation), items
    return last.code


def octets(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def test_the_examples_in_the_module_hold() -> None:
    assert doctest.testmod(frames).failed == 0


# --- what is sound


@pytest.mark.parametrize("size", [0, 1, 119, 120, 125, 126, 127, 65_535, 65_536])
@pytest.mark.parametrize("is_text", [True, False], ids=["text", "binary"])
def test_a_message_of_each_length_is_read_whole(size: int, is_text: bool) -> None:
    payload = bytes(97 + at % 26 for at in range(size))
    reader = FrameReader(limit_bytes=LIMIT)
    assert reader.feed(sent(TEXT if is_text else BINARY, payload)) == (payload.decode() if is_text else payload,)
    assert reader.is_idle


def test_messages_in_one_read_come_in_order_with_what_lies_between() -> None:
    data = sent(TEXT, b"one") + sent(PING, b"p") + sent(BINARY, b"\xff") + sent(PONG, b"q") + sent(TEXT, b"two")
    assert read_all(data) == ["one", Ping(b"p"), b"\xff", Pong(b"q"), "two"]


def test_fragments_are_joined_around_control_frames() -> None:
    fragments = (
        sent(TEXT, "a€".encode()[:2], fin=False),
        sent(PING, b"between"),
        sent(CONT, b"", fin=False),
        sent(CONT, "a€".encode()[2:], fin=True),
    )
    assert read_all(b"".join(fragments)) == [Ping(b"between"), "a€"]


def test_a_message_may_be_made_of_nothing() -> None:
    assert read_all(sent(TEXT, fin=False) + sent(CONT, fin=False) + sent(CONT)) == [""]


def test_nothing_is_kept_between_messages() -> None:
    reader = FrameReader(limit_bytes=LIMIT)
    for piece in octets(sent(TEXT, b"a" * 300) + sent(BINARY, b"b", fin=False) + sent(CONT, b"c") + sent(PING, b"d")):
        reader.feed(piece)
    assert reader.is_idle
    assert [getattr(reader, name) for name in ("_unread", "_frame", "_message")] == [b"", None, None]


def test_a_length_in_more_bytes_than_it_needs_is_read_as_the_library_reads_it() -> None:
    mask = bytes(4)
    assert read_all(raw(0x81, 0xFE, b"\0\1" + mask + b"x")) == ["x"]
    assert read_all(raw(0x81, 0xFF, b"\0\0\0\0\0\0\0\1" + mask + b"x")) == ["x"]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999])
def test_a_close_says_its_code_and_reason_and_nothing_follows(code: int) -> None:
    payload = Close(code, "bye").serialize()
    reader = FrameReader(limit_bytes=LIMIT)
    assert reader.feed(sent(CLOSE, payload) + sent(TEXT, b"late")) == (Closed(code, "bye"),)
    assert reader.feed(sent(TEXT, b"later")) == ()
    assert reader.is_idle


def test_a_close_without_a_code_is_1005() -> None:
    assert read_all(sent(CLOSE)) == [Closed(1005, "")]


def test_a_close_amid_a_fragmented_message_is_a_close() -> None:
    # The library takes it for a violation, and fails Autobahn's case 7.1.5 by it: section 5.4 allows control frames
    # between the fragments of a message, and this is one.
    assert read_all(sent(TEXT, b"a", fin=False) + sent(CLOSE, b"\x03\xe8") + sent(CONT, b"b")) == [Closed(1000, "")]


# --- what is not


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_a_reserved_opcode_is_1002(opcode: int) -> None:
    assert violation(read_all(raw(0x80 | opcode, 0x80))) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("bits", [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("opcode", [0x1, 0x2, 0x8, 0x9, 0xA])
def test_a_reserved_bit_is_1002(bits: int, opcode: int) -> None:
    assert violation(read_all(raw(0x80 | bits | opcode, 0x80))) == CloseCode.PROTOCOL_ERROR


def test_with_compression_one_bit_is_allowed_and_only_where_a_message_begins() -> None:
    for first in (0x91, 0xA1, 0xC9, 0xC8):
        assert violation(read_all(raw(first, 0x80), is_deflated=True)) == CloseCode.PROTOCOL_ERROR
    twice = sent(TEXT, b"a", fin=False, rsv1=True) + sent(CONT, b"b", rsv1=True)
    assert violation(read_all(twice, is_deflated=True)) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("first", [0x81, 0x82, 0x88, 0x89, 0x8A, 0x01])
def test_an_unmasked_frame_is_1002(first: int) -> None:
    assert violation(read_all(raw(first, 0x01, b"x"))) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_is_short_and_whole(opcode: Opcode) -> None:
    assert violation(read_all(sent(opcode, b"x" * 126)[:2])) == CloseCode.PROTOCOL_ERROR
    assert violation(read_all(sent(opcode, b"", fin=False))) == CloseCode.PROTOCOL_ERROR


def test_a_continuation_of_nothing_and_a_message_within_a_message_are_1002() -> None:
    assert violation(read_all(sent(CONT, b"x"))) == CloseCode.PROTOCOL_ERROR
    assert violation(read_all(sent(TEXT, b"x", fin=False) + sent(BINARY, b"y"))) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_a_close_code_that_may_not_be_sent_is_1002(code: int) -> None:
    assert violation(read_all(sent(CLOSE, code.to_bytes(2)))) == CloseCode.PROTOCOL_ERROR


def test_a_close_of_one_byte_is_1002_and_a_reason_that_is_no_text_1007() -> None:
    assert violation(read_all(sent(CLOSE, b"\x03"))) == CloseCode.PROTOCOL_ERROR
    assert violation(read_all(sent(CLOSE, b"\x03\xe8\xff"))) == CloseCode.INVALID_DATA


# The first is a surrogate, the second lies above U+10FFFF, the third is longer than it needs to be, the last is cut.
@pytest.mark.parametrize("wrong", [b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"\xff", b"\x80", b"\xe2\x82"])
def test_text_that_is_not_utf_8_is_1007(wrong: bytes) -> None:
    data = "κόσμε".encode() + wrong
    frame = sent(TEXT, data)
    assert violation(read_all(frame)) == CloseCode.INVALID_DATA
    assert violation(read(FrameReader(limit_bytes=LIMIT), octets(frame))) == CloseCode.INVALID_DATA
    assert violation(read_all(sent(TEXT, data[:3], fin=False) + sent(CONT, data[3:]))) == CloseCode.INVALID_DATA
    assert read_all(sent(BINARY, data)) == [data]


def test_text_is_refused_at_its_first_wrong_byte_though_more_is_announced() -> None:
    reader = FrameReader(limit_bytes=LIMIT)
    fragment = sent(TEXT, "κόσμε".encode(), fin=False)
    frame = sent(CONT, b"\xf4\x90" + b"x" * 10_000)
    assert read(reader, (fragment, frame[:8], frame[8:9])) == []
    assert violation(list(reader.feed(frame[9:10]))) == CloseCode.INVALID_DATA
    assert reader.feed(frame[10:]) == ()


@pytest.mark.parametrize("limit", [0, 1, 10, 125, 126, 1_000, 65_536, 70_000])
def test_a_message_at_the_limit_passes_and_one_byte_more_is_refused_from_its_header(limit: int) -> None:
    whole = FrameReader(limit_bytes=limit)
    assert whole.feed(sent(BINARY, b"x" * limit)) == (b"x" * limit,)
    for opcode in (TEXT, BINARY):
        header = sent(opcode, b"x" * (limit + 1))[: -limit - 1]
        assert violation(list(FrameReader(limit_bytes=limit).feed(header))) == CloseCode.MESSAGE_TOO_BIG
    full = sent(TEXT, b"x" * (limit + 1))
    assert violation(list(FrameReader(limit_bytes=limit).feed(full))) == CloseCode.MESSAGE_TOO_BIG


def test_the_limit_holds_over_all_fragments_and_spares_control_frames() -> None:
    reader = FrameReader(limit_bytes=10)
    assert reader.feed(sent(TEXT, b"12345", fin=False) + sent(PING, b"p" * 125)) == (Ping(b"p" * 125),)
    header = sent(CONT, b"678901")[:6]
    assert violation(list(reader.feed(header))) == CloseCode.MESSAGE_TOO_BIG


def test_a_length_no_memory_could_hold_is_refused_like_any_other() -> None:
    assert violation(read_all(raw(0x82, 0xFF, b"\xff" * 8 + bytes(4)))) == CloseCode.MESSAGE_TOO_BIG


def test_what_came_before_a_violation_is_given_first() -> None:
    items = read_all(sent(TEXT, b"sound") + raw(0x83, 0x80) + sent(TEXT, b"lost"))
    assert items[:-1] == ["sound"]
    assert violation(items) == CloseCode.PROTOCOL_ERROR


# --- compression


def library_deflate() -> PerMessageDeflate:
    return PerMessageDeflate(True, True, 15, 15)


def deflated(text: str, *, cuts: int = 1) -> bytes:
    """A compressed message as the library's client sends it, in one frame or more."""
    extension = library_deflate()
    data = text.encode()
    step = max(1, -(-len(data) // cuts))
    pieces = [data[at : at + step] for at in range(0, len(data), step)] or [b""]
    return b"".join(
        Frame(TEXT if at == 0 else CONT, piece, fin=at == len(pieces) - 1).serialize(mask=True, extensions=[extension])
        for at, piece in enumerate(pieces)
    )


@pytest.mark.parametrize("cuts", [1, 3])
def test_a_compressed_message_is_inflated_one_that_is_not_is_left_alone(cuts: int) -> None:
    data = deflated("wölfe " * 1_000, cuts=cuts) + sent(TEXT, b"plain") + deflated("again")
    assert read_all(data, is_deflated=True) == ["wölfe " * 1_000, "plain", "again"]


def test_a_bomb_is_1009_and_inflated_no_further_than_the_limit() -> None:
    assert violation(read_all(deflated("x" * 10_000_000), is_deflated=True)) == CloseCode.MESSAGE_TOO_BIG
    assert read_all(deflated("x" * LIMIT), is_deflated=True) == ["x" * LIMIT]


def test_compressed_garbage_is_1007_also_when_it_inflates_to_no_text() -> None:
    assert violation(read_all(sent(TEXT, b"\xff" * 20, rsv1=True), is_deflated=True)) == CloseCode.INVALID_DATA
    deflater = zlib.compressobj(wbits=-15)
    data = (deflater.compress(b"\xff") + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert violation(read_all(sent(TEXT, data, rsv1=True), is_deflated=True)) == CloseCode.INVALID_DATA


@given(st.text() | st.binary(), st.integers(9, 15))
def test_a_deflated_frame_is_inflated_by_the_library(message: str | bytes, bits: int) -> None:
    extension = PerMessageDeflate(True, True, bits, bits)
    frame = parsed(frames.deflated_frame(message, window_bits=bits), [extension])
    data = bytes(frame.data)
    assert (data.decode() if frame.opcode is TEXT else data) == message


# --- what is written


def parsed(data: bytes, extensions: list[PerMessageDeflate] | None = None) -> Frame:
    """One frame, read by the library as a client."""
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
    with pytest.raises(StopIteration) as ended:
        next(parser)
    assert not reader.buffer, "there is more than the frame"
    frame = ended.value.value
    assert isinstance(frame, Frame)
    return frame


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_frames_are_what_the_library_writes(size: int) -> None:
    payload = b"x" * size
    assert frames.text_frame(payload.decode()) == Frame(TEXT, payload).serialize(mask=False)
    assert frames.binary_frame(payload) == Frame(BINARY, payload).serialize(mask=False)
    if size <= 125:
        assert frames.ping_frame(payload) == Frame(PING, payload).serialize(mask=False)
        assert frames.pong_frame(payload) == Frame(PONG, payload).serialize(mask=False)


def test_a_close_frame_is_what_the_library_writes_with_a_reason_that_fits() -> None:
    assert frames.close_frame(4308, "bye") == Frame(CLOSE, Close(4308, "bye").serialize()).serialize(mask=False)
    assert Close.parse(parsed(frames.close_frame(1000, "aü" * 100)).data).reason == "aü" * 41
    assert len(parsed(frames.close_frame(1000, "a" * 200)).data) == 125
    assert parsed(frames.close_frame(1005)).data == b""


# --- any stream of bytes


@st.composite
def sound_messages(draw: st.DrawFn) -> tuple[list[Item], bytes]:
    """Messages, and the bytes the library's client sends for them, in fragments with control frames between."""
    items: list[Item] = []
    data = b""
    for content in draw(st.lists(st.text(max_size=200) | st.binary(max_size=200), max_size=5)):
        opcode, payload = (TEXT, content.encode()) if isinstance(content, str) else (BINARY, content)
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        bounds = list(itertools.pairwise([0, *cuts, len(payload)]))
        for at, (begin, end) in enumerate(bounds):
            data += sent(opcode if at == 0 else CONT, payload[begin:end], fin=at == len(bounds) - 1)
            if at < len(bounds) - 1 and draw(st.booleans()):
                items.append(Ping(b"between"))
                data += sent(PING, b"between")
        items.append(content)
    return items, data


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[begin:end] for begin, end in itertools.pairwise([0, *cuts, len(data)])]


@given(sound_messages(), st.data())
def test_any_split_gives_the_same_messages(messages: tuple[list[Item], bytes], draw: st.DataObject) -> None:
    items, data = messages
    assert read(FrameReader(limit_bytes=LIMIT), draw.draw(split(data))) == items
    assert read(FrameReader(limit_bytes=LIMIT), octets(data)) == items


# Streams near a sound one reach further into the reader than random bytes do.
@st.composite
def hostile_stream(draw: st.DrawFn) -> bytes:
    _, data = draw(sound_messages())
    changed = bytearray(data + draw(st.binary(max_size=20)))
    for _ in range(draw(st.integers(0, 4)) if changed else 0):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@given(hostile_stream() | st.binary(), st.data(), st.booleans())
def test_nothing_raises_and_a_split_changes_no_verdict(data: bytes, draw: st.DataObject, is_deflated: bool) -> None:
    def verdict(pieces: list[bytes]) -> list[object]:
        items = read(FrameReader(limit_bytes=300, is_deflated=is_deflated), pieces)
        assert not any(isinstance(item, Closed | Violation) for item in items[:-1]), "something follows the end"
        return [type(item) if isinstance(item, Violation) else item for item in items]

    assert verdict([data]) == verdict(draw.draw(split(data))) == verdict(octets(data))


def read_by_library(data: bytes) -> list[Item]:
    """The same stream through the library's server, in our words; it leaves it to its application to look at text."""
    protocol = ServerProtocol(state=OPEN, max_size=LIMIT)
    protocol.receive_data(data)
    items: list[Item] = []
    fragments: list[bytes] = []
    decoder: codecs.IncrementalDecoder | None = None
    for frame in protocol.events_received():
        assert isinstance(frame, Frame)
        payload = bytes(frame.data)
        match frame.opcode:
            case Opcode.PING:
                items.append(Ping(payload))
            case Opcode.PONG:
                items.append(Pong(payload))
            case Opcode.CLOSE:
                close = Close.parse(payload)
                items.append(Closed(int(close.code), close.reason))
            case _:
                if frame.opcode is not Opcode.CONT:
                    fragments = []
                    decoder = codecs.getincrementaldecoder("utf-8")() if frame.opcode is Opcode.TEXT else None
                fragments.append(payload)
                try:
                    if decoder is not None:
                        decoder.decode(payload, frame.fin)
                except UnicodeDecodeError:
                    return [*items, Violation(1007, "")]
                if frame.fin:
                    message = b"".join(fragments)
                    items.append(message if decoder is None else message.decode())
    if protocol.close_sent is not None and protocol.parser_exc is not None:
        items.append(Violation(int(protocol.close_sent.code), ""))
    return items


@given(hostile_stream() | st.binary())
def test_what_the_library_refuses_we_refuse_and_what_we_read_it_reads(data: bytes) -> None:
    ours, theirs = read_all(data), read_by_library(data)
    # A close between fragments is a violation to the library alone, see above.
    is_refused = bool(ours) and isinstance(ours[-1], Violation)
    is_refused_there = bool(theirs) and isinstance(theirs[-1], Violation)
    ours_sound = ours[:-1] if is_refused else ours
    theirs_sound = theirs[:-1] if is_refused_there else theirs
    if is_refused_there:
        assert is_refused or isinstance(ours[-1], Closed)
        assert theirs_sound == ours_sound or [*theirs_sound, ours[-1]] == ours
    elif is_refused:
        # From the header, where the library waits for the payload; or a control frame with a long form of its length.
        assert theirs_sound[: len(ours_sound)] == ours_sound
    else:
        assert theirs_sound == ours_sound


def test_a_message_in_a_thousand_reads_costs_one_copy_of_it() -> None:
    payload = secrets.token_bytes(60_000)
    data = sent(BINARY, payload)
    reader = FrameReader(limit_bytes=LIMIT)
    copied: list[int] = []

    def counting(mask: Callable[[bytes, bytes], bytes]) -> Callable[[bytes, bytes], bytes]:
        def apply(piece: bytes, key: bytes) -> bytes:
            copied.append(len(piece))
            return mask(piece, key)

        return apply

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(frames, "apply_mask", counting(apply_mask))
        assert read(reader, [data[at : at + 60] for at in range(0, len(data), 60)]) == [payload]
    assert sum(copied) == len(payload)
