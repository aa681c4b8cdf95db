"""Writes what the hub has for its subscribers: one write per connection and tick, of bytes that a group shares.

A flush is one slice: first those who have something of their own, an answer to a barrier among them, then the shared
bytes, member by member. What is left goes on in the next iteration of the loop, behind whatever came in meanwhile, so
that neither the LISTEN connection nor a health check waits for a large audience. Events that arrive between two slices
gather, and leave in fewer, larger writes: the busier the relay, the cheaper an event.

Bounds of a slice: `SLICE_WRITES` and `SLICE_BYTES`. While a burst is read there is one slice more in an iteration, so
that it need not be conflated for who keeps up. The one exception is a stream whose readers have to be written before
more is published (`Hub.is_pressed`), because nothing of theirs may be conflated.
On the path of an event: step 7, leave.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence

from pgcachewatch.models import Event, Gap
from pgcachewatch.protocol import messages
from pgcachewatch_daemon.core.audience import Framing, Share, Subscriber
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.io.metrics import Histogram
from pgcachewatch_daemon.io.websocket import Connection, SocketStats
from pgcachewatch_daemon.io.websocket.frames import deflated_frame, text_frame
from pgcachewatch_daemon.tracing import Traces

SLICE_WRITES = 2_000
SLICE_BYTES = 8 * 1024 * 1024
UNLIMITED = 1 << 62
SERVICE_RESTART = 1012
DEFLATED_FROM_BYTES = 256  # less does not become smaller by itself, without what was sent before it


def pack_deflated(texts: Sequence[bytes]) -> bytes:
    """The texts of one write as few frames, compressed: arrays (W-FRAME-1) within the relay's limit (W-LIMIT-2)."""
    frames: list[bytes] = []
    gathered: list[bytes] = []
    size_bytes = 0
    for text in texts:
        if gathered and size_bytes + len(text) + 2 > messages.RELAY_FRAME_BYTES:
            frames.append(_deflated(gathered))
            gathered, size_bytes = [], 0
        gathered.append(text)
        size_bytes += len(text) + 1
    if gathered:
        frames.append(_deflated(gathered))
    return b"".join(frames)


def _deflated(texts: Sequence[bytes]) -> bytes:
    text = (texts[0] if len(texts) == 1 else b"[%b]" % b",".join(texts)).decode()
    return text_frame(text) if len(text) < DEFLATED_FROM_BYTES else deflated_frame(text)


PLAIN = Framing(text_frame)
DEFLATED = Framing(str.encode, pack_deflated)


class Departures:
    """Everything that leaves the relay for subscribers. `stats` counts the writes.

    `seconds`: from a change at the database until all who are told of it were written, of the first event of each
    burst. So it shows the wait of the one that waited longest, and costs one look at a clock per burst.
    """

    def __init__(self, hub: Hub, stats: SocketStats, traces: Traces | None = None) -> None:
        self._hub = hub
        self._stats = stats
        self._traces = traces
        self.seconds = Histogram()
        self._sent_at: datetime.datetime | None = None  # of the first event that is on its way
        self._is_scheduled = False
        self._was_early = False

    def schedule(self) -> None:
        """Flush in the next iteration of the loop."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._scheduled)

    def flush(self) -> None:  # hot path
        """Write one slice now, and the rest in the iterations that follow."""
        hub = self._hub
        apart = hub.take_apart(SLICE_WRITES)
        for subscriber in apart:
            self.write_own(subscriber)
        writes, size_bytes = SLICE_WRITES - len(apart), SLICE_BYTES
        while writes > 0 and size_bytes > 0:
            share = hub.take_share(writes=writes, size_bytes=size_bytes)
            if share is None:
                break
            self._write_share(share)
            writes -= len(share.members)
            size_bytes -= len(share.members) * len(share.data)
        if hub.has_work:
            self.schedule()
        elif self._sent_at is not None:
            self._measure(self._sent_at)

    def published(self, change: Event | Gap) -> None:  # hot path
        """Called behind each change: write now what should not wait for the end of this iteration."""
        if self._sent_at is None and isinstance(change, Event):
            if self._hub.has_work:
                self._sent_at = change.sent_at
            elif self._traces is not None:
                self._traces.left()
        if self._hub.is_pressed:
            self.flush_all()
        elif self._hub.is_filling and not self._was_early:
            self._was_early = True
            self.flush()

    def flush_all(self) -> None:
        """Write everything there is, however long it takes."""
        hub = self._hub
        for subscriber in hub.take_apart(UNLIMITED):
            self.write_own(subscriber)
        while share := hub.take_share(writes=UNLIMITED, size_bytes=UNLIMITED):
            self._write_share(share)
        if self._sent_at is not None:
            self._measure(self._sent_at)

    def write_own(self, subscriber: Subscriber) -> None:
        """Write what one subscriber has of its own; then close it, when the hub wants it closed."""
        connection = subscriber.shell
        if not isinstance(connection, Connection) or not connection.is_live or connection.is_full:
            return  # the hub goes on without it, or hears from `drained`
        outbox = subscriber.own_outbox()
        frames = outbox.drain()
        if frames:
            self._stats.frames += len(frames)
            if not connection.send(subscriber.framing.pack(frames)):
                return  # the rest waits for `drained`, and what is new behind it
        if outbox.close is None:
            self._hub.written(subscriber)
        else:
            # W-PLAIN-3: a published client knows one code for "you missed something".
            code = outbox.close.code if subscriber.plain_channel is None else SERVICE_RESTART
            connection.close(code, outbox.close.reason)

    def _measure(self, sent_at: datetime.datetime) -> None:
        self._sent_at = None
        self.seconds.observe(max(0.0, (datetime.datetime.now(tz=datetime.UTC) - sent_at).total_seconds()))
        if self._traces is not None:
            self._traces.left()

    def _scheduled(self) -> None:
        self._is_scheduled = self._was_early = False
        self.flush()

    def _write_share(self, share: Share) -> None:  # hot path
        """The same bytes to each member, whose socket is known to be empty on our side."""
        data, size_bytes, members = share.data, len(share.data), share.members
        stats = self._stats
        stats.writes += len(members)
        stats.frames += len(members) * share.frames
        stats.bytes += len(members) * size_bytes
        for subscriber in members:
            try:
                taken = subscriber.write(data)
            except BlockingIOError:
                taken = 0
            except OSError:
                _lost(subscriber)
                continue
            if taken != size_bytes:
                _write_rest(subscriber, data, taken)


def _write_rest(subscriber: Subscriber, data: bytes, taken: int) -> None:
    connection = subscriber.shell
    if isinstance(connection, Connection):
        connection.write_rest(data, taken)


def _lost(subscriber: Subscriber) -> None:
    connection = subscriber.shell
    if isinstance(connection, Connection):
        connection.abort(0)
