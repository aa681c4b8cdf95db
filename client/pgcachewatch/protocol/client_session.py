"""The client's end of one connection: reads what the relay says and returns what it means for the cache.

A session lives as long as its connection. What must survive it is handed over: `resume` in, `cursor` out. Each call to
`receive` returns deliveries in the order in which they must be applied; that order is part of the proof of G1 to G4:

    (1) Invalidate   drop what the changes meet, detach the fills they meet
    (2) Advance      only then move the position
    (3) Proof        renew freshness
    (4) BarrierPassed, Stream   wake those who wait

Events with no other message between them are one Invalidate and one Advance, also over several frames that came at
once: to drop early what a later position stands for is safe, and the position never runs ahead of what was dropped.

A break of the p->s chain, or anything else that shows that this side lost its place, is never repaired by guessing:
everything is flushed, the session closes, and the next connection starts from nothing (G6).

Bounds: outstanding pings (the oldest is forgotten), ended subscriptions remembered (their late events are skipped).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pgcachewatch.errors import ProtocolError
from pgcachewatch.models import EVERYTHING, GapReason, Position, Scope
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.client_takers import Admitted, ClientTakers, JobGiven, JobsTaken
from pgcachewatch.protocol.transitions import CLIENT_ACCEPTS, ClientState

OUTSTANDING_PINGS = 8
PING_IDS_FROM = 2**40  # request ids are one number space (W-ID-1): the caller's are below, ours above
ENDED_SUBSCRIPTIONS = messages.SUBSCRIPTIONS_PER_CONNECTION


class Change(NamedTuple):
    """One item of an `ev`: subscription `id` saw operation letter `op` on `key` (None: all the subscription covers).

    `detail` is the event's own content in stream mode, and with stamps its transaction; None otherwise.
    """

    id: int
    op: str
    key: str | None
    detail: dict[str, object] | None = None

    @property
    def xid(self) -> int | None:
        """The transaction that made it; None when that is not known, or there were several (W-STAMP-1)."""
        xid = None if self.detail is None else self.detail.get("x")
        return xid if type(xid) is int else None


@dataclass(frozen=True, slots=True)
class Opened:
    """Welcome. When `resumed` is False, a Flush of everything follows."""

    resumed: bool
    node: str
    heartbeat_s: float


@dataclass(frozen=True, slots=True)
class Flush:
    """Nothing in `scope` that was cached, and no fill now running, may be served or stored."""

    scope: Scope
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Invalidate:
    """Changes of events in a row, or of one conflated set, to be applied before the Advance that follows."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Advance:
    """Everything up to and including `position` has been applied."""

    position: Position


@dataclass(frozen=True, slots=True)
class Proof:
    """Each commit that returned before the relay's instant `as_of_ms` has been applied.

    `snapshot` is the primary's, taken at or after that instant, when the mark showed one (W-STAMP-2).
    """

    as_of_ms: float
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class ClockSample:
    """The relay's clock showed `relay_ms` at or after our own instant `local_s`."""

    local_s: float
    relay_ms: float


@dataclass(frozen=True, slots=True)
class Granted:
    """Subscription `id` is live from `seq` on. `types` are those of its columns, `notice` is for people."""

    id: int
    seq: int
    types: tuple[str, ...] | None = None
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The token is good, for `left_s` seconds yet; None: it does not end by itself."""

    left_s: float | None


@dataclass(frozen=True, slots=True)
class BarrierPassed:
    """Every commit that returned before barrier `id` was asked for has been applied."""

    id: int


@dataclass(frozen=True, slots=True)
class SourceLost:
    """The relay lost PostgreSQL: no proof will come for a while."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The relay refused request `id` (None: the connection as a whole) and stays connected."""

    id: int | None
    code: str
    message: str
    may_retry: bool
    after_ms: float | None


@dataclass(frozen=True, slots=True)
class Leaving:
    """The relay will close: come back after `after_ms` plus a random part of `jitter_ms`."""

    code: int
    after_ms: float
    jitter_ms: float


@dataclass(frozen=True, slots=True)
class CloseWith:
    """Close the connection: the relay broke `rule`."""

    code: int
    reason: str
    rule: str


