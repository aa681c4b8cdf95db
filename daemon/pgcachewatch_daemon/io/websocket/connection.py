"""One Connection per socket, speaking HTTP until the upgrade and WebSocket after it.

A Connection is an `asyncio.Protocol` with a Handshake until the upgrade and a FrameReader from then on; ping and close
are its own (RFC 6455). There is no task and no queue per connection, and an idle one holds nothing but itself.

What is to be sent is handed to the kernel at once, past the transport, through `write`. The rest of what the kernel did
not take is the transport's, whose limit is 0 bytes: so it tells that the socket `is_full` the moment it holds anything,
and that there is room again when it holds nothing. While it is full nothing more is written, and what is for this
connection stays with the application, where it conflates.

Invariants. What a client can send ends its own connection at most: garbage, giant headers, oversized frames, silence.
`write` is used only while the transport holds nothing, so bytes keep their order.

Bounds. A frame: `frame_bytes`. Unsent bytes in user space: the rest of one write. Time: see `pauses`. What still comes
while a close is under way: CLOSING_BYTES, then the connection is cut. Each wait has its limit in seconds.
"""

from __future__ import annotations

import asyncio
import http
import os
import socket
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MethodType
from typing import assert_never, cast

from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from pgcachewatch_daemon.io.websocket.frames import (
    PRIVATE_CODES,
    Closed,
    FrameReader,
    Ping,
    Pong,
    Violation,
    close_frame,
    ping_frame,
    pong_frame,
    text_frame,
)
from pgcachewatch_daemon.io.websocket.handshake import Handshake
from pgcachewatch_daemon.io.websocket.pauses import ASKED, FULL, MEASURED_BYTES, TURN, PausedReading
from pgcachewatch_daemon.io.websocket.shared import Shared
from pgcachewatch_daemon.io.websocket.wire import EVERYDAY_CODES, MEANINGS, TOLD_REFUSALS, HttpRequest
from pgcachewatch_daemon.lines import line_logger

PING = ping_frame(b"pgcachewatch")
FORWARDED_FOR = "X-Forwarded-For"
TLS_RECORD = 0x16  # RFC 8446 section 5.1: what a client that speaks TLS begins with

CLOSING_BYTES = 262_144

logger = line_logger(__name__)

# What a code that a client made up is counted as: two thousand of them would be as many time series.
CLIENTS_OWN_CODE = 3000

# Where a connection stands. Plain integers: they are compared for each event and client.
HANDSHAKE, DECIDING, LIVE, CLOSING, GONE = range(5)


