"""The fan-out: numbers a change, remembers it, matches it, and hands the same bytes to each outbox.

The chain (W-CHAIN-1) rests on one rule: `group.cursor` is the sequence that every member was last sent or has
pending. A connection that joins a group first sees the group brought to the head by a mark without proof, and then
joins at the head; one that changes its subscriptions leaves its old group the same way. So p is right for all members
of a group, and one encoding serves them all.

The hub does no I/O. Whoever calls it then takes what is to be written: first `take_apart`, those with something of
their own, then `take_share` until there is none, the bytes that many are sent; `on_dirty` is called when there is
something to take. It never waits for a reader and never looks at a clock. Bounds: subscribers by admission, outboxes
and history by their own limits. On the path of an event: step 6, fan out.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pgcachewatch.models import EVERYTHING, Event, Gap, Position
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import CloseWith, Subscription
from pgcachewatch_daemon.core.audience import Audience, Framing, Share, Subscriber, event_packet, mark_packet
from pgcachewatch_daemon.core.granted import Answer, Granted
from pgcachewatch_daemon.core.history import Entry, History, JournalFloor, Replay, TooOld
from pgcachewatch_daemon.core.outbox import Outbox, OutboxLimits, Packet
from pgcachewatch_daemon.core.replay import TooMuch, replay
from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.core.stats import HubStats
from pgcachewatch_daemon.core.subscriptions import Directory, Group
from pgcachewatch_daemon.core.uses import Uses

PLAIN_GAP = 1012  # "service restart": the one close code a published client takes as a loss (W-PLAIN-3)


class Backplane(Protocol):
    """Assigns positions: in memory, or by a log that several relays share."""

    @property
    def position(self) -> Position: ...

    def append(self) -> Position:
        """The next position of this epoch."""

    def new_epoch(self, reason: str, start: Position | None = None) -> Position:
        """Continuity was lost: a new epoch, at its sequence 0. With `start` the journal says which, and from where."""


@dataclass(frozen=True, slots=True)
class HubSettings:
    """`node` names this relay to clients, `heartbeat_ms` tells them when to expect marks."""

    node: str
    heartbeat_ms: float
    outbox: OutboxLimits = field(default_factory=OutboxLimits)


class Hub:
    """See the module. All times are the relay's monotonic clock, in the unit of the name."""

    def __init__(
        self,
        backplane: Backplane,
        history: History,
        settings: HubSettings,
        *,
        framing: Framing,
        uses: Uses | None = None,
        on_dirty: Callable[[], None] = lambda: None,
    ) -> None:
        self.stats = HubStats()
        self.uses = uses or Uses()
        self.history = history
        self._backplane = backplane
        self._settings = settings
        self._framing = framing
        self._on_dirty = on_dirty
        self._directory = Directory(self.uses)
        self._plain: dict[str, Audience] = {}
        self._dirty: deque[Audience] = deque()  # with something for those in step
        self._dirty_apart: dict[Subscriber, None] = {}
        self.is_filling = False  # who is in step ought to be written soon
        self.is_pressed = False  # and a stream's readers before anything else is published
        self._stamped = 0  # subscriptions
        self._proven_ms: float | None = None  # as_of of the last mark while the source lasts
        self._place: str | None = None  # in the journal, that a mark showed last

    @property
    def position(self) -> Position:
        return self._backplane.position

    @property
    def has_stamps(self) -> bool:
        """Somebody wants a snapshot in each mark."""
        return self._stamped > 0

    # --- who is there

    def join(
        self,
        hello: messages.Hello,
        wished: Sequence[Subscription | Answer],
        *,
        now_ms: float,
        framing: Framing | None = None,
        is_log_whole: bool = True,
    ) -> Subscriber:
        """Answer a hello: welcome, an answer to each wish, what was missed, a mark. LISTEN on all channels is proven.

        A plain subscription is one that is granted with nothing to say about it. `framing` None is the hub's own.
        Without `is_log_whole` a channel's notifications may be missing since the client's sequence.
        """
        framing = framing or self._framing
        head = self.position
        answers = [Granted(each) if isinstance(each, Subscription) else each for each in wished]
        subscriptions = tuple(each.subscription for each in answers if isinstance(each, Granted))
        is_stream = any(subscription.mode == "stream" for subscription in subscriptions)
        subscriber = Subscriber(self._outbox(framing, is_stream=is_stream), framing, name=hello.name or "")
        missed = self._missed(hello.resume, head, is_log_whole=is_log_whole)
        replayed = self._replay(missed, subscriptions, hello.resume, head, framing)
        if isinstance(replayed, TooMuch):
            missed, replayed = None, []
            self.stats.not_resumed_history += 1
        self.stats.resumed += missed is not None
        self._control(subscriber, self._welcome(head, now_ms, resumed=missed is not None))
        for answer in answers:
            self._control(subscriber, answer.subok(head.seq) if isinstance(answer, Granted) else answer)
        if replayed:
            self.stats.frames += len(replayed)
            self.stats.frame_bytes += sum(len(packet.data) for packet in replayed)
            subscriber.own_outbox().replay(replayed)
        cursor = head.seq
        if missed is not None and hello.resume is not None and not replayed:
            cursor = hello.resume.s
        self._offer(subscriber, mark_packet(framing, cursor, head.seq, self._proven_ms, position=self._place))
        self._enter(subscriber, subscriptions)
        self.stats.clients += 1
        return subscriber

    def join_plain(self, channel: str) -> Subscriber:
        """A published client: raw payloads of one channel. LISTEN on it is proven."""
        framing = self._framing
        subscriber = Subscriber(self._outbox(framing, is_stream=True), framing, plain_channel=channel)
        audience = self._plain.get(channel)
        if audience is None:
            audience = self._plain[channel] = self._audience(framing, is_stream=True)
            self.uses.begin(channel)
        audience.enter(subscriber)
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
        audience = subscriber.audience
        if audience is None:
            return
        self._dirty_apart.pop(subscriber, None)
        if subscriber.plain_channel is not None:
            audience.leave(subscriber)
            self.stats.plain_clients -= 1
            if not len(audience):
                del self._plain[subscriber.plain_channel]
                self.uses.end(subscriber.plain_channel)
        else:
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
                audience = group.audience
                packet = event_packet(audience.framing, group.cursor, seq, items)
                group.cursor = seq
                self._fan_out(audience, packet)
        plain = self._plain.get(channel)
        if plain is not None:
            self._fan_out(plain, Packet(plain.framing.frame(payload), "event"))

    def mark(self, as_of_ms: float, snapshot: str | None = None, position: str | None = None) -> None:
        """A loopback came back: prove freshness to everyone, behind what was published before.

        `snapshot` goes to those with stamps. No other mark has one: this is the mark that is sent as a loopback comes
        back, and the next is that of a loopback which was sent later (W-STAMP-3). The journal was read up to
        `position`, from which a client can resume in another life of the relay (W-JOURNAL-1).
        """
        self._proven_ms, self._place = as_of_ms, position or self._place
        head = self.position.seq
        self.stats.marks += 1
        for group in self._directory:
            audience, told = group.audience, snapshot if group.has_stamps else None
            packet = mark_packet(audience.framing, group.cursor, head, as_of_ms, told, position)
            group.cursor = head
            self._fan_out(audience, packet)

    def barrier_passed(self, subscriber: Subscriber, identity: int) -> None:
        """Answer a barrier whose loopback came back."""
        text = codec.encode(messages.Barrierok(id=identity, s=self.position.seq))
        self._offer(subscriber, Packet(subscriber.framing.frame(text), "barrier"))

    def send(self, subscriber: Subscriber, text: str) -> None:
        """Queue a control frame, as the answer to a ping."""
        self._offer(subscriber, Packet(subscriber.framing.frame(text), "control"))

    def source_lost(self, reason: str, *, now_ms: float) -> None:
        """PostgreSQL is lost: no proof until further notice. Plain readers are closed, so that they see it."""
        self._proven_ms = None
        text = codec.encode(messages.Stale(since=now_ms, reason=reason))
        for group in self._directory:
            self._fan_out(group.audience, Packet(group.audience.framing.frame(text), "control"))
        self.close_plain("the database connection was lost; connect again")

    def source_restored(self, reason: str, *, start: Position | None = None, floor: JournalFloor | None = None) -> None:
        """PostgreSQL is back, and what it said meanwhile is unknown: a new epoch for everyone.

        With a journal the epoch is its own, from `start`, and what is published next is its past from `floor` on.
        """
        position = self._backplane.new_epoch(reason, start)
        self.stats.epoch_changes[reason] = self.stats.epoch_changes.get(reason, 0) + 1
        self._place = None
        self.history.begin_after(position.seq, floor)
        text = codec.encode(messages.Reset(e=position.epoch, s=position.seq))
        for group in self._directory:
            group.cursor = position.seq
            frame = group.audience.framing.frame(text)
            self._fan_out(group.audience, Packet(frame, "reset", position.seq, position.seq))

    def notifications_lost(self, *, now_s: float) -> None:
        """What was notified meanwhile is unknown: a gap for all that is not journalled."""
        gap = Gap(EVERYTHING, "source_lost", "what was notified meanwhile is lost")
        self.publish(gap, channel="", payload="", now_s=now_s)
        self.close_plain("the database connection was lost; connect again")

    def say_bye(self, code: int, *, reason: str, after_ms: float, jitter_ms: float) -> None:
        """A planned end: everybody is told when to come back, then closed."""
        text = codec.encode(messages.Bye(code=code, after_ms=after_ms, jitter_ms=jitter_ms))
        for group in self._directory:
            self._fan_out(group.audience, Packet(group.audience.framing.frame(text), "control"))
            for subscriber in group.audience.members:
                self._close(subscriber, CloseWith(code, reason))
        self.close_plain(reason)

    def close_plain(self, reason: str) -> None:
        """Published clients know one way to learn that they missed something (W-PLAIN-3)."""
        for audience in self._plain.values():
            for subscriber in audience.members:
                self._close(subscriber, CloseWith(PLAIN_GAP, reason))

    def send_away(self, subscriber: Subscriber, code: int, *, reason: str, jitter_ms: float) -> None:
        """A planned end for one: it is told when to come back, on the path that has a word for it, then closed."""
        if subscriber.plain_channel is None:
            self._control(subscriber, messages.Bye(code=code, jitter_ms=jitter_ms))
        self._close(subscriber, CloseWith(code, reason))

    # --- what is to be written

    @property
    def has_work(self) -> bool:
        """There is something to take."""
        return bool(self._dirty or self._dirty_apart)

    def take_apart(self, most: int) -> list[Subscriber]:
        """Up to `most` of those with something of their own to be written or to close with, each once."""
        if len(self._dirty_apart) <= most:
            taken, self._dirty_apart = list(self._dirty_apart), {}
        else:
            taken = list(itertools.islice(self._dirty_apart, most))
            for subscriber in taken:
                del self._dirty_apart[subscriber]
        return taken

    def take_share(self, *, writes: int, size_bytes: int) -> Share | None:  # hot path
        """Bytes and whom to write them to, within both limits, each audience in its turn. None when there are none."""
        while self._dirty:
            audience = self._dirty.popleft()
            share = audience.take(writes=writes, size_bytes=size_bytes)
            audience.is_dirty = audience.has_work
            if audience.is_dirty:
                self._dirty.append(audience)
            if share is not None:
                return share
        self.is_filling = self.is_pressed = False
        return None

    def filled(self, subscriber: Subscriber) -> None:
        """Its socket took not all of what was written: what is new waits in an outbox of its own."""
        if subscriber.audience is not None:
            subscriber.audience.step_out(subscriber)

    def written(self, subscriber: Subscriber) -> None:
        """Its socket took all it had pending."""
        if subscriber.audience is not None:
            subscriber.audience.step_in(subscriber)

    # --- groups and the chain

    def _align(self, group: Group) -> None:
        """Bring a group to the head, so that members may come and go there."""
        head = self.position.seq
        if group.cursor != head:
            packet = mark_packet(group.audience.framing, group.cursor, head, None)
            group.cursor = head
            self._fan_out(group.audience, packet)

    def _enter(self, subscriber: Subscriber, subscriptions: tuple[Subscription, ...]) -> None:
        framing = subscriber.framing
        group = self._directory.get(subscriptions, framing)
        if group is None:
            is_stream = any(each.mode == "stream" for each in subscriptions)
            audience = self._audience(framing, is_stream=is_stream)
            group = Group(subscriptions, audience=audience, cursor=self.position.seq)
            self._directory.add(group)
        self._align(group)
        group.audience.enter(subscriber)
        subscriber.group = group
        self._count(subscriptions, 1)

    def _exit(self, subscriber: Subscriber) -> None:
        group = self._member(subscriber)
        group.audience.leave(subscriber)
        subscriber.group = None
        if not len(group.audience):
            self._directory.remove(group)
        self._count(group.subscriptions, -1)

    def _move(self, subscriber: Subscriber, subscriptions: tuple[Subscription, ...]) -> None:
        subscriber.own_outbox()
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

    def _missed(
        self, resume: messages.Resume | None, head: Position, *, is_log_whole: bool
    ) -> tuple[Entry, ...] | None:
        """What came after the client's cursor; None when that can not be said."""
        if resume is None:
            return None
        if resume.e != head.epoch or resume.s > head.seq:
            self.stats.not_resumed_epoch += 1
            return None
        answer = self.history.since(resume.s) if is_log_whole else TooOld(resume.s)
        if isinstance(answer, Replay):
            return answer.entries
        snapshot = Snapshot.parse(resume.j) if resume.j is not None else None
        if snapshot is not None and isinstance(answer := self.history.since_snapshot(snapshot), Replay):
            # Of what is not journalled nothing is known but that it may have changed (W-JOURNAL-2).
            gap = Gap(EVERYTHING, "source_lost", "what was notified meanwhile is not known")
            told = (entry for entry in answer.entries if entry.seq > resume.s)
            return (Entry(resume.s, gap, size_bytes=0, at_s=0.0), *told)
        self.stats.not_resumed_history += 1
        return None

    def _replay(
        self,
        missed: Sequence[Entry] | None,
        subscriptions: Sequence[Subscription],
        resume: messages.Resume | None,
        head: Position,
        framing: Framing,
    ) -> list[Packet] | TooMuch:
        if missed is None or resume is None:
            return []
        limits = self._settings.outbox
        return replay(missed, subscriptions, since=resume.s, head=head.seq, framing=framing, limits=limits)

    def _welcome(self, head: Position, now_ms: float, *, resumed: bool) -> messages.Welcome:
        settings = self._settings
        return messages.Welcome(
            e=head.epoch, s=head.seq, resumed=resumed, now=now_ms, hb_ms=settings.heartbeat_ms, node=settings.node
        )

    def _outbox(self, framing: Framing, *, is_stream: bool) -> Outbox:
        return Outbox(self._settings.outbox, frame=framing.frame, stats=self.stats, is_stream=is_stream)

    def _audience(self, framing: Framing, *, is_stream: bool) -> Audience:
        return Audience(self._settings.outbox, framing, stats=self.stats, is_stream=is_stream)

    def _control(self, subscriber: Subscriber, message: messages.Message) -> None:
        self.send(subscriber, codec.encode(message))

    # --- the way out

    def _fan_out(self, audience: Audience, packet: Packet) -> None:  # hot path
        """The same packet to each member: one append for all who are in step."""
        members = len(audience)
        self.stats.frames += members
        self.stats.frame_bytes += members * len(packet.data)
        audience.offer(packet)
        had_work = self.has_work
        if audience.apart:
            self._dirty_apart.update(dict.fromkeys(audience.apart))
        if not audience.is_dirty and audience.has_work:
            audience.is_dirty = True
            self._dirty.append(audience)
        if audience.is_filling:
            self.is_filling = True
            self.is_pressed |= audience.is_stream
        if not had_work and self.has_work:
            self._on_dirty()

    def _offer(self, subscriber: Subscriber, packet: Packet) -> None:
        self.stats.frames += 1
        self.stats.frame_bytes += len(packet.data)
        subscriber.own_outbox().offer(packet)
        self._soil(subscriber)

    def _close(self, subscriber: Subscriber, close: CloseWith) -> None:
        outbox = subscriber.own_outbox()
        if outbox.close is None:
            outbox.close = close
        self._soil(subscriber)

    def _soil(self, subscriber: Subscriber) -> None:
        had_work = self.has_work
        self._dirty_apart[subscriber] = None
        if not had_work:
            self._on_dirty()
