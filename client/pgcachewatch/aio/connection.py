"""The socket loop: keeps one connection to a relay alive for as long as the client lives, and drives its session.

Frames are handed to the ClientSession as they arrive, and what they mean is applied at once, in order, in one
synchronous step for all that came in one read: nothing else of this event loop runs between an event and its effect
(the proof of G1 to G4 rests on it). What survives a connection is kept here: the cursor to resume from.

A connection is given up, its transport aborted without a closing handshake, when no frame came for a while although a
ping asked for one: that is how a half-open socket looks. Then it is tried again, for ever, as core/backoff decides.

The transport is a Link, made by an OpenLink: aio/websocket for the network, `pgcachewatch.testing` for memory.
Bounds: one connection and one session at a time; a link bounds what waits to be sent.
On the path of an event: step 8, enter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pgcachewatch.aio.renewal import Renewal, Token, obtain
from pgcachewatch.core.backoff import Backoff, Ended, Reconnect, Stop
from pgcachewatch.errors import ConnectionFailed, Refused
from pgcachewatch.models import Position
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.client_session import (
    Authenticated,
    ClientSession,
    CloseWith,
    Delivery,
    Leaving,
    Opened,
    Proof,
    Rejected,
)
from pgcachewatch.protocol.transitions import CloseClass, close_class

logger = logging.getLogger("pgcachewatch")

PING_EVERY_S = 60.0
SILENT_HEARTBEATS = 3  # missed in a row before a link counts as dead
HEARTBEAT_MOST_S = 60.0  # what a relay may announce; more is taken for this, so that a dead link is always found
ERROR_EXCERPT = 200
NEW_TOKEN = CloseClass.NEW_TOKEN
# What of a hello may be subscriptions: the frame's limit (W-LIMIT-1) less the longest token, its escapes, and the rest.
HELLO_SUBSCRIPTIONS_BYTES = 32_768


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The link is gone. `code` is a WebSocket close code, or None when there was no orderly close."""

    code: int | None = None
    reason: str = ""


