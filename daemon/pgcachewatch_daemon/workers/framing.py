"""The bytes of a link: a length and a pickled list of messages.

Pickle, because both ends are the same program on the same interpreter and nobody else holds the socket: it is a pair
made by the primary, one end of which only the child it started has inherited. Whoever could write to it could as well
start programs as the same user.

Bound: a frame has at most FRAME_BYTES; more than that was not written by the other end, and the link is given up.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence
from typing import cast

from pgcachewatch_daemon.workers.messages import Message

FRAME_BYTES = 1 << 30
_LENGTH = struct.Struct("!I")


class LinkBroken(Exception):
    """What was read is not what the other end can have said."""


def encode(messages: Sequence[Message]) -> bytes:
    """One frame.

    >>> from pgcachewatch_daemon.workers.messages import Ask
    >>> Decoder().feed(encode([Ask(1), Ask(2)]))
    [Ask(number=1), Ask(number=2)]
    """
    data = pickle.dumps(list(messages), pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Decoder:
    """Bytes in any pieces to messages. Holds no more than one frame that is not complete."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete with this, in order. Raises LinkBroken."""
        held = self._held
        held += data
        messages: list[Message] = []
        start = 0
        while len(held) - start >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(held, start)
            if size > FRAME_BYTES:
                raise LinkBroken(f"a frame of {size} bytes; the limit is {FRAME_BYTES}")
            end = start + _LENGTH.size + size
            if len(held) < end:
                break
            messages += _decode(bytes(memoryview(held)[start + _LENGTH.size : end]))
            start = end
        del held[:start]
        return messages


def _decode(data: bytes) -> list[Message]:
    try:
        return cast(list[Message], pickle.loads(data))
    except Exception as error:  # pickle raises whatever the bytes make it do
        raise LinkBroken(f"a frame of {len(data)} bytes can not be read: {error!r}") from error