class Connection(PausedReading):
    """One socket. The application keeps what it knows of it in `visitor`.

    `write` hands bytes to the kernel and returns how many it took. It is for those who know that the connection is live
    and not full, counts nothing, and raises as `os.write` does; what was not taken goes to `write_rest`.

    At the end of what a peer sends the transport writes what it holds and closes: a client that half-closes after its
    request has its answer already; one that waits for the upgrade can not use it any more.
    """

    __slots__ = (
        "_closing_bytes", "_deadline_s", "_expect_by_s", "_handshake", "_heard_s", "_ping_sent_s", "_progress_s",
        "_reader", "_stage", "_too_big", "_unsent_bytes", "_was_requested", "close_code", "is_full", "number", "peer",
        "visitor", "window_bits", "write",
    )  # fmt: skip

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self._handshake: Handshake | None = Handshake(shared.library_logger)
        self._reader: FrameReader | None = None  # from the upgrade on
        self._stage = HANDSHAKE
        self._too_big: tuple[int, str] | None = None
        self._was_requested = False
        self._deadline_s = 0.0
        self._expect_by_s = 0.0
        self._heard_s = 0.0
        self._ping_sent_s = 0.0
        self._progress_s = 0.0
        self._unsent_bytes = 0
        self._closing_bytes = 0  # what came since the close began
        self.close_code = 0
        self.is_full = False  # the kernel did not take all that was written
        self.number = 0  # counts from 1 in each process; names the connection in log lines
        self.peer = ""  # the client's address; from the request on the one that a trusted proxy says
        self.visitor: object = None
        self.window_bits = 0  # of the compression that was agreed upon; 0: none
        self.write: Callable[[bytes], int] = _nowhere

    # --- what the application calls

    @property
    def peer_certificate_name(self) -> str:
        """What the client's certificate names; empty where none is asked for."""
        return ""

    @property
    def is_live(self) -> bool:
        """True from the upgrade until a close was sent or received, or the socket was lost."""
        return self._stage == LIVE

    @property
    def is_waiting(self) -> bool:
        """True while a request waits for its answer and the client is still there."""
        return self._stage == DECIDING

    @property
    def unsent_bytes(self) -> int:
        """What the kernel did not take yet."""
        return self._transport.get_write_buffer_size() if self.is_full and self._transport is not None else 0

    @property
    def is_deflated(self) -> bool:
        """The client takes compressed messages (RFC 7692), of `window_bits` and each by itself."""
        return self.window_bits > 0

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer the request and close. A HEAD request gets the headers only."""
        if self._handshake is not None and self._stage not in (CLOSING, GONE):
            self._refuse(self._handshake.answer(status, headers, body))

    def check_upgrade(self, subprotocol: str | None, *, windows: Collection[int] = ()) -> bool:
        """True when the request is a sound WebSocket handshake; otherwise it was answered with 400, 405, 426 or 505.

        `windows`: see Handshake. Whether the client wants compression is in `window_bits` from the upgrade on.
        """
        assert self._handshake is not None
        response = self._handshake.accept(subprotocol, windows)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            self._refuse(response)
            return False
        return True

    def upgrade(self, too_big: tuple[int, str] | None = None, headers: Mapping[str, str] | None = None) -> None:
        """Complete the handshake `check_upgrade` found sound. `too_big`: how to close after an oversized frame."""
        if self._stage != DECIDING or self._handshake is None:
            return
        answer = self._handshake.complete(headers or {})
        if not answer:
            return
        self._shared.pending.pop(self, None)
        self.window_bits = self._handshake.window_bits
        self._handshake = None
        self._reader = FrameReader(limit_bytes=self._shared.limits.frame_bytes, is_deflated=self.is_deflated)
        self._too_big = too_big
        self._deadline_s = 0.0
        self._stage = LIVE
        logger.debug("client came", conn=self.number, peer=self.peer)
        self._send(answer)

    def expect_by(self, moment_s: float) -> None:
        """Call `Application.expired` at this instant of the relay's clock; 0 calls it off."""
        self._expect_by_s = moment_s

    def pause_reading(self) -> None:
        self._pause(ASKED)

    def resume_reading(self) -> None:
        self._resume(ASKED)

    def send(self, data: bytes) -> bool:
        """Write finished frames in one go; False when it is full now. The caller knows that it is live and was not."""
        stats = self._shared.stats
        stats.writes += 1
        stats.bytes += len(data)
        try:
            taken = self.write(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.abort(CloseCode.ABNORMAL_CLOSURE)
            return False
        if taken != len(data):
            self.write_rest(data, taken)
        return not self.is_full

    def write_rest(self, data: bytes, taken: int) -> None:
        """Of `data` the kernel took only so many bytes: the others go out when there is room."""
        if self._transport is not None and not self._transport.is_closing():
            # Not a copy: a thousand readers that are full at once wait for the same bytes.
            self._transport.write(memoryview(data)[taken:])

    def send_now(self, text: str) -> None:
        """A frame for a connection that has no outbox yet, as an error before the welcome."""
        if self._stage == LIVE:
            self._send(text_frame(text))

    def close(self, code: int, reason: str) -> None:
        """Close behind what was written; the peer has `close_s` to answer."""
        if self._stage != LIVE:
            return
        self._send(close_frame(code, reason))
        self._closing(code)

    def abort(self, code: int) -> None:
        """Cut the connection without a word; `code` is what it is counted as."""
        if self._stage == GONE:
            return
        self.close_code = self.close_code or code
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limits = self._shared.limits
        self._transport.set_write_buffer_limits(high=0)
        system_socket = transport.get_extra_info("socket")
        if os.name != "posix" or system_socket is None:
            self.write = self._through_transport
        else:
            self.write = MethodType(os.write, system_socket.fileno())  # as a partial, in a third of the memory
        if limits.send_buffer_bytes:
            system_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
        name = transport.get_extra_info("peername")
        # Many clients come from few addresses, those of proxies: one text for each.
        self.peer = sys.intern(str(name[0])) if isinstance(name, tuple) else "unix"
        self._heard_s = self._shared.clock()
        self._deadline_s = self._heard_s + limits.handshake_s
        self._shared.arrived(self)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._shared.clock()
        try:
            if self._stage == CLOSING and self._is_out_of_patience(len(data)):
                self.abort(self.close_code)
            elif self._reader is not None:
                self._take_in_turn(self._reader, data)
            elif self._stage == HANDSHAKE:
                self._greet(data)
            elif self._stage == DECIDING:
                self._refuse_early_frames()
            # Else an answer was given; what still comes is of no interest.
        except Exception:
            self._failed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()
        self._rested()
        self._shared.departed(self)
        self._transport = None
        self.write = _nowhere  # the number of the socket may be another's soon

    def pause_writing(self) -> None:
        self.is_full = True
        self._progress_s = self._shared.clock()
        self._pause(FULL)  # who does not read gets no answers either: pings would pile up pongs without bound
        if self._stage == LIVE:
            self._shared.application.filled(self)

    def resume_writing(self) -> None:
        self.is_full = False
        self._heard_s = self._shared.clock()
        self._resume(FULL)
        if self._stage == LIVE:
            self._shared.application.drained(self)

    # --- inside

    def check(self, now_s: float) -> None:
        """Act on what is overdue at `now_s`; called for each connection about once a second."""
        if self._stage in (HANDSHAKE, DECIDING):
            if now_s >= self._deadline_s:
                self._handshake_expired()
        elif self._stage == CLOSING:
            if now_s >= self._deadline_s:
                self.abort(self.close_code)
        elif self._stage == LIVE:
            if self.is_full:
                self._check_stall(now_s)
            else:
                self._check_silence(now_s)
            if self._expect_by_s and now_s >= self._expect_by_s:
                self._expect_by_s = 0.0
                self._shared.application.expired(self)

    def _handshake_expired(self) -> None:
        if self._stage == DECIDING:
            self.answer(503, {"Retry-After": "1"}, b"the relay could not get ready in time; try again\n")
        else:
            limit_s = self._shared.limits.handshake_s
            self.answer(408, {}, f"no complete request within {limit_s:g} s\n".encode())

    def _check_stall(self, now_s: float) -> None:
        assert self._transport is not None
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:  # slow is not stalled; while it is full nothing is added
            self._unsent_bytes = unsent_bytes
            self._progress_s = now_s
        elif now_s - self._progress_s >= self._shared.limits.write_stall_s:
            self._shared.stats.write_stalls += 1
            self.abort(4102)

    def _check_silence(self, now_s: float) -> None:
        if self._ping_sent_s > self._heard_s:
            if now_s - self._ping_sent_s >= self._shared.limits.pong_s:
                self.close(4106, f"no pong within {self._shared.limits.pong_s:g} s")
        elif now_s - self._heard_s >= self._shared.limits.ping_after_s:
            self._ping_sent_s = now_s
            self._send(PING)

    def _is_out_of_patience(self, size_bytes: int) -> bool:
        self._closing_bytes += size_bytes
        return self._closing_bytes > CLOSING_BYTES

    def _greet(self, data: bytes) -> None:
        """Read the request; what came behind it are frames, once there was an upgrade."""
        handshake = self._handshake
        assert handshake is not None, "it goes with the upgrade"
        if data[0] == TLS_RECORD and not handshake.has_begun:
            # It would wait for the end of a line: the client's greeting need not have one.
            logger.info("tls on a port without it", conn=self.number, peer=self.peer)
            self.answer(400, {}, b"this port does not speak TLS: connect to ws:// or http://\n")
            return
        request = handshake.feed(data)
        if isinstance(request, Response):
            self._refuse(request)
        elif request is not None:
            self._requested(request)
            if handshake.rest:
                if self._reader is not None:
                    self._take_in_turn(self._reader, handshake.rest)
                elif self._stage == DECIDING:
                    self._refuse_early_frames()

    def _requested(self, request: Request) -> None:
        self._stage = DECIDING
        self._was_requested = True
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        proxies = self._shared.proxies
        if proxies:
            self.peer = sys.intern(proxies.client_of(self.peer, request.headers.get_all(FORWARDED_FOR)))
        self._shared.application.requested(self, HttpRequest(request.method, request.path, headers, self.peer))

    def _refuse_early_frames(self) -> None:
        self.answer(400, {}, b"wait for the answer to the handshake before you send frames\n")

    def _take_in_turn(self, reader: FrameReader, data: bytes) -> None:  # hot path
        """Act on frames at once, or when it is this connection's turn with so many of them."""
        if len(data) < MEASURED_BYTES:
            self._take(reader, data)
        else:
            self._pause(TURN)
            self._shared.frame_turns.take(partial(self._take_much, reader, data))

    def _take_much(self, reader: FrameReader, data: bytes) -> None:
        self._resume(TURN)
        began_s = self._shared.work_clock()
        try:
            self._take(reader, data)
        except Exception:
            self._failed()
        if self._stage == LIVE:
            self._spread(self._shared.work_clock() - began_s)

    def _take(self, reader: FrameReader, data: bytes) -> None:  # hot path
        """Act on frames. After our close only the peer's own is of interest."""
        pongs: list[bytes] = []  # to pings in a row: one write, for each costs more than the rest of it
        for item in reader.feed(data):
            if isinstance(item, Ping):
                pongs.append(pong_frame(item.payload))
                continue
            if pongs:
                self._answer_pings(pongs)
            if isinstance(item, (str, bytes)):
                if self._stage == LIVE:
                    self._shared.application.received(self, item)
            else:
                self._take_control(item)
        if pongs:
            self._answer_pings(pongs)

    def _answer_pings(self, pongs: list[bytes]) -> None:
        if self._stage == LIVE:
            self._send(b"".join(pongs))
        pongs.clear()

    def _take_control(self, item: Pong | Closed | Violation) -> None:
        match item:
            case Pong():
                pass  # that something was heard is all there is to it
            case Closed():
                if item.code in PRIVATE_CODES:
                    self.close_code = self.close_code or CLIENTS_OWN_CODE
                # Section 5.5.1: the answer repeats the code. Then the socket is the server's to close (7.1.1).
                self._end(item.code, item.reason)
            case Violation():
                too_big = self._too_big if item.code == CloseCode.MESSAGE_TOO_BIG else None
                self._end(*(too_big or (item.code, item.reason)))
            case _:
                assert_never(item)

    def _end(self, code: int, reason: str) -> None:
        """The peer sends nothing more that is of interest: say the close, if that was not done, and hang up."""
        if self._stage == LIVE:
            self._send(close_frame(code, reason))
            self._closing(code)
        self._half_close()

    def _refuse(self, response: Response) -> None:
        self._shared.pending.pop(self, None)
        if response.status_code >= http.HTTPStatus.BAD_REQUEST:
            self._shared.stats.refusals[response.status_code] += 1
            # Our own words there; those of a malformed request may hold a part of it.
            is_told = response.status_code in TOLD_REFUSALS
            say = logger.info if is_told else logger.debug
            facts = {"why": bytes(response.body or b"").decode().strip()} if is_told else {}
            say("request refused", conn=self.number, peer=self.peer, status=response.status_code, **facts)
        self._send(response.serialize())
        self._half_close()
        self._closing(0)

    def _closing(self, code: int) -> None:
        """From here on nothing is read or written; the peer has `close_s` to hang up."""
        self.close_code = self.close_code or code
        self._lost()
        self._stage = CLOSING
        self._deadline_s = self._shared.clock() + self._shared.limits.close_s
        self._rested()
        self._resume(self._pauses)  # the peer's own close has to be seen

    def _failed(self) -> None:
        """The top of what a client can reach: its own connection ends, and we keep the traceback."""
        logger.exception("connection failed", conn=self.number, peer=self.peer)
        if self._stage == LIVE:
            self.close(4100, "internal error; the relay's log has more")
        else:
            self.answer(500, {}, b"internal error; the relay's log has more\n")

    def _lost(self) -> None:
        """Tell the application once."""
        was_live, self._stage = self._stage == LIVE, GONE
        if was_live:
            code = self.close_code or CloseCode.ABNORMAL_CLOSURE
            self._shared.stats.disconnects[code] += 1
            say = logger.debug if code in EVERYDAY_CODES else logger.info
            why = MEANINGS.get(code, "unassigned")
            say("client gone", conn=self.number, peer=self.peer, code=int(code), why=why)
        if self._was_requested:
            self._was_requested = False
            self._shared.application.gone(self)

    def _through_transport(self, data: bytes) -> int:
        """For a socket that can not be written to directly."""
        if self._transport is not None and not self._transport.is_closing():
            self._put(data)
        return len(data)

    def _send(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        stats = self._shared.stats
        stats.writes += 1
        stats.bytes += len(data)
        self._put(data)

    def _put(self, data: bytes) -> None:
        assert self._transport is not None, "it is written to while it is there"
        self._transport.write(data)

    def _half_close(self) -> None:
        # Not a full close: with input unread the kernel would answer with a reset, which destroys what we just wrote.
        if self._transport is not None and self._transport.can_write_eof() and not self._transport.is_closing():
            try:
                self._transport.write_eof()
            except OSError:
                self._transport.abort()


def _nowhere(data: bytes) -> int:
    """Writes to a socket that is none. Not a method: the connection would hold itself until garbage is collected."""
    return len(data)
