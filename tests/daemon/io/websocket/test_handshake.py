"""The request read as it comes, and judged by the library."""

from __future__ import annotations

import doctest
import itertools
import logging
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request, Response

from pgcachewatch_daemon.io.websocket import handshake
from pgcachewatch_daemon.io.websocket.handshake import Handshake

SILENT = logging.Logger("websockets", logging.CRITICAL + 1)
UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: ours, theirs\r\n\r\n"
)
FRAMES = b"\x81\x80\0\0\0\0\r\n\r\n"


def fed(*pieces: bytes) -> tuple[Handshake, Request | Response]:
    """Feed until there is an outcome; what has not been fed then is behind the request."""
    shake = Handshake(SILENT)
    for at, piece in enumerate(pieces):
        outcome = shake.feed(piece)
        if outcome is not None:
            shake.rest += b"".join(pieces[at + 1 :])
            return shake, outcome
    raise AssertionError("no outcome")


def test_the_examples_in_the_module_hold() -> None:
    assert doctest.testmod(handshake).failed == 0


@given(st.lists(st.integers(0, len(UPGRADE + FRAMES)), max_size=10))
def test_a_request_is_read_from_any_pieces_and_what_follows_it_is_left_alone(cuts: list[int]) -> None:
    data = UPGRADE + FRAMES
    shake, request = fed(*(data[begin:end] for begin, end in itertools.pairwise([0, *sorted(cuts), len(data)])))
    assert isinstance(request, Request)
    assert request.path == "/v1/ws"
    assert shake.rest == FRAMES
    assert shake.accept("ours").status_code == 101


def test_the_answer_is_what_rfc_6455_computes_from_its_own_key() -> None:
    shake, _ = fed(UPGRADE)
    assert shake.complete({}) == b"", "nothing was accepted yet"
    assert shake.accept("ours").status_code == 101
    answer = shake.complete({"X-Relay": "yes"})
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    for header in (
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        b"Sec-WebSocket-Protocol: ours",
        b"X-Relay: yes",
    ):
        assert header + b"\r\n" in answer


def test_the_subprotocol_is_taken_from_the_offer_or_the_offer_is_refused_by_name() -> None:
    shake, _ = fed(UPGRADE)
    refused = shake.accept("another")
    assert refused.status_code == 400
    assert b"offer the subprotocol 'another', not ours, theirs" in refused.body
    assert shake.complete({}) == b""


def test_without_a_subprotocol_of_ours_none_is_chosen() -> None:
    shake, _ = fed(UPGRADE)
    assert shake.accept(None).status_code == 101
    assert b"Sec-WebSocket-Protocol" not in shake.complete({})


@pytest.mark.parametrize(
    ("offer", "windows", "bits"),
    [
        (b"permessage-deflate", (15,), 15),
        (b"permessage-deflate; client_max_window_bits", (15,), 15),
        (b"permessage-deflate; server_max_window_bits=10", (15,), 0),
        (b"permessage-deflate; server_max_window_bits=10", (10, 15), 10),
        (b"permessage-deflate; server_max_window_bits=10, permessage-deflate", (15,), 15),
        (b"permessage-deflate; server_max_window_bits=8", range(8, 16), 0),
        (b"permessage-deflate", (), 0),
        (b"permessage-bzip2", (15,), 0),
    ],
)
def test_compression_is_agreed_upon_without_context_and_with_a_window_of_ours(
    offer: bytes, windows: Collection[int], bits: int
) -> None:
    shake, _ = fed(UPGRADE[:-2] + b"Sec-WebSocket-Extensions: " + offer + b"\r\n\r\n")
    assert shake.accept("ours", windows).status_code == 101
    assert shake.window_bits == bits
    answer = shake.complete({})
    for takeover in (b"server_no_context_takeover", b"client_no_context_takeover"):
        assert (takeover in answer) == (bits > 0)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: y\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody", 405),
        (b"DELETE / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 405),
        (b"GET /" + b"x" * 10_000, 414),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1_000, 431),
    ],
)
@pytest.mark.parametrize("is_by_octet", [False, True], ids=["at once", "by octet"])
def test_what_is_no_request_has_its_answer_as_soon_as_it_is_known(data: bytes, status: int, is_by_octet: bool) -> None:
    pieces = [data[at : at + 1] for at in range(len(data))] if is_by_octet else [data]
    _, outcome = fed(*pieces)
    assert isinstance(outcome, Response)
    assert outcome.status_code == status


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    outcome = Handshake(SILENT).feed(data)
    assert outcome is None or isinstance(outcome, Request) or outcome.status_code >= 400


def test_an_answer_to_a_head_request_has_its_headers_only() -> None:
    shake, _ = fed(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = shake.answer(200, {"X": "y"}, b"hello\n")
    assert (answer.body, answer.headers["Content-Length"], answer.headers["X"]) == (b"", "6", "y")


def test_headers_have_a_limit_in_all_as_well() -> None:
    handshake = Handshake(logging.getLogger("websockets"))
    line = b"X: " + b"y" * 4_000 + b"\r\n"
    assert handshake.feed(b"GET / HTTP/1.1\r\n" + line * 4) is None
    assert handshake.feed(line * 3) is None
    refused = handshake.feed(line * 3)
    assert isinstance(refused, Response)
    assert refused.status_code == 431
