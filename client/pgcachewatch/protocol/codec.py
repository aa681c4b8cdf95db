"""Text to messages and back.

A frame is one JSON object or an array of them (W-FRAME-1). Decoding never guesses: what is not JSON, not an object,
or not the shape its `t` demands raises ProtocolError with the rule's id; a `t` nobody knows becomes Unknown, which
the sessions answer or skip (W-FORWARD-2), so that one new message does not break an old peer.

Encoding an event for a subscription group happens once, whoever reads it: `encode_ev` and `encode_mark` are on the
relay's hot path and build their text without a model in between. So does `decode_evs` on the client's: it reads events
that are plainly right, and leaves all else to `decode_relay`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import Annotated, Generic, TypeVar

import pydantic
import pydantic_core

from pgcachewatch.errors import ProtocolError
from pgcachewatch.protocol import messages

EXCERPT_LENGTH = 80
REASON_BYTES = 120  # a WebSocket close reason has at most 123 bytes (RFC 6455, 5.5.1)

EV_STARTS = ('{"t":"ev"', '[{"t":"ev"')
Item = tuple[int, str, str | None] | tuple[int, str, str | None, dict[str, object]]
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A well-formed message whose type this version does not know. `id` is its request id, when it has one."""

    t: str
    id: int | None = None


class _Direction(Generic[M]):
    """Decoder for one direction: the fast way validates a whole frame in one call, the slow way finds the fault."""

    def __init__(self, one: pydantic.TypeAdapter[M], many: pydantic.TypeAdapter[list[M]]) -> None:
        self._one = one
        self._many = many

    def decode(self, frame: str) -> Sequence[M | Unknown]:
        try:
            if frame.startswith("["):
                return self._many.validate_json(frame)
            return (self._one.validate_json(frame),)
        except pydantic.ValidationError:
            return self._decode_singly(frame)

    def _decode_singly(self, frame: str) -> list[M | Unknown]:
        content = _parse_json(frame)
        parts = content if isinstance(content, list) else [content]
        return [self._validate(part) for part in parts]

    def _validate(self, part: object) -> M | Unknown:
        if not isinstance(part, dict) or not isinstance(part.get("t"), str):
            raise ProtocolError(
                f"a message must be a JSON object with a string 't', not {_excerpt(part)}; see PROTOCOL.md",
                rule="W-FRAME-2",
            )
        try:
            return self._one.validate_python(part)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            if first["type"] == "union_tag_invalid":
                return Unknown(part["t"][:EXCERPT_LENGTH], _request_id(part.get("id")))
            place = ".".join(str(step) for step in first["loc"])
            raise ProtocolError(
                f"malformed {part['t'][:EXCERPT_LENGTH]!r} message at {place}: {first['msg']}; see PROTOCOL.md",
                rule="W-FRAME-3",
            ) from error


def _parse_json(frame: str) -> object:
    try:
        content: object = json.loads(frame)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(
            f"a frame must be JSON, not {_excerpt(frame)}: {error}; send one object or an array of them",
            rule="W-FRAME-1",
        ) from error
    return content


def _request_id(value: object) -> int | None:
    """A request id, or None for what is none and so can not be repeated in an answer (W-ID-1)."""
    return value if type(value) is int and 0 <= value <= messages.SEQ_MAX else None


def _excerpt(value: object) -> str:
    text = repr(value)
    if "token" in text:
        return "what was sent (not shown: it may hold a token)"
    return text if len(text) <= EXCERPT_LENGTH else text[:EXCERPT_LENGTH] + "..."


_Client = Annotated[messages.ClientMessage, pydantic.Field(discriminator="t")]
_Relay = Annotated[messages.RelayMessage, pydantic.Field(discriminator="t")]
_from_client: _Direction[messages.ClientMessage] = _Direction(
    pydantic.TypeAdapter(_Client), pydantic.TypeAdapter(list[_Client])
)
_from_relay: _Direction[messages.RelayMessage] = _Direction(
    pydantic.TypeAdapter(_Relay), pydantic.TypeAdapter(list[_Relay])
)


