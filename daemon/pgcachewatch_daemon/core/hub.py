"""The fan-out: numbers a change, remembers it, matches it, and hands the same bytes to each outbox.

The chain (W-CHAIN-1) rests on one rule: `group.cursor` is the sequence that every member was last sent or has
pending. A connection that joins a group first sees the group brought to the head by a mark without proof, and then
joins at the head; one that changes its subscriptions leaves its old group the same way. So p is right for all members
of a group, and one encoding serves them all.

The hub does no I/O. Whoever calls it then takes the dirty subscribers and writes what their outboxes hold; `on_dirty`
is called when there is something to take. It never waits for a reader and never looks at a clock. Bounds: subscribers
by admission, outboxes and history by their own limits. On the path of an event: step 6, fan out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pgcachewatch.models import Event, Gap, Position
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import CloseWith, Subscription
from pgcachewatch_daemon.core.history import Entry, History, TooOld
from pgcachewatch_daemon.core.outbox import Conflation, Outbox, OutboxLimits, Packet, bounded_ev
from pgcachewatch_daemon.core.stats import HubStats
from pgcachewatch_daemon.core.subscriptions import Directory, Group

# What is replayed to one connection, in outboxes. More than one: a stream that was closed because its outbox was full
# has missed at least that much, and is to resume without a gap (W-SLOW-2).
REPLAY_OUTBOXES = 2
PLAIN_GAP = 1012  # "service restart": the one close code a published client takes as a loss (W-PLAIN-3)


class Backplane(Protocol):
    """Assigns positions: in memory, or by a log that several relays share."""

    @property
    def position(self) -> Position: ...

    def append(self) -> Position:
        """The next position of this epoch."""

    def new_epoch(self, reason: str) -> Position:
        """Continuity was lost: a new epoch, at its sequence 0."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """`node` names this relay to clients, `heartbeat_ms` tells them when to expect marks."""

    node: str
    heartbeat_ms: float
    outbox: OutboxLimits = field(default_factory=OutboxLimits)


@dataclass(frozen=True, slots=True)
class Granted:
    """A subscription with what its `subok` says beside it (W-ROW-2)."""

    subscription: Subscription
    types: tuple[str, ...] | None = None
    notice: str | None = None

    def subok(self, seq: int) -> messages.Subok:
        """The answer, live from `seq`."""
        one, types = self.subscription, None if self.types is None else list(self.types)
        return messages.Subok(id=one.id, sid=one.sid, s=seq, types=types, notice=self.notice)


# To one subscription of a hello. An error takes the place of `subok`, and that subscription is none (W-ROW-3).
Answer = Granted | messages.Err


class Subscriber:
    """One connection as the hub knows it. `shell` is the caller's own, to find the connection again."""

    __slots__ = ("group", "is_dirty", "name", "outbox", "plain_channel", "shell")

    def __init__(self, outbox: Outbox, *, name: str = "", plain_channel: str | None = None) -> None:
        self.outbox = outbox
        self.name = name
        self.group: Group | None = None
        self.plain_channel = plain_channel
        self.shell: object | None = None
        self.is_dirty = False

    @property
    def close(self) -> CloseWith | None:
        """What to close the connection with, once its outbox was written."""
        return self.outbox.close


