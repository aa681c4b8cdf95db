"""Cuts what was read from a socket into WebSocket frames, and reads those that a relay sends thousands of.

A plain frame is a whole text message in one unmasked frame, as RFC 6455, 5.2 lays it out: its first byte is 0x81. All
that one read brought are handed on together, as texts. Any other frame (control, binary, in several parts, not UTF-8,
with a bit that means nothing to us) is handed on as the bytes it is, whole, for the library that made the handshake,
which knows each rule. One that is masked, of no known kind, or announces more than the limit is handed on at once, with
all behind it: the library will end the connection. So nothing is judged here, and no generator is stepped for an event.

Bound: one frame that has not come in whole, of `limit_bytes` at most. On the path of an event: before step 8, enter.
"""

from __future__ import annotations

FINAL_TEXT = 0x81  # FIN, no reserved bit, opcode 1
FINAL = 0x80
OPCODE = 0x0F
DATA_OPCODES = (0, 1, 2)  # continuation, text, binary
OPCODES = (*DATA_OPCODES, 8, 9, 10)  # close, ping, pong
SHORT, MEDIUM, LONG = 125, 126, 127  # sizes up to 125 stand in the second byte; above, in the next 2 or 8


class FrameReader:
    """One direction of one connection, from behind the handshake on.

    >>> reader = FrameReader(limit_bytes=100)
    >>> reader.feed(b"\\x81\\x02hi\\x81\\x03you\\x89\\x00\\x81\\x02h")
    [['hi', 'you'], b'\\x89\\x00']
    >>> reader.feed(b"o")
    [['ho']]
    """

    __slots__ = ("_held", "_is_in_parts", "_is_over", "_limit_bytes", "_needed")

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held = bytearray()  # the beginning of a frame
        self._needed = 0  # how much of it must be there before it is worth another look
        self._is_in_parts = False  # a message has begun that the library puts together
        self._is_over = False  # a frame came behind which nothing is read

    def feed(self, data: bytes) -> list[list[str] | bytes]:  # hot path
        """What is whole by now, in order: plain frames in a row as a list of texts, others one by one."""
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return []
            data = bytes(self._held)
            self._held.clear()
        if self._is_over:
            return [data]
        whole: list[list[str] | bytes] = []
        texts: list[str] = []
        at, stop, end, limit = 0, 0, len(data), self._limit_bytes
        while end - at >= 2:
            start, size = at + 2, data[at + 1]
            if size > SHORT:
                start, size = self._long(data, at)
            if size > limit or data[at] & OPCODE not in OPCODES:
                self._is_over = True
                stop = end
            else:
                stop = start + size
                if stop > end:
                    break
                if data[at] == FINAL_TEXT and not self._is_in_parts:
                    try:
                        texts.append(data[start:stop].decode())
                        at = stop
                        continue
                    except UnicodeDecodeError:
                        pass
            if texts:
                whole.append(texts)
                texts = []
            whole.append(data[at:stop])
            self._note(data[at])
            at = stop
        if texts:
            whole.append(texts)
        if at < end:
            self._held += data[at:]
            self._needed = stop - at if end - at >= 2 else 2
        return whole

    def _long(self, data: bytes, at: int) -> tuple[int, int]:
        """Where the payload of the frame at `at` begins, and its size, for one that is not short."""
        if data[at + 1] > LONG:
            return at + 2, self._limit_bytes + 1  # masked, which no server may do
        start = at + (4 if data[at + 1] == MEDIUM else 10)
        return start, int.from_bytes(data[at + 2 : start], "big") if start <= len(data) else 0

    def _note(self, first: int) -> None:
        if first & OPCODE in DATA_OPCODES:
            self._is_in_parts = not first & FINAL