def decode_client(frame: str) -> Sequence[messages.ClientMessage | Unknown]:
    """Read a frame a client sent. Raises ProtocolError (W-FRAME-1 to 3).

    >>> decode_client('{"t":"ping","id":7}')
    (Ping(t='ping', id=7),)
    """
    return _from_client.decode(frame)


def decode_relay(frame: str) -> Sequence[messages.RelayMessage | Unknown]:
    """Read a frame a relay sent. Raises ProtocolError (W-FRAME-1 to 3).

    >>> decode_relay('{"t":"fresh-from-the-future"}')
    [Unknown(t='fresh-from-the-future', id=None)]
    """
    return _from_relay.decode(frame)


def decode_evs(frame: str) -> list[tuple[int, int, list[list[object]]]] | None:  # hot path
    """Of a frame of nothing but `ev` messages, the `p`, `s` and `i` of each; None for any other, and in any doubt.

    What it reads is what `decode_relay` would; the session checks the items in both cases.

    >>> decode_evs('{"t":"ev","p":6,"s":7,"i":[[1,"u","42"]]}')
    [(6, 7, [[1, 'u', '42']])]
    >>> decode_evs('{"t":"mark","p":6,"s":7}') is None
    True
    """
    if not frame.startswith(EV_STARTS):
        return None
    try:
        content = pydantic_core.from_json(frame)
    except ValueError:
        return None
    evs: list[tuple[int, int, list[list[object]]]] = []
    for message in content if type(content) is list else (content,):
        if type(message) is not dict or message.get("t") != "ev":
            return None
        previous, seq, items = message.get("p"), message.get("s"), message.get("i")
        if (
            type(previous) is not int
            or type(seq) is not int
            or type(items) is not list
            or not 0 <= previous <= messages.SEQ_MAX
            or not 0 <= seq <= messages.SEQ_MAX
        ):
            return None
        for item in items:
            if type(item) is not list:
                return None
        evs.append((previous, seq, items))
    return evs


def encode(message: messages.Message) -> str:
    """One message as one frame; fields that are None are left out.

    >>> encode(messages.Ping(id=7))
    '{"t":"ping","id":7}'
    """
    return message.model_dump_json(exclude_none=True, by_alias=True)


def encode_ev(previous: int, seq: int, items: Sequence[Item]) -> str:  # hot path
    """An `ev` frame from plain values: once per subscription group and event.

    >>> encode_ev(6, 7, [(1, "u", "42")])
    '{"t":"ev","p":6,"s":7,"i":[[1,"u","42"]]}'
    """
    told = ",".join([_encode_plain_item(*item) if len(item) == 3 else _encode_item(item) for item in items])
    return f'{{"t":"ev","p":{previous},"s":{seq},"i":[{told}]}}'


_encode_item = json.JSONEncoder(separators=(",", ":")).encode


def _encode_plain_item(sid: int, op: str, key: str | None) -> str:  # hot path
    # The general encoder takes five times as long, which is a fifth of all that an event costs a relay with one group.
    return f'[{sid},"{op}",null]' if key is None else f'[{sid},"{op}",{encode_basestring_ascii(key)}]'


def encode_mark(
    previous: int, seq: int, as_of_ms: float | None, snapshot: str | None = None, position: str | None = None
) -> str:  # hot path
    """A `mark` frame; `as_of_ms` None when the message only advances the position.

    `snapshot` and `position`, in the journal, are digits, `:` and `,`.

    >>> encode_mark(7, 9, 1500.25)
    '{"t":"mark","p":7,"s":9,"as_of":1500.25}'
    """
    proof = "" if as_of_ms is None else f',"as_of":{as_of_ms:.3f}'.rstrip("0").rstrip(".")
    stamp = "" if snapshot is None else f',"x":"{snapshot}"'
    place = "" if position is None else f',"j":"{position}"'
    return f'{{"t":"mark","p":{previous},"s":{seq}{proof}{stamp}{place}}}'


def shorten(reason: str) -> str:
    """A close reason that fits a WebSocket close frame, cut at a character.

    >>> len(shorten("ü" * 200).encode())
    120
    """
    return reason.encode("utf-8", "replace")[:REASON_BYTES].decode("utf-8", "ignore")
