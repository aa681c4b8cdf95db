"""What one connection is still to be sent: bounded, in order, and never silently short.

In the fast case an outbox is a list of Packets that it shares with every other member of its group. When a reader is
too slow and the list passes its limit, the outbox conflates: what is pending collapses into one set of constant size,
first key by key, then whole subscriptions, then everything (W-SLOW-1). It leaves the outbox as one `ev` from the
position last sent to the newest, with what may follow it behind it: a mark and the barriers that passed. Nothing that
is sent overtakes an event it speaks of. Stamps are lost: of several changes there is no one transaction, and a mark
that is sent later than it was made shows no snapshot (W-STAMP-3).

A connection with a stream subscription can not be conflated, since its consumer counts events: its queue is dropped
and the connection closed with 4103; it resumes from its own cursor (W-SLOW-2). On the path of an event: step 6, fan
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import CloseWith
from pgcachewatch_daemon.core.stats import HubStats

Kind = Literal["event", "mark", "barrier", "reset", "control"]


@dataclass(slots=True)  # not frozen: one is made for each event and group, and that takes thrice as long
class Packet:
    """One frame as it goes on the wire, with what conflation must know of it; shared by a whole group.

    `previous` and `seq` are the chain's p and s; packets of kind "control" and "barrier" have none.
    """

    data: bytes
    kind: Kind
    previous: int = 0
    seq: int = 0
    items: Sequence[codec.Item] = ()
    as_of_ms: float | None = None


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Of one connection: bytes queued before it conflates, and how large the conflated set may grow."""

    bytes: int = 262_144
    keys: int = 1_000
    key_bytes: int = 65_536
    control_bytes: int = 262_144


@dataclass(slots=True)
class Conflation:
    """Everything pending of a slow reader, in constant size.

    `wide` holds sids of which everything changed, `keys` the changed keys of the others.
    """

    previous: int | None = None
    seq: int = 0
    has_changes: bool = False
    is_everything: bool = False
    wide: set[int] = field(default_factory=set)
    keys: dict[tuple[int, str], None] = field(default_factory=dict)
    key_bytes: int = 0
    as_of_ms: float | None = None

    def advance(self, previous: int, seq: int) -> None:
        if self.previous is None:
            self.previous = previous
        self.seq = seq

    def add(self, items: Sequence[codec.Item], limits: OutboxLimits, stats: HubStats) -> None:
        """Merge the items of one event."""
        for item in items:
            sid, key = item[0], item[2]
            self.has_changes = True
            if sid == 0:
                self._widen_to_everything(stats)
            if self.is_everything or sid in self.wide:
                continue
            if key is None:
                self._widen(sid)
                stats.conflated_subscription += 1
            elif (sid, key) not in self.keys:
                self.keys[sid, key] = None
                self.key_bytes += len(key)
                stats.conflated_key += 1
            while len(self.keys) > limits.keys or self.key_bytes > limits.key_bytes:
                # Only the subscription with the most keys gives its detail up; a quiet one beside it keeps its own.
                self._widen(Counter(sid for sid, _ in self.keys).most_common(1)[0][0])
                stats.conflated_subscription += 1
            if len(self.wide) > limits.keys:
                self._widen_to_everything(stats)

    def items(self) -> Sequence[codec.Item]:
        if self.is_everything:
            return [(0, "*", None)]
        return [(sid, "*", None) for sid in sorted(self.wide)] + [(sid, "*", key) for sid, key in self.keys]

    def _widen(self, sid: int) -> None:
        for known in [known for known in self.keys if known[0] == sid]:
            del self.keys[known]
            self.key_bytes -= len(known[1])
        self.wide.add(sid)

    def _widen_to_everything(self, stats: HubStats) -> None:
        self.is_everything = True
        self.wide.clear()
        self.keys.clear()
        self.key_bytes = 0
        stats.conflated_everything += 1


