"""Frames of RFC 6455 as a server reads and writes them, once the handshake is done.

A FrameReader is fed what the socket gave, cut anywhere, and returns what it means: whole messages, pings, pongs, the
peer's close, or the one Violation after which nothing is read any more. It holds no socket and decides no answer.

Invariants. A message is returned whole or not at all. What breaks a rule is a Violation that names the code to close
with, found as early as the bytes allow it: reserved bits and sizes from the header, before the payload has come, and
text that is not UTF-8 at its first wrong byte. No input raises.

Bounds. `limit_bytes` holds for a message, over all of its fragments and after inflation; a control frame has 125 bytes
(section 5.5). Between messages a reader keeps nothing but itself.
On the path of an event: step 7, leave (the functions), and the way in for what a client asks.
"""

from __future__ import annotations

import codecs
import zlib
from dataclasses import dataclass
from struct import Struct
from typing import Final

from websockets.frames import CloseCode

try:
    from websockets.speedups import apply_mask
except ImportError:  # the library was built without a compiler
    from websockets.utils import apply_mask

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA  # section 5.2
OPCODES = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
FINAL, COMPRESSED, RESERVED, OPCODE, MASKED, LENGTH = 0x80, 0x40, 0x70, 0x0F, 0x80, 0x7F
FINAL_TEXT = FINAL | TEXT
SHORT_BYTES = 125  # up to here the length is in the second byte
TWO_BYTES, EIGHT_BYTES = 126, 127  # what the second byte says of longer ones
MEDIUM_BYTES = 65_535
MASK_BYTES = 4
HEADER_BYTES = 2 + MASK_BYTES  # of a short frame from a client
REASON_BYTES = 123  # of a close, behind its code

PACK_MEDIUM = Struct("!BBH").pack
PACK_LONG = Struct("!BBQ").pack
PACK_CODE = Struct("!H").pack

UTF_8_DECODER = codecs.getincrementaldecoder("utf-8")
DEFLATE_TAIL = b"\x00\x00\xff\xff"  # what a deflated message leaves out at its end (RFC 7692 section 7.2.1)


# Section 7.4.1 and the registry it founded. 1004, 1005, 1006 and 1015 are never sent.
REGISTERED_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
PRIVATE_CODES = range(3000, 5000)  # section 7.4.2: libraries, frameworks and applications


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with `pong_frame` of the same payload (section 5.5.2)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, or a sign of life nobody asked for (section 5.5.3)."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The peer's close: nothing follows. Answer with `close_frame` of the same; `code` is 1005 when there was none."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Violation:
    """The peer broke a rule: close with `code`. Nothing follows."""

    code: int
    reason: str


Item = str | bytes | Ping | Pong | Closed | Violation


