"""The relay's end of one connection: reads what a client says and returns what is to be done.

A session holds no socket and no hub. `receive` takes one frame and returns effects, in order; the shell carries them
out. That keeps each rule of PROTOCOL.md testable without a network, and lets the simulation run this very code.

Bounds: the subscriptions of a connection (W-LIMIT-3), its channels (W-LIMIT-8) and the frame (W-LIMIT-1). A violation
closes the session: what else the client sent is not looked at, and nothing but its own connection is touched.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pgcachewatch.errors import LimitExceeded, ProtocolError
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.transitions import RELAY_ACCEPTS, RelayState


@dataclass(frozen=True, slots=True)
class Subscription:
    """The live fact of having asked. `sid` is the number its events carry; None widens, as in the message."""

    sid: int
    id: int
    channel: str
    table: str | None = None
    schema: str | None = None
    ops: frozenset[str] | None = None  # letters of the wire: i, u, d, t
    keys: frozenset[str] | None = None
    columns: tuple[str, ...] | None = None
    mode: messages.Mode = "invalidate"
    has_stamps: bool = False
    is_journalled: bool = False  # all its events come by the journal; the relay says so, not the client


@dataclass(frozen=True, slots=True)
class Send:
    """Queue this frame behind what this connection is already to get."""

    text: str


@dataclass(frozen=True, slots=True)
class Opened:
    """The hello was accepted: LISTEN on the subscriptions' channels, then join the hub."""

    hello: messages.Hello
    subscriptions: tuple[Subscription, ...]


@dataclass(frozen=True, slots=True)
class Subscribed:
    """One more subscription: LISTEN on its channel, then add it."""

    subscription: Subscription


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The subscription with this sid is over."""

    sid: int


@dataclass(frozen=True, slots=True)
class BarrierRequested:
    """Answer `barrierok` with this id behind each event committed before now, or behind those of `token`'s commit."""

    id: int
    token: str | None = None


@dataclass(frozen=True, slots=True)
class TokenOffered:
    """A new token for a connection that is open."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A stream consumer has handled everything up to and including `seq`."""

    seq: int


@dataclass(frozen=True, slots=True)
class TakerJoined:
    """Let this connection take part in a consumer. Each of its wants names a channel."""

    sid: int
    consume: messages.Consume


@dataclass(frozen=True, slots=True)
class JobsDone:
    """Jobs were handled. `sid` may be of a consumer that this connection does not take part in any more."""

    sid: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobsFailed:
    """Jobs were given back."""

    sid: int
    ids: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class CloseWith:
    """Write what is queued, then close the WebSocket with this code and reason."""

    code: int
    reason: str


TakerEffect = TakerJoined | JobsDone | JobsFailed
Effect = (
    Send | Opened | Subscribed | Unsubscribed | BarrierRequested | TokenOffered | Acknowledged | CloseWith | TakerEffect
)