class Outbox:
    """Pending packets of one connection. `frame` turns a text into bytes as they go on the wire."""

    __slots__ = (
        "_after",
        "_conflation",
        "_control_bytes",
        "_frame",
        "_limits",
        "_packets",
        "_size_bytes",
        "_stats",
        "close",
        "is_stream",
    )

    def __init__(
        self, limits: OutboxLimits, *, frame: Callable[[str], bytes], stats: HubStats, is_stream: bool = False
    ) -> None:
        self.close: CloseWith | None = None  # after what is pending
        self.is_stream = is_stream
        self._limits = limits
        self._frame = frame
        self._stats = stats
        self._packets: list[Packet] = []
        self._size_bytes = 0
        self._control_bytes = 0
        self._conflation: Conflation | None = None
        self._after: list[Packet] = []  # barriers that passed while conflating: behind the conflated set

    @property
    def has_pending(self) -> bool:
        return bool(self._packets) or self._conflation is not None or self.close is not None

    @property
    def is_conflating(self) -> bool:
        return self._conflation is not None

    @property
    def size_bytes(self) -> int:
        return self._size_bytes + self._control_bytes

    @property
    def waits_from(self) -> int | None:
        """The position that the reader was last sent, while something with a position is pending; else None."""
        if self._conflation is not None and self._conflation.previous is not None:
            return self._conflation.previous
        return next((packet.previous for packet in self._packets if packet.kind in ("event", "mark")), None)

    def offer(self, packet: Packet) -> None:  # hot path
        """Queue `packet` behind everything offered before; once the end is decided, nothing follows what is queued."""
        if self.close is not None:
            return  # behind a dropped queue it would break the chain, and cost the reader its resume
        if self._conflation is None:
            self._packets.append(packet)
            self._size_bytes += len(packet.data)
            if self._size_bytes > self._limits.bytes:
                self._overflow()
        else:
            self._merge(self._conflation, packet)

    def replay(self, packets: Sequence[Packet]) -> None:
        """Queue what the reader missed. It is not counted, so that what is new meanwhile has the room it always has."""
        self._packets += packets

    def pending(self) -> list[Packet]:
        """Everything pending, oldest first, as packets that another outbox can be offered."""
        if self._conflation is None:
            return self._packets.copy()
        return [*self._packets, *self._conflated(self._conflation), *self._after]

    def drain_packets(self) -> list[Packet]:
        """Everything pending, oldest first; the outbox is empty afterwards (but for `close`)."""
        packets = self._packets if self._conflation is None else self.pending()
        self._packets = []
        self._conflation = None
        self._after = []
        self._size_bytes = self._control_bytes = 0
        return packets

    def drain(self) -> list[bytes]:
        """The same as frames."""
        return [packet.data for packet in self.drain_packets()]

    def drop(self, close: CloseWith) -> None:
        """Forget what is pending and close: the reader is told by the code that it missed something."""
        if self.close is None:
            self.drain()
            self.close = close

    def _overflow(self) -> None:
        if self.is_stream:
            self._stats.overflowed_streams += 1
            self.drop(CloseWith(4103, "the queue of this stream is full; resume from your position"))
            return
        pending, self._packets, self._size_bytes = self._packets, [], 0
        for packet in pending:
            if self.close is not None:
                return
            # Anew after a reset among them: what came before it is void, what comes after it is not.
            if self._conflation is None:
                self._conflation = Conflation()
            self._merge(self._conflation, packet)

    def _merge(self, conflation: Conflation, packet: Packet) -> None:
        match packet.kind:
            case "event":
                conflation.advance(packet.previous, packet.seq)
                conflation.add(packet.items, self._limits, self._stats)
            case "mark":
                conflation.advance(packet.previous, packet.seq)
                conflation.as_of_ms = packet.as_of_ms if packet.as_of_ms is not None else conflation.as_of_ms
            case "barrier":
                self._after.append(packet)
                self._keep(packet)
            case "reset":
                # It flushes whatever was pending before it, and the chain goes on from it.
                self._conflation = None
                self._packets.append(packet)
                self._packets += self._after
                self._after = []
                self._size_bytes = sum(len(kept.data) for kept in self._packets)
                self._control_bytes = 0
            case "control":
                # Ahead of the conflated set: it speaks of no event, and an answer to `sub` must come before them.
                self._packets.append(packet)
                self._keep(packet)

    def _keep(self, packet: Packet) -> None:
        """Control frames of a reader that asks and never reads are bounded too."""
        self._control_bytes += len(packet.data)
        if self._control_bytes > self._limits.control_bytes:
            self.drop(CloseWith(4105, "too many requests without reading the answers"))

    def _conflated(self, conflation: Conflation) -> list[Packet]:
        if conflation.previous is None:
            return []
        packets: list[Packet] = []
        previous, seq = conflation.previous, conflation.seq
        if conflation.has_changes:
            items = conflation.items()
            packets.append(Packet(self._frame(bounded_ev(previous, seq, items)), "event", previous, seq, items))
            previous = seq
        mark = codec.encode_mark(previous, seq, conflation.as_of_ms)
        packets.append(Packet(self._frame(mark), "mark", previous, seq, as_of_ms=conflation.as_of_ms))
        return packets


def bounded_ev(previous: int, seq: int, items: Sequence[codec.Item]) -> str:
    """An `ev` within the relay's frame limit (W-LIMIT-2): one that would not fit says "everything"."""
    text = codec.encode_ev(previous, seq, items)
    return text if len(text) <= messages.RELAY_FRAME_BYTES else codec.encode_ev(previous, seq, [(0, "*", None)])