Delivery = (
    Opened
    | Flush
    | Invalidate
    | Advance
    | Proof
    | ClockSample
    | Granted
    | Authenticated
    | BarrierPassed
    | SourceLost
    | Rejected
    | Leaving
    | CloseWith
    | Admitted
    | JobGiven
    | JobsTaken
)


class ClientSession:
    """Protocol state of one connection on `/v1/ws`, client side.

    `resume` and `place` are the cursor and the place that the previous connection ended with, None when there is
    nothing to keep. Subscriptions are given by the caller's own ids, which the relay's answers and events are
    translated back to.

    >>> session = ClientSession(subscriptions=[messages.Sub(id=1)])
    >>> session.hello(now_s=10.0)
    '{"t":"hello","v":1,"caps":[],"subs":[{"t":"sub","id":1,"mode":"invalidate"}]}'
    >>> welcome = '{"t":"welcome","e":"00000000000000aa","s":7,"resumed":false,"now":1.0,"hb_ms":500,"node":"n"}'
    >>> [type(delivery).__name__ for delivery in session.receive(welcome)]
    ['Opened', 'Flush', 'Advance', 'ClockSample']
    """

    def __init__(
        self,
        *,
        subscriptions: Sequence[messages.Sub],
        resume: Position | None = None,
        place: str | None = None,
        token: str | None = None,
        name: str | None = None,
    ) -> None:
        self.state = ClientState.AWAIT_WELCOME
        self.cursor = resume
        self.takers = ClientTakers()
        self.place = place  # in the journal; None when there is none, or no mark showed it yet
        self._resume = resume
        self._subscriptions = {sub.id: sub for sub in subscriptions}
        self._token = token
        self._name = name
        self._id_of: dict[int, int] = {}  # sid -> the caller's id
        self._ended: dict[int, None] = {}  # sids whose late events are skipped, oldest first
        self._pings: dict[int, float] = {}
        self._last_ping = PING_IDS_FROM
        self._hello_at_s = 0.0

    @property
    def is_open(self) -> bool:
        return self.state is ClientState.OPEN

    @property
    def is_granted(self) -> bool:
        """True once each wanted subscription was acknowledged: from here on a proof speaks for all of them."""
        return self.is_open and len(self._id_of) == len(self._subscriptions)

    # --- what the client says: each returns the frame to send

    def hello(self, *, now_s: float) -> str:
        """The first frame. `now_s` is read just before sending: the lease's bound rests on it."""
        self._hello_at_s = now_s
        resume = self._resume
        return codec.encode(
            messages.Hello(
                token=self._token,
                name=self._name,
                resume=messages.Resume(e=resume.epoch, s=resume.seq, j=self.place) if resume else None,
                subs=list(self._subscriptions.values()),
            )
        )

    def subscribe(self, sub: messages.Sub) -> str:
        """Ask for one more subscription; Granted or Rejected with its id answers."""
        self._subscriptions[sub.id] = sub
        return codec.encode(sub)

    def unsubscribe(self, identity: int) -> str:
        """End a subscription; its events that are still under way are skipped."""
        self._subscriptions.pop(identity, None)
        for sid in [sid for sid, known in self._id_of.items() if known == identity]:
            self._end(sid)
        return codec.encode(messages.Unsub(id=identity))

    def barrier(self, identity: int, token: str | None = None) -> str:
        """Ask for BarrierPassed(identity)."""
        return codec.encode(messages.Barrier(id=identity, token=token))

    def ping(self, *, now_s: float) -> str:
        """Ask for a ClockSample; also tells whether the relay still answers."""
        self._last_ping += 1
        self._pings[self._last_ping] = now_s
        while len(self._pings) > OUTSTANDING_PINGS:
            del self._pings[next(iter(self._pings))]
        return codec.encode(messages.Ping(id=self._last_ping))

    def authenticate(self, token: str) -> str:
        """Offer a new token on the open connection."""
        return codec.encode(messages.Auth(token=token))

    # --- what the relay says

    def receive(self, frame: str | bytes) -> list[Delivery]:
        """What one frame means, in the order in which it must be applied. Never raises for what a relay can send."""
        return list(self.receive_many((frame,)))

    def receive_many(self, frames: Sequence[str | bytes]) -> Iterator[Delivery]:
        """The same for frames that are there at once. Apply each delivery before the next is taken.

        A frame is looked at when what came before it is applied, unless all between are events.
        """
        at = 0
        while at < len(frames) and self.state is not ClientState.CLOSED:
            deliveries: list[Delivery] = []
            try:
                after = self._evs(frames, at, deliveries) if self.state is ClientState.OPEN else at
                if after == at:
                    after = at + 1
                    self._read(frames[at], deliveries)
                at = after
            except ProtocolError as violation:
                self.state = ClientState.CLOSED
                self.cursor = self.place = None
                reason: GapReason = "chain_broken" if violation.rule.startswith("W-CHAIN") else "unreadable"
                deliveries += [
                    Flush(EVERYTHING, reason),
                    CloseWith(violation.close_code, codec.shorten(str(violation)), violation.rule),
                ]
            yield from deliveries

    def close(self) -> None:
        """The connection is gone. `cursor` stays: the next session may resume from it."""
        self.state = ClientState.CLOSED

    def _evs(self, frames: Sequence[str | bytes], at: int, out: list[Delivery]) -> int:  # hot path
        """Take the frames from `at` on that hold nothing but events. Returns the place of the first of another kind."""
        cursor = self.cursor
        if cursor is None:
            return at
        decode, seq = codec.decode_evs, cursor.seq
        changes: list[Change] = []
        whole = 0  # changes of events that are whole
        try:
            while at < len(frames):
                frame = frames[at]
                evs = decode(frame) if isinstance(frame, str) else None
                if evs is None:
                    break
                for previous, to, items in evs:
                    # The chain first: changes behind a hole must not look like all there was.
                    if previous != seq or to < previous:
                        raise _broken(previous, to, seq)
                    self._add_changes(items, changes, out)
                    seq, whole = to, len(changes)
                at += 1
            return at
        finally:
            # Also before the flush for a violation: streams are told what came before it.
            if whole:
                out.append(Invalidate(tuple(changes[:whole])))
            if seq != cursor.seq:
                self.cursor = Position(cursor.epoch, seq)
                out.append(Advance(self.cursor))

    def _add_changes(self, items: Sequence[list[object]], changes: list[Change], out: list[Delivery]) -> None:
        """What one event says. Raises before anything of it is flushed."""
        is_checked = False
        for item in items:
            change = self._change(item)
            if change is None:
                if not is_checked:
                    for other in items:
                        self._change(other)
                    is_checked = True
                # Behind what came before, so that a stream is told in order.
                if changes:
                    out.append(Invalidate(tuple(changes)))
                    changes.clear()
                out.append(Flush(EVERYTHING, "overflow"))
            elif change.id >= 0:
                changes.append(change)

    def _read(self, frame: str | bytes, out: list[Delivery]) -> None:
        """A frame of any kind."""
        if isinstance(frame, bytes):
            raise ProtocolError("binary frame", rule="W-FRAME-1")
        for message in codec.decode_relay(frame):
            if not isinstance(message, codec.Unknown):
                self._handle(message, out)

    def _handle(self, message: messages.RelayMessage, out: list[Delivery]) -> None:
        accepted = CLIENT_ACCEPTS[self.state]
        if type(message) not in accepted:
            raise ProtocolError(f"{message.t!r} while {self.state.value}", rule="W-ORDER-1")
        self.state = accepted[type(message)]
        match message:
            case messages.Ev():
                self._ev(message, out)
            case messages.Mark():
                self._advance(message.p, message.s, out)
                if message.j is not None:
                    self.place = message.j
                # Before each subscription is live, a mark proves nothing about what it would have said (W-MARK-3).
                if message.as_of is not None and self.is_granted:
                    out.append(Proof(message.as_of, message.x))
            case messages.Welcome():
                self._welcome(message, out)
            case messages.Subok():
                self._subok(message, out)
            case messages.Reset():
                self._reset(message, out)
            case messages.Stale():
                out.append(SourceLost(message.reason))
            case messages.Barrierok():
                out.append(BarrierPassed(message.id))
            case messages.Pong():
                asked_at = self._pings.pop(message.id, None)
                if asked_at is not None:
                    out.append(ClockSample(asked_at, message.now))
            case messages.Authok(token_ms=token_ms):
                out.append(Authenticated(None if token_ms is None else token_ms / 1000))
            case messages.Err():
                self._err(message, out)
            case messages.Bye():
                out.append(Leaving(message.code, message.after_ms, message.jitter_ms))
            case messages.Job() | messages.Taken():
                told = self.takers.told(message)
                if told is not None:
                    out.append(told)

    def _welcome(self, welcome: messages.Welcome, out: list[Delivery]) -> None:
        out.append(Opened(welcome.resumed, welcome.node, welcome.hb_ms / 1000))
        if welcome.resumed:
            if self.cursor is None or self.cursor.epoch != welcome.e:
                raise ProtocolError(f"resumed epoch {welcome.e} which was not asked for", rule="W-RESUME-2")
        else:
            self.cursor, self.place = Position(welcome.e, welcome.s), None
            out += [Flush(EVERYTHING, "link_lost"), Advance(self.cursor)]
        out.append(ClockSample(self._hello_at_s, welcome.now))

    def _subok(self, subok: messages.Subok, out: list[Delivery]) -> None:
        if subok.sid in self._id_of or subok.sid in self._ended:
            raise ProtocolError(f"sid {subok.sid} was given twice", rule="W-SUB-2")
        admitted = self.takers.admitted(subok)
        if admitted is not None:
            out.append(admitted)
            return
        self._id_of[subok.sid] = subok.id
        if subok.id not in self._subscriptions:  # ended while the answer was under way
            self._end(subok.sid)
            return
        types = None if subok.types is None else tuple(subok.types)
        out.append(Granted(subok.id, subok.s, types, subok.notice))

    def _ev(self, ev: messages.Ev, out: list[Delivery]) -> None:
        self._check_chain(ev.p, ev.s)
        changes: list[Change] = []
        self._add_changes(ev.i, changes, out)
        if changes:
            out.append(Invalidate(tuple(changes)))
        self._advance(ev.p, ev.s, out)

    def _change(self, item: list[object]) -> Change | None:  # hot path
        """None stands for "everything". An id of -1 stands for an ended subscription."""
        sid = op = key = detail = None
        if len(item) == 3:
            sid, op, key = item
        elif len(item) > 3:
            sid, op, key, detail = item[:4]
        if (
            type(sid) is not int
            or type(op) is not str
            or not (key is None or type(key) is str)
            or not (detail is None or isinstance(detail, dict))
        ):
            raise ProtocolError(f"malformed item {str(item)[:80]}", rule="W-EV-2")
        identity = self._id_of.get(sid)
        if identity is not None:
            return Change(identity, op, key, detail)
        if sid == 0:
            return None
        if sid in self._ended:
            return Change(-1, op, key)
        raise ProtocolError(f"event for sid {sid}, which was never given", rule="W-EV-3")

    def _reset(self, reset: messages.Reset, out: list[Delivery]) -> None:
        scope = EVERYTHING
        if reset.scope is not None and self.cursor is not None and self.cursor.epoch == reset.e:
            scope = Scope(reset.scope.channel, reset.scope.table, reset.scope.schema_name)
        self.cursor, self.place = Position(reset.e, reset.s), None
        out += [Flush(scope, "source_lost"), Advance(self.cursor)]

    def _err(self, err: messages.Err, out: list[Delivery]) -> None:
        if err.id is not None:
            self._subscriptions.pop(err.id, None)
            self.takers.forget(err.id)
        out.append(Rejected(err.id, err.code, err.message, err.retry, err.after_ms))

    def _check_chain(self, previous: int, seq: int) -> Position:
        if self.cursor is None:
            raise ProtocolError("position before welcome", rule="W-CHAIN-1")
        if previous != self.cursor.seq or seq < previous:
            raise _broken(previous, seq, self.cursor.seq)
        return self.cursor

    def _advance(self, previous: int, seq: int, out: list[Delivery]) -> None:
        cursor = self._check_chain(previous, seq)
        if seq != cursor.seq:
            self.cursor = Position(cursor.epoch, seq)
            out.append(Advance(self.cursor))

    def _end(self, sid: int) -> None:
        self._id_of.pop(sid, None)
        self._ended[sid] = None
        while len(self._ended) > ENDED_SUBSCRIPTIONS:
            del self._ended[next(iter(self._ended))]


def _broken(previous: int, seq: int, at: int) -> ProtocolError:
    return ProtocolError(f"p={previous} s={seq} does not follow {at}: messages were lost", rule="W-CHAIN-1")
