"""Receives who comes to the relay's port: routes requests, admits clients, and carries out what their sessions decide.

Everything is synchronous but one wait: LISTEN on a channel nobody used before.
While a hello waits for it, its connection is not read, and what was read already stays in `backlog`, in order. So it is
while a client rests: to change one of a thousand subscriptions goes through all of them, and so does another token,
and one frame asks for that two thousand times.

Invariants. A client is answered (101 on the plain path, `welcome` and `subok` on the other) only after LISTEN on its
channels is proven, and joins the hub in the same instant, so that the next committed event is delivered (G12). Whatever
a client asked for is taken back when it is gone.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from pgcachewatch.errors import LimitExceeded, PGCacheWatchError
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import (
    Acknowledged,
    BarrierRequested,
    CloseWith,
    Effect,
    JobsDone,
    JobsFailed,
    Opened,
    RelaySession,
    Send,
    Subscribed,
    Subscription,
    TakerJoined,
    TokenOffered,
    Unsubscribed,
)
from pgcachewatch_daemon import wishes
from pgcachewatch_daemon.barriers import Barriers
from pgcachewatch_daemon.consuming import Consuming
from pgcachewatch_daemon.core.access import ALLOWED, Forbidden, Grant
from pgcachewatch_daemon.core.admission import Admission, Refuse
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.granted import Answer as Reply
from pgcachewatch_daemon.core.granted import Granted
from pgcachewatch_daemon.core.hub import Hub
from pgcachewatch_daemon.core.reach import Reach
from pgcachewatch_daemon.departures import DEFLATED, Departures
from pgcachewatch_daemon.farewells import DRAINED, Farewells
from pgcachewatch_daemon.feeds import Channels
from pgcachewatch_daemon.gate import CLOSE_CODE, Gate
from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer, Page
from pgcachewatch_daemon.io.websocket import Connection, HttpRequest
from pgcachewatch_daemon.site import Site
from pgcachewatch_daemon.visitor import HELLO, Visitor, Waiting
from pgcachewatch_daemon.waits import Waits

JOIN_PROOF_SPACING_S = 0.05  # a client that joins is proven fresh at once, but a thousand of them share the proofs
SOURCE_DOWN = 4104
LIMIT = 4308
RETRY_AFTER_S = 1.0
WINDOW_BITS = 15  # of what Departures compresses
WORK_AT_ONCE = 5_000  # subscriptions that are gone through for one client before others have their turn
WORK_S = 2e-6  # what one of them takes
TOO_BIG = (LIMIT, f"W-LIMIT-1: a frame has at most {messages.CLIENT_FRAME_BYTES} bytes; split it")


@dataclass(frozen=True, slots=True)
class ReceptionOptions:
    channel: str
    hello_timeout_s: float
    subscriptions_limit: int
    client_channels_limit: int
    is_compressing: bool = False


ANNOUNCED = {messages.PROTOCOL_HEADER: messages.SUBPROTOCOL}


class Reception:
    """The application behind the port. `now_s` is the relay's monotonic clock."""

    def __init__(
        self,
        options: ReceptionOptions,
        *,
        hub: Hub,
        barriers: Barriers,
        departures: Departures,
        inspection: Inspection,
        consuming: Consuming,
        admission: Admission,
        gate: Gate,
        source: Channels,
        site: Site,
        now_s: Callable[[], float],
    ) -> None:
        self._options = options
        self._hub = hub
        self._barriers = barriers
        self._departures = departures
        self._inspection = inspection
        self._consuming = consuming
        self._admission = admission
        self._gate = gate
        self._farewells = Farewells(hub, departures, inspection)
        self._source = source
        self._site = site
        self._now_s = now_s
        self._is_draining = False
        self.visitors: set[Visitor] = set()
        self.limit_refusals: Counter[str] = Counter()  # by the limit's name: "channels" and those of sessions
        self._reach = Reach()
        self._waits = Waits(source, hub.uses, has_looked=inspection.has_looked)

    # --- what the relay calls

    def reload(self, options: ReceptionOptions) -> None:
        """Go on with these for clients that come from now on."""
        self._options = options

    def listened(self, channel: str, since: int) -> None:
        """LISTEN on it is proven: the log has its events from this position on."""
        self._reach.listened(channel, since=since)

    def given_up(self, channel: str) -> None:
        """It is not listened to any more."""
        self._reach.given_up(channel)

    def source_lost(self) -> None:
        """Whoever still waits for LISTEN is sent away; who joined hears of it from the hub."""
        self._reach.forget_all()
        for visitor in tuple(self.visitors):
            if visitor.subscriber is None and (visitor.session is None or visitor.is_joining):
                self._farewells.turn_away(visitor, self._unavailable(), SOURCE_DOWN, "PostgreSQL was lost; try again")

    def retyped(self, tables: frozenset[str]) -> None:
        """Columns of these tables are not what they were."""
        self._farewells.retyped(self.visitors, tables)

    def drain(self) -> None:
        """Let nobody in any more."""
        self._is_draining = True
        for visitor in tuple(self.visitors):
            if visitor.subscriber is None:
                self._farewells.turn_away(visitor, self._unavailable(), DRAINED, "the relay is going away")

    async def close(self) -> None:
        """Wait for the end of what still waited; the connections are gone by now."""
        await self._waits.close()

    # --- what a connection calls

    def requested(self, connection: Connection, request: HttpRequest) -> None:
        decision = self._gate.refuse(request) or http.route(request.method, request.path)
        if isinstance(decision, Answer):
            self._answer(connection, decision)
            return
        match decision.page:
            case Page.PROTOCOL:
                self._enter_protocol(connection, request)
            case Page.PLAIN:
                self._enter_plain(connection, request, decision.channel)
            case page:
                refused = self._gate.refuse_page(page, request, connection)
                if refused is not None:
                    self._answer(connection, refused)
                    return
                self._site.show(decision, partial(self._answer, connection), request.headers)

    def received(self, connection: Connection, frame: str | bytes) -> None:
        visitor = connection.visitor
        if isinstance(visitor, Visitor) and visitor.session is not None:
            self._perform(visitor, visitor.session.receive(frame, now_ms=self._now_s() * 1_000))
        # What a client of the plain path says has no meaning there, as with the original.

    def expired(self, connection: Connection) -> None:
        visitor = connection.visitor
        if isinstance(visitor, Visitor) and visitor.session is not None:
            self._perform(visitor, visitor.session.hello_timed_out())

    def filled(self, connection: Connection) -> None:
        visitor = connection.visitor
        if isinstance(visitor, Visitor) and visitor.subscriber is not None:
            self._hub.filled(visitor.subscriber)

    def drained(self, connection: Connection) -> None:
        visitor = connection.visitor
        if isinstance(visitor, Visitor) and visitor.subscriber is not None:
            self._departures.write_own(visitor.subscriber)

    def gone(self, connection: Connection) -> None:
        visitor = connection.visitor
        if not isinstance(visitor, Visitor) or visitor not in self.visitors:
            return
        self.visitors.discard(visitor)
        connection.visitor = None
        self._admission.leave(connection.peer)
        self._gate.forget(visitor)
        visitor.wait_no_more()
        if visitor.session is not None:
            visitor.session.close()
        if visitor.subscriber is not None:
            self._barriers.drop(visitor.subscriber)
            self._consuming.drop(visitor.subscriber)
            self._hub.leave(visitor.subscriber)
            visitor.subscriber.shell = None
        self._source.set_busy(bool(self.visitors))

    def refuse(self, subscriber: Subscriber, error: messages.Err) -> None:
        """Answer a request of a client that has joined with an error."""
        visitor = subscriber.shell.visitor if isinstance(subscriber.shell, Connection) else None
        if isinstance(visitor, Visitor):
            self._refuse(visitor, error)

    def exceeds(self, visitor: Visitor, grant: Grant) -> bool:
        """True when the visitor is told something that this grant does not allow."""
        consumes = self._consuming.taken_by(visitor.subscriber) if visitor.subscriber is not None else ()
        return visitor.exceeds(grant, consumes)

    def dismiss(self, visitor: Visitor, code: int, reason: str) -> None:
        """As the gate asks for it."""
        self._farewells.dismiss(visitor, code, reason)

    # --- entering

    def _enter_protocol(self, connection: Connection, request: HttpRequest) -> None:
        if not self._may_knock(connection):
            return
        # A client that wants a smaller window would need writes of its own: it is told without compression.
        windows = (WINDOW_BITS,) if self._options.is_compressing else ()
        if not connection.check_upgrade(messages.SUBPROTOCOL, windows=windows):
            return
        session = RelaySession(
            default_channel=self._options.channel,
            subscriptions_limit=self._options.subscriptions_limit,
            channels_limit=self._options.client_channels_limit,
            refusals=self.limit_refusals,
        )
        # Without one, the hello has to say who it is.
        identity = request if self._gate.has_credential(request) else None
        if self._admit(connection, session, identity) is not None:
            connection.upgrade(too_big=TOO_BIG)
            connection.expect_by(self._now_s() + self._options.hello_timeout_s)

    def _enter_plain(self, connection: Connection, request: HttpRequest, channel: str) -> None:
        if not self._may_knock(connection) or not connection.check_upgrade(None):
            return
        visitor = self._admit(connection, None, request)
        if visitor is None or self._exceeds_plain(visitor, channel):
            return
        if self._source.is_listening(channel):
            self._join_plain(visitor, channel)
        else:
            self._wait(visitor, HELLO, [channel], partial(self._join_plain, visitor, channel))

    def _may_knock(self, connection: Connection) -> bool:
        decision = self._admission.knock(connection.peer, now_s=self._now_s(), chance=random.random())
        if isinstance(decision, Refuse):
            self._answer(connection, http.refuse(decision.status, decision.reason, decision.retry_after_s))
        return not isinstance(decision, Refuse)

    def _admit(self, connection: Connection, session: RelaySession | None, shown: HttpRequest | None) -> Visitor | None:
        """A visitor, or None when the request was refused. `shown`: what says who it is, where that is known yet."""
        if self._is_draining or not self._source.is_up:
            self._answer(connection, self._unavailable())
            return None
        decision = self._admission.enter(connection.peer)
        if isinstance(decision, Refuse):
            self._answer(connection, http.refuse(decision.status, decision.reason, decision.retry_after_s))
            return None
        visitor = Visitor(connection, session, since_s=self._now_s())
        connection.visitor = visitor
        self.visitors.add(visitor)
        if shown is not None:
            known = self._gate.identify(shown, connection)
            if isinstance(known, Answer):
                self._answer(connection, known)
                return None
            self._gate.watch(visitor, known)
        return visitor

    def _unavailable(self) -> Answer:
        why = "the relay is going away" if self._is_draining else "PostgreSQL is not reachable for the relay"
        return http.refuse(503, f"{why}; try again", RETRY_AFTER_S)

    def _answer(self, connection: Connection, answer: Answer) -> None:
        connection.answer(answer.status, answer.headers, answer.body)

    # --- waiting for LISTEN

    def _wait(
        self,
        visitor: Visitor,
        waiting: Waiting,
        channels: Sequence[str],
        then: Callable[[], None],
        *,
        needs_look: bool = False,
    ) -> None:
        refused = partial(self._listen_refused, visitor, waiting)
        self._waits.begin(visitor, waiting, channels, then=then, refused=refused, needs_look=needs_look)

    def _listen_refused(self, visitor: Visitor, waiting: Waiting, error: PGCacheWatchError) -> None:
        is_full = isinstance(error, LimitExceeded)
        self.limit_refusals["channels"] += is_full
        if visitor.session is None:
            status = 503 if is_full else 400
            self._answer(visitor.connection, http.refuse(status, str(error), RETRY_AFTER_S if is_full else 0.0))
        elif visitor.subscriber is None:
            visitor.connection.close(LIMIT if is_full else 4300, str(error))
        else:
            code = "too_many_channels" if is_full else "unusable_channel"
            self._refuse(visitor, messages.Err(id=waiting.id, code=code, message=str(error)))

    # --- the plain path

    def _join_plain(self, visitor: Visitor, channel: str) -> None:
        if not visitor.connection.is_waiting or self._exceeds_plain(visitor, channel):
            return
        self._joined(visitor, self._hub.join_plain(channel))
        visitor.connection.upgrade(headers=ANNOUNCED)

    def _exceeds_plain(self, visitor: Visitor, channel: str) -> bool:
        judged = visitor.known_grant.judge_plain(channel)
        if isinstance(judged, Forbidden):
            self._answer(visitor.connection, http.refuse(403, judged.text))
        return isinstance(judged, Forbidden)

    def _joined(self, visitor: Visitor, subscriber: Subscriber) -> None:
        visitor.subscriber = subscriber
        subscriber.shell = visitor.connection
        subscriber.write = visitor.connection.write
        self._source.set_busy(True)
        self._source.hasten(spacing_s=JOIN_PROOF_SPACING_S)

    # --- the protocol

    def _perform(self, visitor: Visitor, effects: Iterable[Effect]) -> None:
        """Carry out effects in order, as far as possible now."""
        left = iter((*visitor.backlog, *effects))
        visitor.backlog = ()
        for effect in left:
            if not visitor.connection.is_live:
                return
            if visitor.is_joining or visitor.is_resting:
                visitor.backlog = (effect, *left)
                return
            self._do(visitor, effect)
            if visitor.work >= WORK_AT_ONCE:
                cost_s, visitor.work = visitor.work * WORK_S, 0
                visitor.is_resting = True
                visitor.connection.rest(cost_s, partial(self._go_on, visitor))

    def _go_on(self, visitor: Visitor) -> None:
        visitor.is_resting = False
        self._perform(visitor, ())

    def _do(self, visitor: Visitor, effect: Effect) -> None:
        match effect:
            case Send():
                self._send(visitor, effect.text)
            case Opened():
                self._open(visitor, effect)
            case Subscribed():
                self._subscribe(visitor, effect.subscription)
            case Unsubscribed():
                self._unsubscribe(visitor, effect.sid)
            case BarrierRequested():
                assert visitor.subscriber is not None, "a barrier before the hello is a violation the session refuses"
                self._barriers.ask(visitor.subscriber, effect)
            case TakerJoined(_, wish) if isinstance(judged := visitor.known_grant.judge_consumer(wish), Forbidden):
                self._refuse(visitor, wishes.forbidden(wish.id, judged))
            case TakerJoined() | JobsDone() | JobsFailed():
                assert visitor.subscriber is not None, "as with a barrier"
                self._consuming.perform(visitor.subscriber, effect)
            case CloseWith():
                if visitor.subscriber is not None:
                    self._departures.write_own(visitor.subscriber)
                visitor.connection.close(effect.code, effect.reason)
            case TokenOffered(token):
                self._offer(visitor, token)
            case Acknowledged():
                pass  # the relay keeps no place of a stream; the message is part of the protocol already
            case _:
                assert_never(effect)

    def _send(self, visitor: Visitor, text: str) -> None:
        if visitor.subscriber is not None:
            self._hub.send(visitor.subscriber, text)
        else:
            visitor.connection.send_now(text)

    def _refuse(self, visitor: Visitor, error: messages.Err) -> None:
        if visitor.session is not None and error.id is not None:
            visitor.session.refused(error.id)
            self._send(visitor, codec.encode(error))

    def _offer(self, visitor: Visitor, token: str) -> None:
        visitor.work += len(visitor.subscriptions)
        denied = self._gate.offer(visitor, token)
        if denied is None:
            self._tell_end(visitor)
        elif denied.reason == "busy":
            again = messages.Err(code="not_ready", message=denied.text, retry=True, after_ms=RETRY_AFTER_S * 1_000)
            self._send(visitor, codec.encode(again))
        else:
            self.dismiss(visitor, CLOSE_CODE[denied.reason], denied.text)

    def _tell_end(self, visitor: Visitor) -> None:
        """When the visitor's token ends (W-TOKEN-6)."""
        self._send(visitor, codec.encode(messages.Authok(token_ms=self._gate.left_ms(visitor))))

    def _open(self, visitor: Visitor, opened: Opened) -> None:
        connection = visitor.connection
        connection.expect_by(0.0)
        denied = self._gate.admit(visitor, opened.hello.token)
        if denied is not None:
            connection.close(CLOSE_CODE[denied.reason], codec.shorten(denied.text))
            return
        if not self._source.is_up:
            connection.close(SOURCE_DOWN, "PostgreSQL is not reachable for the relay; try again")
            return
        grant = visitor.known_grant  # what it does not allow makes the relay listen to nothing
        channels = dict.fromkeys(each.channel for each in opened.subscriptions if grant.judge(each) == ALLOWED)
        is_missing = any(not self._source.is_listening(channel) for channel in channels)
        # Which tables are journalled decides what such a client has missed; a relay that has just started looks first.
        needs_look = bool(opened.hello.resume and opened.hello.resume.j) and not self._inspection.has_looked.is_set()
        if not is_missing and not needs_look:
            self._join(visitor, opened)
            return
        visitor.is_joining = True
        connection.pause_reading()
        self._wait(visitor, HELLO, tuple(channels), partial(self._join, visitor, opened), needs_look=needs_look)

    def _join(self, visitor: Visitor, opened: Opened) -> None:
        if not visitor.connection.is_live:
            return
        hello = opened.hello
        answers = [self._judged(visitor, each) for each in opened.subscriptions]
        # Where it is not, the log lacks what a channel said after the client's position.
        wished = (each.subscription for each in answers if isinstance(each, Granted))
        is_log_whole = hello.resume is None or self._reach.is_whole(wished, after=hello.resume.s)
        framing = DEFLATED if visitor.connection.is_deflated else None
        now_ms = self._now_s() * 1_000
        subscriber = self._hub.join(hello, answers, now_ms=now_ms, framing=framing, is_log_whole=is_log_whole)
        self._joined(visitor, subscriber)
        if self._gate.left_ms(visitor) is not None:
            self._tell_end(visitor)
        if visitor.is_joining:
            visitor.is_joining = False
            visitor.connection.resume_reading()
            self._perform(visitor, ())

    def _subscribe(self, visitor: Visitor, subscription: Subscription) -> None:
        then = partial(self._subscribed, visitor, subscription)
        is_allowed = visitor.known_grant.judge(subscription) == ALLOWED
        if not is_allowed or self._source.is_listening(subscription.channel):
            then()
        else:
            self._wait(visitor, Waiting(subscription.sid, subscription.id), [subscription.channel], then)

    def _subscribed(self, visitor: Visitor, subscription: Subscription) -> None:
        if visitor.subscriber is None:
            return
        answer = self._judged(visitor, subscription)
        if isinstance(answer, Granted):
            self._hub.subscribe(visitor.subscriber, answer)
            visitor.work += len(visitor.subscriptions)
        else:
            self._send(visitor, codec.encode(answer))

    def _judged(self, visitor: Visitor, subscription: Subscription) -> Reply:
        """The answer to a wish whose channel is listened to, or that is refused without."""
        assert visitor.session is not None, "the plain path has no subscriptions"
        answer = wishes.judge(subscription, visitor.known_grant, self._inspection)
        if isinstance(answer, messages.Err):
            visitor.session.refused(subscription.id)
        elif answer.types is not None:
            visitor.told_types(subscription.sid, answer.types)
        return answer

    def _unsubscribe(self, visitor: Visitor, sid: int) -> None:
        visitor.forget_types(sid)
        waiting = visitor.waited_for(sid)
        if waiting is not None:
            waiting.cancel()
        elif visitor.subscriber is not None and not self._consuming.leave(visitor.subscriber, sid):
            visitor.work += len(visitor.subscriptions)
            self._hub.unsubscribe(visitor.subscriber, sid)
