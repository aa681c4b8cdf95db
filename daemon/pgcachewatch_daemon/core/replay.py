"""What a client that comes back is sent of all that it missed; or that this is too much, and it had better flush.

Whoever connects chooses from where to resume and by how many subscriptions, so the cost is counted while it arises:
what is looked at and told, WORK at least and WORK_PER_CHANGE for each change that was missed, and the bytes. A hello
of forty kilobytes could else hold the relay for a minute and fill its memory. A client that flushes is never wrong.
On the path of an event: behind step 4, remember.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pgcachewatch.models import Event, Gap
from pgcachewatch.protocol import codec
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Framing, event_packet, mark_packet
from pgcachewatch_daemon.core.history import Entry
from pgcachewatch_daemon.core.outbox import Conflation, OutboxLimits, Packet
from pgcachewatch_daemon.core.stats import HubStats
from pgcachewatch_daemon.core.subscriptions import Wishes

# What is replayed to one connection, in outboxes. More than one: a stream that was closed because its outbox was full
# has missed at least that much, and is to resume without a gap (W-SLOW-2).
OUTBOXES = 2
WORK = 100_000  # subscriptions looked at and items told: a tenth of a second
WORK_PER_CHANGE = 10  # one subscription that wants them all costs 2


@dataclass(frozen=True, slots=True)
class TooMuch:
    """More than one connection may cost or hold: an honest flush instead."""


def replay(
    missed: Sequence[Entry],
    subscriptions: Sequence[Subscription],
    *,
    since: int,
    head: int,
    framing: Framing,
    limits: OutboxLimits,
) -> list[Packet] | TooMuch:
    """One conflated set for invalidate mode, then each event for stream mode; the last one reaches `head`.

    The conflated set goes first and does not move the position: were the link to break between the two, a client
    further on would resume behind changes it never saw.
    """
    invalidate = _Index([one for one in subscriptions if one.mode == "invalidate"])
    stream = _Index([one for one in subscriptions if one.mode == "stream"])
    conflation = Conflation()
    packets: list[Packet] = []
    cursor, size_bytes = since, 0
    most = WORK + WORK_PER_CHANGE * len(missed)
    for entry in missed:
        _conflate(conflation, invalidate, entry.change, limits)
        if items := stream.items_for(entry.change):
            packets.append(event_packet(framing, cursor, entry.seq, items))
            size_bytes += len(packets[-1].data)
            cursor = entry.seq
        if invalidate.work + stream.work > most or size_bytes > OUTBOXES * limits.bytes:
            return TooMuch()
    if conflation.has_changes:
        seq = since if packets else head
        cursor = cursor if packets else head
        packets.insert(0, event_packet(framing, since, seq, conflation.items()))
    if packets and cursor != head:
        packets.append(mark_packet(framing, cursor, head, None))
    return packets


def _conflate(conflation: Conflation, index: _Index, change: Event | Gap, limits: OutboxLimits) -> None:
    """Merge what the change is told as. A subscription of which everything is to be forgotten is told no more."""
    if conflation.is_everything:
        return
    wide = len(conflation.wide)
    conflation.add(index.items_for(change), limits, HubStats())
    if len(conflation.wide) != wide:
        index.leave_out(conflation.wide)


class _Index:
    """Subscriptions by what they are for. `work` counts those that were looked at, and items."""

    def __init__(self, subscriptions: Sequence[Subscription]) -> None:
        self.work = 0
        self._set(subscriptions)

    def items_for(self, change: Event | Gap) -> list[codec.Item]:
        """What the subscriptions are told of it."""
        wishes = self._wishes(change)
        items = wishes.items_for(change)
        self.work += len(wishes.subscriptions) + len(items)
        return items

    def leave_out(self, sids: Collection[int]) -> None:
        """Tell these nothing more."""
        self.work += len(self._subscriptions)
        self._set([one for one in self._subscriptions if one.sid not in sids])

    def _set(self, subscriptions: Sequence[Subscription]) -> None:
        self._subscriptions = subscriptions
        self._all = Wishes(tuple(subscriptions))
        self._by_place: dict[tuple[str, str | None], list[Subscription]] = {}
        self._wishes_by_place: dict[tuple[str, str | None], Wishes] = {}
        for one in subscriptions:
            self._by_place.setdefault((one.channel, one.table), []).append(one)

    def _wishes(self, change: Event | Gap) -> Wishes:
        """Those that may be concerned."""
        if isinstance(change, Gap):
            return self._all
        place = (change.channel, change.table)
        whole = (change.channel, None)
        known = place if place in self._by_place else whole
        found = self._wishes_by_place.get(known)
        if found is None:
            named = self._by_place.get(place, []) if known is place else []
            found = self._wishes_by_place[known] = Wishes((*named, *self._by_place.get(whole, ())))
        return found