class FrameReader:
    """The incoming half of one connection. `is_deflated` when permessage-deflate was negotiated (RFC 7692).

    >>> reader = FrameReader(limit_bytes=1_000)
    >>> reader.feed(bytes.fromhex("818537fa213d7f9f4d5158"))
    ('Hello',)
    >>> reader.feed(b"\\x81"), reader.feed(b"\\x05Hello")
    ((), (Violation(code=1002, reason='a frame from a client must be masked'),))
    """

    __slots__ = ("_frame", "_is_deflated", "_is_over", "_limit_bytes", "_message", "_unread")

    def __init__(self, *, limit_bytes: int, is_deflated: bool = False) -> None:
        self._limit_bytes = limit_bytes
        self._is_deflated = is_deflated
        self._is_over = False
        self._unread = b""  # less than a header
        self._frame: _Frame | None = None
        self._message: _Message | None = None

    @property
    def is_idle(self) -> bool:
        """True between messages, when nothing is kept."""
        return not self._unread and self._frame is None and self._message is None

    def feed(self, data: bytes) -> tuple[Item, ...]:  # hot path
        """What `data` completes, in order. After a Closed or a Violation there is nothing more, whatever comes."""
        # One short text frame in one read is nearly all that clients send; the long way gives the same for it.
        if (
            len(data) >= HEADER_BYTES
            and data[0] == FINAL_TEXT
            and len(data) - HEADER_BYTES == data[1] - MASKED < TWO_BYTES
            and len(data) <= self._limit_bytes
            and self._frame is None
            and self._message is None
            and not self._unread
            and not self._is_over
        ):
            try:
                return (apply_mask(data[HEADER_BYTES:], data[2:HEADER_BYTES]).decode(),)
            except UnicodeDecodeError:
                pass  # the long way says where
        return self._read(data)

    def _read(self, data: bytes) -> tuple[Item, ...]:
        if self._is_over:
            return ()
        items: list[Item] = []
        if self._unread:
            data, self._unread = self._unread + data, b""
        at = 0
        try:
            while not self._is_over:
                if self._frame is None:
                    size = _header_bytes(data, at)
                    if size > len(data) - at:
                        self._check_early(data, at)
                        self._unread = data[at:]
                        break
                    self._frame = self._opened(data, at, size)
                    at += size
                frame = self._frame
                taken = data[at : at + frame.left_bytes]
                at += len(taken)
                frame.take(taken)
                if frame.left_bytes:
                    break
                self._frame = None
                self._ended(frame, items)
        except _Violated as violated:
            items.append(Violation(violated.code, violated.reason))
            self._end()
        return tuple(items)

    def _check_early(self, data: bytes, at: int) -> None:
        """Refuse what can not become a sound header, although there is not all of it yet."""
        if len(data) - at >= 2:
            self._check(data[at], data[at + 1])

    def _check(self, first: int, second: int) -> None:
        """The two bytes that each frame begins with (section 5.2)."""
        opcode = first & OPCODE
        if opcode not in OPCODES:
            raise _Violated(CloseCode.PROTOCOL_ERROR, f"opcode {opcode} is reserved")
        if first & self._reserved(opcode):
            raise _Violated(CloseCode.PROTOCOL_ERROR, "reserved bits must be 0")
        if not second & MASKED:
            raise _Violated(CloseCode.PROTOCOL_ERROR, "a frame from a client must be masked")
        if opcode >= CLOSE:
            if second & LENGTH > SHORT_BYTES:
                raise _Violated(CloseCode.PROTOCOL_ERROR, f"a control frame has at most {SHORT_BYTES} bytes")
            if not first & FINAL:
                raise _Violated(CloseCode.PROTOCOL_ERROR, "a control frame must not be fragmented")
        elif opcode == CONTINUATION and self._message is None:
            raise _Violated(CloseCode.PROTOCOL_ERROR, "there is no message to continue")
        elif opcode != CONTINUATION and self._message is not None:
            raise _Violated(CloseCode.PROTOCOL_ERROR, "the message before has not ended")

    def _reserved(self, opcode: int) -> int:
        # RFC 7692 section 6: only the first frame of a message says that it is compressed.
        return RESERVED & ~COMPRESSED if self._is_deflated and opcode in (TEXT, BINARY) else RESERVED

    def _opened(self, data: bytes, at: int, size: int) -> _Frame:
        """The frame whose header lies whole at `at`, with a place for its payload."""
        first, second = data[at], data[at + 1]
        self._check(first, second)
        length_bytes = second & LENGTH
        if length_bytes > SHORT_BYTES:
            # A length in more bytes than it needs is read, as the library reads it; it harms nobody.
            length_bytes = int.from_bytes(data[at + 2 : at + size - MASK_BYTES])
        frame = _Frame(first, data[at + size - MASK_BYTES : at + size], length_bytes)
        if frame.opcode >= CLOSE:
            return frame
        message = self._message
        if message is None:
            is_compressed = bool(first & COMPRESSED)
            message = self._message = _Message(is_text=frame.opcode == TEXT, is_compressed=is_compressed)
        if len(message.payload) + length_bytes > self._limit_bytes:
            raise _too_big(self._limit_bytes)
        frame.payload, frame.check = message.payload, message.check
        return frame

    def _ended(self, frame: _Frame, items: list[Item]) -> None:
        """A frame is whole: add what it completes."""
        if frame.opcode == PING:
            items.append(Ping(bytes(frame.payload)))
        elif frame.opcode == PONG:
            items.append(Pong(bytes(frame.payload)))
        elif frame.opcode == CLOSE:
            items.append(_closed(bytes(frame.payload)))
            self._end()
        elif frame.is_final and self._message is not None:
            message, self._message = self._message, None
            items.append(message.whole(self._limit_bytes))

    def _end(self) -> None:
        self._is_over = True
        self._unread = b""
        self._frame = self._message = None


class _Violated(Exception):
    """Carries a Violation out of the depth of a read."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code: Final = int(code)
        self.reason: Final = reason


class _Utf8:
    """Checks a text that comes in pieces."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = UTF_8_DECODER()

    def feed(self, data: bytes) -> None:
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError as error:
            raise _not_utf_8(error) from error


class _Message:
    """A message of which not all has come. Compressed text can be checked only when it is whole."""

    __slots__ = ("check", "is_compressed", "is_text", "payload")

    def __init__(self, *, is_text: bool, is_compressed: bool) -> None:
        self.payload = bytearray()
        self.is_text = is_text
        self.is_compressed = is_compressed
        self.check = _Utf8() if is_text and not is_compressed else None

    def whole(self, limit_bytes: int) -> str | bytes:
        """The last frame has come."""
        payload = _inflated(self.payload, limit_bytes) if self.is_compressed else bytes(self.payload)
        if not self.is_text:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError as error:
            raise _not_utf_8(error) from error