class Hub:
    """See the module. All times are the relay's monotonic clock, in the unit of the name."""

    def __init__(
        self,
        backplane: Backplane,
        history: History,
        settings: HubSettings,
        *,
        frame: Callable[[str], bytes],
        on_dirty: Callable[[], None] = lambda: None,
    ) -> None:
        self.stats = HubStats()
        self.history = history
        self._backplane = backplane
        self._settings = settings
        self._frame = frame
        self._on_dirty = on_dirty
        self._directory = Directory()
        self._plain: dict[str, dict[Subscriber, None]] = {}
        self._dirty: list[Subscriber] = []
        self._stamped = 0  # subscriptions
        self._proven_ms: float | None = None  # as_of of the last mark while the source lasts

    @property
    def position(self) -> Position:
        return self._backplane.position

    @property
    def has_stamps(self) -> bool:
        """Somebody wants a snapshot in each mark."""
        return self._stamped > 0

    # --- who is there

    def join(self, hello: messages.Hello, wished: Sequence[Subscription | Answer], *, now_ms: float) -> Subscriber:
        """Answer a hello: welcome, an answer to each wish, what was missed, a mark. LISTEN on all channels is proven.

        A plain subscription is one that is granted with nothing to say about it.
        """
        head = self.position
        answers = [Granted(each) if isinstance(each, Subscription) else each for each in wished]
        subscriptions = tuple(each.subscription for each in answers if isinstance(each, Granted))
        is_stream = any(subscription.mode == "stream" for subscription in subscriptions)
        subscriber = Subscriber(self._outbox(is_stream=is_stream), name=hello.name or "")
        missed = self._missed(hello.resume, head)
        replay = [] if missed is None else self._replay(missed, subscriptions, hello.resume, head)
        replay_bytes = sum(len(packet.data) for packet in replay)
        if replay_bytes > REPLAY_OUTBOXES * self._settings.outbox.bytes:
            missed, replay = None, []  # more than this connection may hold: an honest flush instead
            self.stats.not_resumed_history += 1
        self.stats.resumed += missed is not None
        self._control(subscriber, self._welcome(head, now_ms, resumed=missed is not None))
        for answer in answers:
            self._control(subscriber, answer.subok(head.seq) if isinstance(answer, Granted) else answer)
        if replay:
            self.stats.frames += len(replay)
            self.stats.frame_bytes += replay_bytes
            subscriber.outbox.replay(replay)
        cursor = head.seq
        if missed is not None and hello.resume is not None and not replay:
            cursor = hello.resume.s
        self._offer(subscriber, self._mark_packet(cursor, head.seq, self._proven_ms))
        self._enter(subscriber, subscriptions)
        self.stats.clients += 1
        return subscriber

    def join_plain(self, channel: str) -> Subscriber:
        """A published client: raw payloads of one channel. LISTEN on it is proven."""
        subscriber = Subscriber(self._outbox(is_stream=True), plain_channel=channel)
        self._plain.setdefault(channel, {})[subscriber] = None
        self.stats.plain_clients += 1
        return subscriber

    def subscribe(self, subscriber: Subscriber, wished: Subscription | Granted) -> None:
        """One more subscription, live from the head. LISTEN on its channel is proven."""
        granted = Granted(wished) if isinstance(wished, Subscription) else wished
        group = self._member(subscriber)
        self._align(group)
        self._control(subscriber, granted.subok(self.position.seq))
        self._move(subscriber, (*group.subscriptions, granted.subscription))

    def unsubscribe(self, subscriber: Subscriber, sid: int) -> None:
        """End one subscription; the others go on without a break."""
        group = self._member(subscriber)
        self._align(group)
        self._move(subscriber, tuple(one for one in group.subscriptions if one.sid != sid))

    def leave(self, subscriber: Subscriber) -> None:
        """The connection is gone. A second call does nothing."""
        if subscriber.plain_channel is not None:
            there = self._plain.get(subscriber.plain_channel, {})
            if there.pop(subscriber, self) is None:
                self.stats.plain_clients -= 1
            if not there:
                self._plain.pop(subscriber.plain_channel, None)
        elif subscriber.group is not None:
            self._exit(subscriber)
            self.stats.clients -= 1

    # --- what happens

    def publish(self, change: Event | Gap, *, channel: str, payload: str, now_s: float) -> None:  # hot path
        """One change, from the LISTEN connection to every outbox it concerns."""
        seq = self._backplane.append().seq
        self.history.append(seq, change, payload_bytes=len(payload), now_s=now_s)
        for group in self._directory.concerned(change):
            items = group.items_for(change)
            if items:
                text = bounded_ev(group.cursor, seq, items)
                packet = Packet(self._frame(text), "event", group.cursor, seq, items)
                group.cursor = seq
                self._fan_out(group.members, packet)
        plain = self._plain.get(channel)
        if plain:
            self._fan_out(plain, Packet(self._frame(payload), "event"))

    def mark(self, as_of_ms: float, snapshot: str | None = None) -> None:
        """A loopback came back: prove freshness to everyone, behind what was published before.

        `snapshot` goes to those with stamps. No other mark has one: this is the mark that is sent as a loopback comes
        back, and the next is that of a loopback which was sent later (W-STAMP-3).
        """
        self._proven_ms = as_of_ms
        head = self.position.seq
        self.stats.marks += 1
        for group in self._directory:
            packet = self._mark_packet(group.cursor, head, as_of_ms, snapshot if group.has_stamps else None)
            group.cursor = head
            self._fan_out(group.members, packet)

    def barrier_passed(self, subscriber: Subscriber, identity: int) -> None:
        """Answer a barrier whose loopback came back."""
        text = codec.encode(messages.Barrierok(id=identity, s=self.position.seq))
        self._offer(subscriber, Packet(self._frame(text), "barrier"))

    def send(self, subscriber: Subscriber, text: str) -> None:
        """Queue a control frame, as the answer to a ping."""
        self._offer(subscriber, Packet(self._frame(text), "control"))

    def source_lost(self, reason: str, *, now_ms: float) -> None:
        """PostgreSQL is lost: no proof until further notice. Plain readers are closed, so that they see it."""
        self._proven_ms = None
        packet = Packet(self._frame(codec.encode(messages.Stale(since=now_ms, reason=reason))), "control")
        for group in self._directory:
            self._fan_out(group.members, packet)
        self.close_plain("the database connection was lost; connect again")

    def source_restored(self, reason: str) -> None:
        """PostgreSQL is back, and what it said meanwhile is unknown: a new epoch for everyone."""
        position = self._backplane.new_epoch(reason)
        self.stats.epoch_changes[reason] = self.stats.epoch_changes.get(reason, 0) + 1
        self.history.forget_all()
        text = codec.encode(messages.Reset(e=position.epoch, s=position.seq))
        packet = Packet(self._frame(text), "reset", position.seq, position.seq)
        for group in self._directory:
            group.cursor = position.seq
            self._fan_out(group.members, packet)

    def say_bye(self, code: int, *, reason: str, after_ms: float, jitter_ms: float) -> None:
        """A planned end: everybody is told when to come back, then closed."""
        packet = Packet(
            self._frame(codec.encode(messages.Bye(code=code, after_ms=after_ms, jitter_ms=jitter_ms))), "control"
        )
        for group in self._directory:
            self._fan_out(group.members, packet)
            for subscriber in group.members:
                self._close(subscriber, CloseWith(code, reason))
        self.close_plain(reason)

    def close_plain(self, reason: str) -> None:
        """Published clients know one way to learn that they missed something (W-PLAIN-3)."""
        for readers in self._plain.values():
            for subscriber in readers:
                self._close(subscriber, CloseWith(PLAIN_GAP, reason))

    def send_away(self, subscriber: Subscriber, code: int, *, reason: str, jitter_ms: float) -> None:
        """A planned end for one: it is told when to come back, then closed."""
        self._control(subscriber, messages.Bye(code=code, jitter_ms=jitter_ms))
        self._close(subscriber, CloseWith(code, reason))

    def take_dirty(self) -> list[Subscriber]:
        """Those with something to write or to close, each once; the list starts anew."""
        taken, self._dirty = self._dirty, []
        for subscriber in taken:
            subscriber.is_dirty = False
        return taken

    # --- groups and the chain

    def _align(self, group: Group) -> None:
        """Bring a group to the head, so that members may come and go there."""
        head = self.position.seq
        if group.cursor != head:
            packet = self._mark_packet(group.cursor, head, None)
            group.cursor = head
            self._fan_out(group.members, packet)

    def _enter(self, subscriber: Subscriber, subscriptions: tuple[Subscription, ...]) -> None:
        group = self._directory.get(subscriptions)
        if group is None:
            group = Group(subscriptions, cursor=self.position.seq)
            self._directory.add(group)
        self._align(group)
        group.members[subscriber] = None
        subscriber.group = group
        subscriber.outbox.is_stream = group.has_stream
        self._count(subscriptions, 1)

    def _exit(self, subscriber: Subscriber) -> None:
        group = self._member(subscriber)
        del group.members[subscriber]
        subscriber.group = None
        if not group.members:
            self._directory.remove(group)
        self._count(group.subscriptions, -1)

    def _move(self, subscriber: Subscriber, subscriptions: tuple[Subscription, ...]) -> None:
        self._exit(subscriber)
        self._enter(subscriber, subscriptions)

    def _member(self, subscriber: Subscriber) -> Group:
        assert subscriber.group is not None, "the subscriber has left"
        return subscriber.group

    def _count(self, subscriptions: tuple[Subscription, ...], step: Literal[1, -1]) -> None:
        for subscription in subscriptions:
            self._stamped += step * subscription.has_stamps
            if subscription.mode == "stream":
                self.stats.subscriptions_stream += step
            else:
                self.stats.subscriptions_invalidate += step

    # --- resume

    def _missed(self, resume: messages.Resume | None, head: Position) -> tuple[Entry, ...] | None:
        """What came after the client's cursor; None when that can not be said."""
        if resume is None:
            return None
        if resume.e != head.epoch or resume.s > head.seq:
            self.stats.not_resumed_epoch += 1
            return None
        answer = self.history.since(resume.s)
        if isinstance(answer, TooOld):
            self.stats.not_resumed_history += 1
            return None
        return answer.entries

    def _replay(
        self,
        missed: Sequence[Entry],
        subscriptions: tuple[Subscription, ...],
        resume: messages.Resume | None,
        head: Position,
    ) -> list[Packet]:
        """One conflated set for invalidate mode, then each event for stream mode; the last one reaches the head.

        The conflated set goes first and does not move the position: were the link to break between the two, a client
        further on would resume behind changes it never saw.
        """
        assert resume is not None
        invalidate = Group(tuple(one for one in subscriptions if one.mode == "invalidate"), cursor=0)
        stream = Group(tuple(one for one in subscriptions if one.mode == "stream"), cursor=0)
        conflation = Conflation()
        packets: list[Packet] = []
        cursor = resume.s
        for entry in missed:
            conflation.add(invalidate.items_for(entry.change), self._settings.outbox, HubStats())
            if items := stream.items_for(entry.change):
                packets.append(self._event_packet(cursor, entry.seq, items))
                cursor = entry.seq
        if conflation.has_changes:
            seq = resume.s if packets else head.seq
            cursor = cursor if packets else head.seq
            packets.insert(0, self._event_packet(resume.s, seq, conflation.items()))
        if packets and cursor != head.seq:
            packets.append(self._mark_packet(cursor, head.seq, None))
        return packets

    # --- packets

    def _event_packet(self, previous: int, seq: int, items: Sequence[codec.Item]) -> Packet:
        return Packet(self._frame(bounded_ev(previous, seq, items)), "event", previous, seq, items)

    def _mark_packet(self, previous: int, seq: int, as_of_ms: float | None, snapshot: str | None = None) -> Packet:
        text = codec.encode_mark(previous, seq, as_of_ms, snapshot)
        return Packet(self._frame(text), "mark", previous, seq, as_of_ms=as_of_ms)

    def _welcome(self, head: Position, now_ms: float, *, resumed: bool) -> messages.Welcome:
        settings = self._settings
        return messages.Welcome(
            e=head.epoch, s=head.seq, resumed=resumed, now=now_ms, hb_ms=settings.heartbeat_ms, node=settings.node
        )

    def _outbox(self, *, is_stream: bool) -> Outbox:
        return Outbox(self._settings.outbox, frame=self._frame, stats=self.stats, is_stream=is_stream)

    def _control(self, subscriber: Subscriber, message: messages.Message) -> None:
        self.send(subscriber, codec.encode(message))

    # --- the way out

    def _fan_out(self, members: dict[Subscriber, None], packet: Packet) -> None:  # hot path
        """The same packet to each member: one append and, at most once a tick, one entry in the dirty list."""
        self.stats.frames += len(members)
        self.stats.frame_bytes += len(members) * len(packet.data)
        dirty = self._dirty
        was_clean = not dirty
        for subscriber in members:
            subscriber.outbox.offer(packet)
            if not subscriber.is_dirty:
                subscriber.is_dirty = True
                dirty.append(subscriber)
        if was_clean and dirty:
            self._on_dirty()

    def _offer(self, subscriber: Subscriber, packet: Packet) -> None:
        self._fan_out({subscriber: None}, packet)

    def _close(self, subscriber: Subscriber, close: CloseWith) -> None:
        if subscriber.outbox.close is None:
            subscriber.outbox.close = close
        if not subscriber.is_dirty:
            subscriber.is_dirty = True
            self._dirty.append(subscriber)
            if len(self._dirty) == 1:
                self._on_dirty()