class RelaySession:
    """Protocol state of one connection on `/v1/ws`, relay side.

    >>> session = RelaySession(default_channel="c")
    >>> [type(effect).__name__ for effect in session.receive('{"t":"hello","v":1}', now_ms=5.0)]
    ['Opened']
    >>> session.receive('{"t":"ping","id":1}', now_ms=6.0)
    [Send(text='{"t":"pong","id":1,"now":6.0}')]
    """

    # A relay has one for each of its clients.
    __slots__ = (
        "_channels", "_channels_limit", "_default_channel", "_last_sid", "_refusals", "_sids", "_subscriptions_limit",
        "state",
    )  # fmt: skip

    def __init__(
        self,
        *,
        default_channel: str,
        subscriptions_limit: int = messages.SUBSCRIPTIONS_PER_CONNECTION,
        channels_limit: int = messages.CHANNELS_PER_CONNECTION,
        refusals: Counter[str] | None = None,
    ) -> None:
        """`refusals` counts, by the limit's name, what this session and others refuse."""
        self.state = RelayState.AWAIT_HELLO
        self._default_channel = default_channel
        self._subscriptions_limit = subscriptions_limit
        self._channels_limit = channels_limit
        self._refusals = refusals
        self._channels: dict[int, str] | None = None  # by the client's id, those beside the default
        self._sids: dict[int, int] = {}  # the client's id -> our sid
        self._last_sid = 0

    @property
    def is_open(self) -> bool:
        return self.state is RelayState.OPEN

    def receive(self, frame: str | bytes, *, now_ms: float) -> list[Effect]:
        """Effects of one frame; `now_ms` is the relay's monotonic clock. Never raises for what a client can send."""
        if self.state is RelayState.CLOSED:
            return []
        effects: list[Effect] = []
        try:
            for message in self._decode(frame):
                effects += self._handle(message, now_ms)
        except ProtocolError as violation:
            effects += self._violated(violation)
        return effects

    def hello_timed_out(self) -> list[Effect]:
        """The shell's timer ran out; a no-op once the hello has come."""
        if self.state is not RelayState.AWAIT_HELLO:
            return []
        self.state = RelayState.CLOSED
        return [CloseWith(4101, f"no hello within {messages.HELLO_TIMEOUT_S:g} s")]

    def refused(self, identity: int) -> None:
        """The shell answered the subscription with an error: its id is free again, its sid is not (W-SUB-2)."""
        self._sids.pop(identity, None)
        self._forget_channel(identity)

    def close(self) -> None:
        """The connection is gone, or going: nothing more is read."""
        self.state = RelayState.CLOSED

    def _decode(self, frame: str | bytes) -> list[messages.ClientMessage | codec.Unknown]:
        if isinstance(frame, bytes):
            raise ProtocolError("binary frame; send JSON as text frames", rule="W-FRAME-1")
        size = len(frame.encode("utf-8", "surrogatepass"))
        if size > messages.CLIENT_FRAME_BYTES:
            raise LimitExceeded(
                f"frame of {size} bytes, the limit is {messages.CLIENT_FRAME_BYTES}: split it",
                rule="W-LIMIT-1",
                limit="client_frame_bytes",
                allowed=messages.CLIENT_FRAME_BYTES,
                value=size,
            )
        return list(codec.decode_client(frame))

    def _handle(self, message: messages.ClientMessage | codec.Unknown, now_ms: float) -> list[Effect]:
        if isinstance(message, codec.Unknown):
            return self._unknown(message)
        accepted = RELAY_ACCEPTS[self.state]
        if type(message) not in accepted:
            raise ProtocolError(
                f"{message.t!r} is not allowed while {self.state.value}; see PROTOCOL.md",
                rule="W-ORDER-1",
            )
        self.state = accepted[type(message)]
        match message:
            case messages.Hello():
                return [self._hello(message)]
            case messages.Sub():
                return self._sub(message)
            case messages.Unsub():
                return self._unsub(message)
            case messages.Barrier():
                return [BarrierRequested(message.id, message.token)]
            case messages.Ping():
                return [Send(codec.encode(messages.Pong(id=message.id, now=now_ms)))]
            case messages.Auth():
                return [TokenOffered(message.token)]
            case messages.Ack():
                return [Acknowledged(message.s)]
            case messages.Consume():
                return self._consume(message)
            case messages.Done():
                return [JobsDone(message.sid, tuple(message.ids))]
            case messages.Failed():
                return [JobsFailed(message.sid, tuple(message.ids), message.reason)]

    def _unknown(self, message: codec.Unknown) -> list[Effect]:
        if self.state is RelayState.AWAIT_HELLO:
            raise ProtocolError(f"{message.t!r} came before hello", rule="W-ORDER-1")
        return [self._err(message.id, "unknown_message", f"unknown message type {message.t!r}; it was skipped")]

    def _hello(self, hello: messages.Hello) -> Effect:
        if len(hello.subs) > self._subscriptions_limit:
            raise self._too_many(len(hello.subs))
        ids = [sub.id for sub in hello.subs]
        if len(set(ids)) != len(ids):
            raise ProtocolError("two subscriptions of the hello share an id", rule="W-SUB-1")
        channels = {sub.channel for sub in hello.subs if sub.channel} - {self._default_channel}
        if len(channels) > self._channels_limit:
            raise self._too_many_channels(len(channels))
        return Opened(hello, tuple(self._grant(sub) for sub in hello.subs))

    def _sub(self, sub: messages.Sub) -> list[Effect]:
        return self._problem(sub.id) or self._channel_problem(sub) or [Subscribed(self._grant(sub))]

    def _consume(self, consume: messages.Consume) -> list[Effect]:
        problem = self._problem(consume.id)
        if problem:
            return problem
        wants = [one.model_copy(update={"channel": one.channel or self._default_channel}) for one in consume.wants]
        return [TakerJoined(self._number(consume.id), consume.model_copy(update={"wants": wants}))]

    def _problem(self, identity: int) -> list[Effect]:
        """Why there can not be one more with this id; empty when there can."""
        if identity in self._sids:
            return [self._err(identity, "duplicate_id", f"subscription id {identity} is in use; choose another")]
        if len(self._sids) >= self._subscriptions_limit:
            return [self._err(identity, "too_many_subscriptions", str(self._too_many(len(self._sids) + 1)))]
        return []

    def _channel_problem(self, sub: messages.Sub) -> list[Effect]:
        """Why there can not be one more channel; empty when there can."""
        if self._channels is None or sub.channel in (None, self._default_channel):
            return []
        channels = {*self._channels.values(), sub.channel}
        if len(channels) <= self._channels_limit:
            return []
        return [self._err(sub.id, "too_many_channels", str(self._too_many_channels(len(channels))))]

    def _forget_channel(self, identity: int) -> None:
        if self._channels is not None:
            self._channels.pop(identity, None)

    def _unsub(self, unsub: messages.Unsub) -> list[Effect]:
        sid = self._sids.pop(unsub.id, None)
        self._forget_channel(unsub.id)
        if sid is None:
            return [self._err(unsub.id, "unknown_id", f"there is no subscription with id {unsub.id}")]
        return [Unsubscribed(sid)]

    def _grant(self, sub: messages.Sub) -> Subscription:
        if sub.channel and sub.channel != self._default_channel:
            self._channels = self._channels or {}
            self._channels[sub.id] = sub.channel
        return Subscription(
            sid=self._number(sub.id),
            id=sub.id,
            channel=sub.channel or self._default_channel,
            table=sub.table,
            schema=sub.schema_name,
            ops=frozenset(sub.ops) if sub.ops else None,
            keys=frozenset(sub.keys) if sub.keys else None,
            columns=None if sub.columns is None else tuple(sub.columns),
            mode=sub.mode,
            has_stamps=sub.stamps is True,
        )

    def _number(self, identity: int) -> int:
        # A sid is never given twice on one connection: events of an ended subscription may still be under way.
        self._last_sid += 1
        self._sids[identity] = self._last_sid
        return self._last_sid

    def _too_many(self, count: int) -> LimitExceeded:
        self._count("subscriptions")
        return LimitExceeded(
            f"{count} subscriptions on one connection, the limit is {self._subscriptions_limit}: "
            "subscribe to tables instead of keys, or open a second connection",
            rule="W-LIMIT-3",
            limit="subscriptions",
            allowed=self._subscriptions_limit,
            value=count,
        )

    def _too_many_channels(self, count: int) -> LimitExceeded:
        self._count("client_channels")
        return LimitExceeded(
            f"{count} channels on one connection, the limit is {self._channels_limit}: "
            "use tables of one channel, open a second connection, or raise client_channels_limit",
            rule="W-LIMIT-8",
            limit="client_channels",
            allowed=self._channels_limit,
            value=count,
        )

    def _count(self, limit: str) -> None:
        if self._refusals is not None:
            self._refusals[limit] += 1

    def _err(self, identity: int | None, code: str, text: str) -> Send:
        return Send(codec.encode(messages.Err(id=identity, code=code, message=text)))

    def _violated(self, violation: ProtocolError) -> list[Effect]:
        self.state = RelayState.CLOSED
        code = "limit" if isinstance(violation, LimitExceeded) else "protocol"
        text = f"{violation.rule}: {violation}"
        return [self._err(None, code, text), CloseWith(violation.close_code, codec.shorten(text))]