class _Frame:
    """A frame whose header was read; `left_bytes` of its payload have not come. Data goes to its message's payload."""

    __slots__ = ("_mask", "check", "is_final", "left_bytes", "opcode", "payload")

    def __init__(self, first: int, mask: bytes, length_bytes: int) -> None:
        self.is_final = bool(first & FINAL)
        self.opcode = first & OPCODE
        self.left_bytes = length_bytes
        self.payload = bytearray()
        self.check: _Utf8 | None = None
        self._mask = mask

    def take(self, data: bytes) -> None:
        """The next piece of the payload, as it came."""
        plain = apply_mask(data, self._mask)
        turned = len(data) % MASK_BYTES
        self._mask = self._mask[turned:] + self._mask[:turned]
        self.left_bytes -= len(data)
        self.payload += plain
        if self.check is not None:
            self.check.feed(plain)


def _header_bytes(data: bytes, at: int) -> int:
    """How long the header at `at` is, as far as its beginning says."""
    length = data[at + 1] & LENGTH if len(data) - at >= 2 else 0
    return HEADER_BYTES + (8 if length == EIGHT_BYTES else 2 if length == TWO_BYTES else 0)


def _closed(payload: bytes) -> Closed:
    """Section 5.5.1: nothing, or a code and a reason."""
    if not payload:
        return Closed(CloseCode.NO_STATUS_RCVD, "")
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not (code in REGISTERED_CODES or code in PRIVATE_CODES):
        raise _Violated(CloseCode.PROTOCOL_ERROR, "a close has a code that may be sent, or nothing")
    try:
        return Closed(code, payload[2:].decode())
    except UnicodeDecodeError as error:
        raise _not_utf_8(error) from error


def _inflated(payload: bytearray, limit_bytes: int) -> bytes:
    """RFC 7692 section 7.2.2, without context takeover. It stops at the limit, whatever a few bytes promise."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(bytes(payload) + DEFLATE_TAIL, limit_bytes + 1)
    except zlib.error as error:
        raise _Violated(CloseCode.INVALID_DATA, "the message can not be inflated") from error
    if len(plain) > limit_bytes:
        raise _too_big(limit_bytes)
    return plain


def _too_big(limit_bytes: int) -> _Violated:
    return _Violated(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {limit_bytes} bytes")


def _not_utf_8(error: UnicodeDecodeError) -> _Violated:
    return _Violated(CloseCode.INVALID_DATA, f"text must be UTF-8: {error.reason}")


def text_frame(text: str) -> bytes:  # hot path
    """A text as the bytes that go on the wire: framed once, shared by all who are to get it.

    >>> text_frame("{}")
    b'\\x81\\x02{}'
    """
    return _framed(FINAL_TEXT, text.encode())


def binary_frame(data: bytes) -> bytes:
    """
    >>> binary_frame(b"{}")
    b'\\x82\\x02{}'
    """
    return _framed(FINAL | BINARY, data)


def deflated_frame(message: str | bytes, *, window_bits: int = zlib.MAX_WBITS) -> bytes:
    """A text or binary message, compressed by itself, for readers that agreed to it (RFC 7692 section 7.2.1).

    >>> deflated_frame("Hello").hex()
    'c107f248cdc9c90700'
    """
    first, plain = (FINAL_TEXT, message.encode()) if isinstance(message, str) else (FINAL | BINARY, message)
    deflater = zlib.compressobj(wbits=-window_bits)
    data = deflater.compress(plain) + deflater.flush(zlib.Z_SYNC_FLUSH)
    return _framed(first | COMPRESSED, data.removesuffix(DEFLATE_TAIL))


def ping_frame(payload: bytes) -> bytes:
    """At most 125 bytes.

    >>> ping_frame(b"you?")
    b'\\x89\\x04you?'
    """
    return _framed(FINAL | PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping, whose payload it repeats.

    >>> pong_frame(b"you?")
    b'\\x8a\\x04you?'
    """
    return _framed(FINAL | PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """A close; a longer reason than a frame holds is cut at a character. 1005 stands for a close without a code.

    >>> close_frame(1000, "bye")
    b'\\x88\\x05\\x03\\xe8bye'
    """
    if code == CloseCode.NO_STATUS_RCVD:
        return _framed(FINAL | CLOSE, b"")
    cut = reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")
    return _framed(FINAL | CLOSE, PACK_CODE(code) + cut.encode())


def _framed(first: int, data: bytes) -> bytes:  # hot path
    size_bytes = len(data)
    if size_bytes <= SHORT_BYTES:
        return bytes((first, size_bytes)) + data
    if size_bytes <= MEDIUM_BYTES:
        return PACK_MEDIUM(first, TWO_BYTES, size_bytes) + data
    return PACK_LONG(first, EIGHT_BYTES, size_bytes) + data