class LinkRefused(Exception):
    """The upgrade was refused in HTTP: `status` and, where given, Retry-After in seconds."""

    def __init__(self, status: int, *, reason: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(f"HTTP {status} {reason}".rstrip())
        self.status = status
        self.retry_after_s = retry_after_s


class Receiver(Protocol):
    """Where a link delivers. All are called on the event loop; after `lost` none is called again."""

    def receive(self, frame: str | bytes) -> None: ...

    def receive_many(self, frames: Sequence[str | bytes]) -> None:
        """As `receive` for each, in order; for frames that are there at once."""

    def lost(self, how: LinkLost) -> None: ...


class Link(Protocol):
    """An open transport of frames, in order, without loss while it lasts."""

    def send(self, text: str) -> None:
        """Queue a frame; never waits. Frames for a link that is gone are dropped."""

    def abort(self) -> None:
        """Be gone at once; nothing is delivered afterwards."""

    async def close(self, code: int, reason: str) -> None:
        """Close in an orderly way, within a bounded time."""


# Raises LinkRefused, OSError or TimeoutError when there is no link to be had.
OpenLink = Callable[[str, Receiver], Awaitable[Link]]


class Owner(Protocol):
    """What a connection serves: it says what is wanted, and lives with what is delivered."""

    def wanted(self) -> Sequence[messages.Sub]: ...

    def subscribing(self, identity: int) -> None:
        """This subscription is asked for outside of a hello, so nothing that happened before is replayed for it."""

    def apply(self, delivery: Delivery) -> None: ...

    def begin_connection(self) -> None: ...

    def link_lost(self, error: ConnectionFailed) -> None: ...

    def broke(self) -> None: ...

    def stopped(self, error: Refused) -> None: ...

    def troubled(self, error: ConnectionFailed) -> None:
        """Something failed that the connection lives without, for now."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Plain values a connection lives by; times are seconds."""

    urls: Sequence[str]
    staleness_s: float
    attempt_timeout_s: float
    backoff: Backoff
    token: Token | None = field(default=None, repr=False)
    name: str | None = None


class Connection:
    """Runs until it is cancelled, or until every relay refused for good.

    `clock` is the local monotonic clock in seconds, `chance` draws from [0, 1).
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        owner: Owner,
        *,
        open_link: OpenLink,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self.cursor: Position | None = None
        self.place: str | None = None  # in the relay's journal
        self.url = settings.urls[0]
        self.connects = 0  # links that were welcomed
        self._settings = settings
        self._owner = owner
        self._open_link = open_link
        self._clock = clock
        self._chance = chance
        self._reconnect = Reconnect(
            settings.backoff, relays=len(settings.urls), has_token_source=callable(settings.token)
        )
        self._life: _Life | None = None
        self._closing: set[asyncio.Task[None]] = set()  # the loop holds tasks weakly only

    @property
    def session(self) -> ClientSession | None:
        """The session, while the relay has welcomed us; None otherwise."""
        life = self._life
        return life.session if life is not None and life.session.is_open else None

    @property
    def stage(self) -> Literal["connection", "welcome", "open"]:
        """What is missing until messages can be exchanged; "open" when nothing is."""
        if self.session is not None:
            return "open"
        return "connection" if self._life is None or self._life.link is None else "welcome"

    def barrier(self, identity: int, token: str | None = None) -> bool:
        """Send a barrier. False when there is no welcomed connection to send it on."""
        session = self.session
        if session is None or self._life is None:
            return False
        self._life.send(session.barrier(identity, token))
        return True

    def say(self, write: Callable[[ClientSession], str | None]) -> bool:
        """Send what `write` makes of the session. False when there is no open one, or it makes nothing."""
        session = self.session
        text = write(session) if session is not None else None
        if text is None or self._life is None:
            return False
        self._life.send(text)
        return True

    @property
    def epoch(self) -> str:
        """Of the open session's position; empty when there is none."""
        cursor = self.session.cursor if self.session is not None else None
        return cursor.epoch if cursor is not None else ""

    def move_on(self, why: str) -> None:
        """Leave this relay for the next one, if there is another."""
        if self._life is not None and len(self._settings.urls) > 1:
            self._life.move_on(why)

    def reconcile(self) -> None:
        """Ask for what the owner wants and was not asked for, and end what it does not want any more."""
        if self._life is not None:
            self._life.reconcile()

    def forget(self, identity: int) -> None:
        """The relay refused this subscription: the next `reconcile` may ask again."""
        if self._life is not None:
            self._life.subscribed.discard(identity)

    async def run(self) -> None:
        """Connect, attend, and connect again. Returns after a Stop, which the owner was told of."""
        while True:
            try:
                ended = await self._attend()
            except Exception as error:  # top of the task: a token source that raises, a transport's surprise
                logger.exception("an attempt to reach %s failed in an unexpected way", self.url)
                ended = Ended(ConnectionFailed(f"no connection to {self.url}: {error!r}"[:ERROR_EXCERPT]))
                self._owner.link_lost(ended.error)
            decision = self._reconnect.after(ended, chance=self._chance())
            if isinstance(decision, Stop):
                logger.error("giving up on the relay: %s", decision.error)
                self._owner.stopped(decision.error)
                return
            logger.info("%s; connecting again in %.3f s", ended.error, decision.delay_s)
            self.url = self._settings.urls[decision.relay]
            await asyncio.sleep(decision.delay_s)

    async def close(self) -> None:
        """Leave in an orderly way, within a bounded time. Cancel `run` afterwards."""
        if self._life is not None and self._life.link is not None:
            await self._life.link.close(1000, "client closed")

    def let_close(self, link: Link, close: CloseWith) -> None:
        """Close `link` beside what comes next: a relay that breaks rules is not waited for."""
        task = asyncio.get_running_loop().create_task(link.close(close.code, close.reason))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _attend(self) -> Ended:
        """One connection, from the attempt to its end."""
        settings = self._settings
        try:
            token = await obtain(settings.token)
        except ConnectionFailed as error:
            self._owner.troubled(error)
            return Ended(error)
        first = fitting(self._owner.wanted())
        session = ClientSession(
            subscriptions=first, resume=self.cursor, place=self.place, token=token, name=settings.name
        )
        life = self._life = _Life(self, session, subscribed={sub.id for sub in first})
        self._owner.begin_connection()
        try:
            return await life.run()
        finally:
            life.end()
            self._life = None


def fitting(wanted: Sequence[messages.Sub]) -> list[messages.Sub]:
    """The subscriptions a hello can carry within the relay's limits; the others are asked for after the welcome."""
    first: list[messages.Sub] = []
    room_bytes = HELLO_SUBSCRIPTIONS_BYTES
    for sub in wanted[: messages.SUBSCRIPTIONS_PER_CONNECTION]:
        room_bytes -= len(codec.encode(sub).encode()) + 1
        if room_bytes < 0:
            break
        first.append(sub)
    return first


class _Life:
    """One link and its session, from opening to the end: the Receiver of the link, and its timers."""

    def __init__(self, connection: Connection, session: ClientSession, *, subscribed: set[int]) -> None:
        self.session = session
        self.link: Link | None = None
        self.subscribed = subscribed  # ids asked for on this connection and not refused
        self._connection = connection
        self._settings = connection._settings
        self._clock = connection._clock
        self._owner = connection._owner
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[Ended] = self._loop.create_future()
        self._silence_limit_s = self._settings.attempt_timeout_s
        self._heard_s = self._clock()
        self._asked_s = self._heard_s
        self._due_s = self._heard_s  # when the next look at the silence is due
        self._timer: asyncio.TimerHandle | None = None
        self._leaving: Leaving | None = None
        self._is_proven = False
        self._renewal = Renewal(
            self._settings.token, offer=self._offer, report=self._owner.troubled, chance=connection._chance
        )

    async def run(self) -> Ended:
        url = self._connection.url
        try:
            async with asyncio.timeout(self._settings.attempt_timeout_s):
                self.link = await self._connection._open_link(url, self)
        except LinkRefused as refusal:
            return self._refused(refusal)
        except (OSError, TimeoutError) as error:
            what = str(error) or type(error).__name__
            self._finish(ConnectionFailed(f"the relay at {url} can not be reached: {what[:ERROR_EXCERPT]}"))
            return await self._ended
        if not self._ended.done():
            self._heard_s = self._clock()
            self.link.send(self.session.hello(now_s=self._heard_s))
            self._due_s = self._heard_s
            self._watch()
        return await self._ended

    def send(self, text: str) -> None:
        if self.link is not None and not self._ended.done():
            self.link.send(text)

    def receive(self, frame: str | bytes) -> None:
        self.receive_many((frame,))

    def receive_many(self, frames: Sequence[str | bytes]) -> None:  # hot path
        """Frames that are there at once, one synchronous step."""
        if self._ended.done():
            return
        self._heard_s = self._clock()
        try:
            for delivery in self.session.receive_many(frames):
                self._apply(delivery)
        except Exception:
            # A fault of ours, not of the relay's: what was not applied must not be missed, so nothing is kept.
            logger.exception("a frame from %s could not be applied; flushing and connecting anew", self._connection.url)
            self.session.cursor = None
            self._owner.broke()
            self._finish(ConnectionFailed("a frame could not be applied; see the log"))
        self._connection.cursor, self._connection.place = self.session.cursor, self.session.place

    def lost(self, how: LinkLost) -> None:
        code = how.code if how.code is not None else "none"
        text = f"the link to {self._connection.url} was lost (code {code}{how.reason and ': ' + how.reason})"
        self._finish(ConnectionFailed(text[:ERROR_EXCERPT]), code=how.code)

    def reconcile(self) -> None:
        if not self.session.is_open:
            return
        wanted = {sub.id: sub for sub in self._owner.wanted()}
        for identity in self.subscribed - wanted.keys():
            self.send(self.session.unsubscribe(identity))
        for identity in wanted.keys() - self.subscribed:
            self._owner.subscribing(identity)
            self.send(self.session.subscribe(wanted[identity]))
        self.subscribed = set(wanted)

    def move_on(self, why: str) -> None:
        self._leaving = Leaving(4000, 0, 0)
        self._finish(ConnectionFailed(why))

    def end(self) -> None:
        """Leave nothing behind, however `run` ended."""
        if self._timer is not None:
            self._timer.cancel()
        self._renewal.stop()
        self._ended.cancel()  # without effect when it ended by itself
        if self.link is not None:
            self.link.abort()
        self.session.close()

    def _apply(self, delivery: Delivery) -> None:
        match delivery:
            case Opened():
                self._connection.connects += 1
                heartbeat_s = min(delivery.heartbeat_s, HEARTBEAT_MOST_S)
                self._silence_limit_s = max(SILENT_HEARTBEATS * heartbeat_s, self._settings.staleness_s)
                self._ask()
                self.reconcile()  # wishes that changed since the hello was written
            case Proof():
                self._is_proven = True
            case Authenticated(left_s):
                self._renewal.ends_in(left_s)
            case Rejected(id=None, may_retry=True) if self._renewal.refused_for_now((delivery.after_ms or 0.0) / 1000):
                return
            case Leaving():
                self._leaving = delivery
            case CloseWith():
                self._violated(delivery)
            case _:
                pass
        self._owner.apply(delivery)

    def _offer(self, token: str) -> None:
        if self.session.is_open:
            self.send(self.session.authenticate(token))

    def _violated(self, close: CloseWith) -> None:
        """The relay broke a rule. It is told which, but not waited for."""
        error = ConnectionFailed(f"{self._connection.url} broke {close.rule}: {close.reason}")
        logger.warning("%s; everything was flushed", error)
        if self.link is not None:
            self._connection.let_close(self.link, close)
            self.link = None
        # Whatever proved it healthy before, it breaks the protocol now: back off as after a failure.
        self._is_proven = False
        self._finish(error)

    def _refused(self, refusal: LinkRefused) -> Ended:
        text = f"the relay at {self._connection.url} refused: {refusal}"
        error = Refused(text, code=refusal.status, may_retry=refusal.status in (429, 503))
        self._finish(error, code=refusal.status, after_s=refusal.retry_after_s)
        return self._ended.result()

    def _finish(self, error: ConnectionFailed, *, code: int | None = None, after_s: float = 0.0) -> None:
        """The one way to the end: the owner hears of it in the same step."""
        if self._ended.done():
            return
        leaving = self._leaving
        if code is not None and code >= 4000:
            error = Refused(str(error), code=code, may_retry=code < 4200)
        self._ended.set_result(
            Ended(
                error,
                code=code if code is not None else (leaving.code if leaving else None),
                is_proven=self._is_proven,
                is_leaving=code == 4000 or (leaving is not None and close_class(leaving.code) is not NEW_TOKEN),
                after_s=leaving.after_ms / 1000 if leaving else after_s,
                jitter_s=leaving.jitter_ms / 1000 if leaving else 0.0,
            )
        )
        self.session.close()
        self._owner.link_lost(error)

    def _ask(self) -> None:
        """Ping: a clock sample for the lease, and a sign of life to wait for."""
        self._asked_s = self._clock()
        self.send(self.session.ping(now_s=self._asked_s))

    def _watch(self) -> None:
        """Looks a few times per silence limit: pings when it is due, ends the life when nothing answers."""
        if self._ended.done():
            return
        now_s, limit_s = self._clock(), self._silence_limit_s
        if now_s - self._due_s > limit_s / 4 and self.session.is_open:
            # Nobody listened: the loop was blocked, or the machine slept. What came meanwhile is not read yet.
            self._heard_s = max(self._heard_s, now_s - limit_s / 2)
        silent_s = now_s - self._heard_s
        if silent_s >= limit_s:
            self._finish(ConnectionFailed(f"no word from {self._connection.url} for {silent_s:.1f} s; link dropped"))
            return
        since_asked_s = now_s - self._asked_s
        # A relay that lost PostgreSQL has no proof to send, but it answers: ask before believing it dead.
        is_silent = silent_s >= limit_s / 2 and since_asked_s >= limit_s / 2
        if self.session.is_open and (since_asked_s >= PING_EVERY_S or is_silent):
            self._ask()
        self._due_s = now_s + limit_s / 4
        self._timer = self._loop.call_later(limit_s / 4, self._watch)
