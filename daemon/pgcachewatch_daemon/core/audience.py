"""Subscribers who are sent the same bytes, and what each of them is still to be sent.

A member is in step or apart. Those in step share one outbox: an event is appended to it once, whoever is there, and at
the flush it is sealed: joined to one piece of bytes, which each of them is written. A member that has something of its
own to be sent, or whose socket is full, is apart: it has an outbox of its own, which begins with what the others had
pending at that moment. Once that is written and nothing is left of it, the member steps in again.

Invariants. Whoever is in step was sent, or is left to be written in this order, the sealed bytes and then all that the
shared outbox holds. A member steps in only while the shared outbox is empty, so that nothing is sent twice.

Bounds. Pending of those in step: one sealed piece and one outbox, for all of them together. Once half of that outbox
is used it `is_filling`: written now it need not be conflated. That of a stream is never conflated; when it is filling,
whoever offers has to have it written before going on.
On the path of an event: step 6, fan out.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgcachewatch.protocol import codec
from pgcachewatch.protocol.relay_session import CloseWith
from pgcachewatch_daemon.core.outbox import Outbox, OutboxLimits, Packet, bounded_ev
from pgcachewatch_daemon.core.stats import HubStats

if TYPE_CHECKING:
    from pgcachewatch_daemon.core.subscriptions import Group

# Of the room: what is sealed and what is pending then fit into the outbox of one that steps out.
FILLING_PART = 2


@dataclass(frozen=True, slots=True)
class Framing:
    """How texts become bytes for sockets. `frame` is called once for each, `pack` joins those of one write."""

    frame: Callable[[str], bytes]
    pack: Callable[[Sequence[bytes]], bytes] = b"".join


class Subscriber:
    """One connection as the hub knows it. `shell` is the caller's own, to find the connection again.

    `write` hands bytes to the socket and returns how many it took; the shell sets it before the subscriber steps in.
    Of `group` and `plain_channel` it has the one that `audience` belongs to.
    """

    __slots__ = ("audience", "framing", "group", "name", "outbox", "plain_channel", "shell", "write")

    def __init__(self, outbox: Outbox, framing: Framing, *, name: str = "", plain_channel: str | None = None) -> None:
        self.outbox: Outbox | None = outbox  # None while in step
        self.framing = framing
        self.name = name
        self.audience: Audience | None = None
        self.group: Group | None = None
        self.plain_channel = plain_channel
        self.shell: object | None = None
        self.write: Callable[[bytes], int] = _no_socket

    @property
    def close(self) -> CloseWith | None:
        """What to close the connection with, once its outbox was written."""
        return None if self.outbox is None else self.outbox.close

    def own_outbox(self) -> Outbox:
        """Its own outbox, with all it is still to be sent: whoever is in step steps out."""
        if self.outbox is None:
            assert self.audience is not None, "whoever has no outbox is in step with others"
            self.audience.step_out(self)
        assert self.outbox is not None, "whoever steps out has an outbox"
        return self.outbox

    def drain(self) -> list[bytes]:
        """All it is still to be sent, oldest first; it stays apart."""
        return self.own_outbox().drain()


def _no_socket(data: bytes) -> int:
    raise AssertionError("a subscriber without a socket was written to")


@dataclass(frozen=True, slots=True)
class Share:
    """The same bytes for each of `members`. `frames`: how many frames they are."""

    data: bytes
    frames: int
    members: Collection[Subscriber]


class Audience:
    """Members of one group, or of one plain channel. All of them have this `framing`; `stats` is for their outboxes."""

    __slots__ = (
        "_apart", "_filling_bytes", "_in_step", "_left", "_limits", "_outbox", "_returning", "_sealed",
        "_sealed_data", "_stats", "framing", "is_dirty", "is_stream",
    )  # fmt: skip

    def __init__(self, limits: OutboxLimits, framing: Framing, *, stats: HubStats, is_stream: bool) -> None:
        self.framing = framing
        self.is_stream = is_stream
        self.is_dirty = False
        self._limits = limits
        self._filling_bytes = limits.bytes // FILLING_PART
        self._stats = stats
        self._outbox = self._shared_outbox()
        self._in_step: dict[Subscriber, None] = {}  # ordered, as all of these, so that a run can be repeated
        self._apart: dict[Subscriber, None] = {}
        self._returning: dict[Subscriber, None] = {}  # of those apart: written, and waiting for the next seal
        self._sealed: list[Packet] = []
        self._sealed_data = b""
        self._left: dict[Subscriber, None] = {}  # of those in step: not yet written what is sealed

    def __len__(self) -> int:
        return len(self._in_step) + len(self._apart)

    @property
    def members(self) -> list[Subscriber]:
        return [*self._in_step, *self._apart]

    @property
    def apart(self) -> Collection[Subscriber]:
        return self._apart

    @property
    def has_work(self) -> bool:
        """There is something to be written to members in step."""
        return bool(self._left) or self._outbox.has_pending

    @property
    def is_filling(self) -> bool:
        """The shared outbox is to be written soon; a stream's, before anything else is offered to it."""
        return self._outbox.size_bytes > self._filling_bytes

    def enter(self, subscriber: Subscriber) -> None:
        """A new member, apart with its own outbox: what the others have pending is none of its business."""
        assert subscriber.outbox is not None, "whoever enters has an outbox"
        subscriber.audience = self
        subscriber.outbox.is_stream = self.is_stream
        self._apart[subscriber] = None

    def leave(self, subscriber: Subscriber) -> None:
        """It is no member any more. It keeps the outbox it has, if any."""
        subscriber.audience = None
        for place in (self._in_step, self._apart, self._returning, self._left):
            place.pop(subscriber, None)
        self._forget_what_nobody_waits_for()

    def offer(self, packet: Packet) -> None:  # hot path
        """To each member behind all that was offered before: one append for all in step, one for each apart."""
        if self._in_step:
            self._outbox.offer(packet)
        for subscriber in self._apart:
            assert subscriber.outbox is not None, "whoever is apart has an outbox"
            subscriber.outbox.offer(packet)

    def step_out(self, subscriber: Subscriber) -> None:
        """Give a member an outbox of its own, with all it is still to be sent. Nothing changes for one that has one."""
        if subscriber.outbox is not None:
            return
        outbox = subscriber.outbox = Outbox(
            self._limits, frame=self.framing.frame, stats=self._stats, is_stream=self.is_stream
        )
        if subscriber in self._left:
            del self._left[subscriber]
            for packet in self._sealed:
                outbox.offer(packet)
        for packet in self._outbox.pending():
            outbox.offer(packet)
        del self._in_step[subscriber]
        self._apart[subscriber] = None
        self._forget_what_nobody_waits_for()

    def step_in(self, subscriber: Subscriber) -> None:
        """A member apart was written all it had pending, and its socket took it: now, or at the next seal."""
        if subscriber not in self._apart or subscriber.outbox is None or subscriber.outbox.has_pending:
            return
        if self._outbox.has_pending:
            self._returning[subscriber] = None
            return
        self._returning.pop(subscriber, None)
        del self._apart[subscriber]
        subscriber.outbox = None
        self._in_step[subscriber] = None

    def take(self, *, writes: int, size_bytes: int) -> Share | None:  # hot path
        """The next to be written, as many as fit into both limits and at least one; None when all are."""
        if not self._left:
            if not self._outbox.has_pending:
                return None
            self._seal()
        data, left = self._sealed_data, self._left
        most = max(1, min(writes, size_bytes // max(1, len(data))))
        frames = len(self._sealed)
        if len(left) <= most:
            self._left = {}
            self._sealed, self._sealed_data = [], b""
            return Share(data, frames, left)
        members = list(itertools.islice(left, most))
        for member in members:
            del left[member]
        return Share(data, frames, members)

    def _seal(self) -> None:
        """Join what those in step have pending; whoever was only waiting for that steps in behind it."""
        self._sealed = self._outbox.drain_packets()
        self._sealed_data = self.framing.pack([packet.data for packet in self._sealed])
        self._left = self._in_step.copy()
        returning, self._returning = self._returning, {}
        for subscriber in returning:
            self.step_in(subscriber)

    def _forget_what_nobody_waits_for(self) -> None:
        if not self._left:
            self._sealed, self._sealed_data = [], b""
        if not self._in_step and self._outbox.has_pending:
            self._outbox = self._shared_outbox()

    def _shared_outbox(self) -> Outbox:
        # One reader of a stream whose queue is full is closed; the queue of all of them is written instead.
        limits = replace(self._limits, bytes=sys.maxsize) if self.is_stream else self._limits
        return Outbox(limits, frame=self.framing.frame, stats=self._stats)


def event_packet(framing: Framing, previous: int, seq: int, items: Sequence[codec.Item]) -> Packet:  # hot path
    return Packet(framing.frame(bounded_ev(previous, seq, items)), "event", previous, seq, items)


def mark_packet(
    framing: Framing,
    previous: int,
    seq: int,
    as_of_ms: float | None,
    snapshot: str | None = None,
    position: str | None = None,
) -> Packet:
    text = codec.encode_mark(previous, seq, as_of_ms, snapshot, position)
    return Packet(framing.frame(text), "mark", previous, seq, as_of_ms=as_of_ms)
