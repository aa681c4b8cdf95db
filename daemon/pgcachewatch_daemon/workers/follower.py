"""The relay as a worker runs it: everything that has to do with clients, fed by the primary instead of PostgreSQL.

Each message becomes the call that the notification behind it would have made in a relay of one process, in the same
order; so what PROTOCOL.md says of order and proof holds for the same reasons. A change that can not be handled here
becomes a Gap of its channel at the same position, as it would there.
"""

from __future__ import annotations

import datetime
import pickle
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

from pgcachewatch.models import Event, Gap, Position
from pgcachewatch_daemon.core.hub import Backplane
from pgcachewatch_daemon.feeds import Source, Watcher
from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.relay import Relay, RelayOptions
from pgcachewatch_daemon.site import metrics_answer, status_answer
from pgcachewatch_daemon.sql.assessment import Assessment
from pgcachewatch_daemon.sql.catalogue import Catalogue
from pgcachewatch_daemon.unreadable import not_handled
from pgcachewatch_daemon.workers.awaited import Awaited
from pgcachewatch_daemon.workers.backplane import FollowedBackplane
from pgcachewatch_daemon.workers.messages import (
    Ask,
    AskMetrics,
    AskStatus,
    Begin,
    Change,
    Changes,
    ClosePlain,
    Counted,
    Exposed,
    FromPrimary,
    Here,
    Listening,
    ListenRefused,
    Looked,
    LoopedBack,
    Message,
    SourceLost,
    SourceUp,
    StatusShown,
    TokenNotified,
    TokensSettled,
)
from pgcachewatch_daemon.workers.upstream import Upstream, UpstreamWatcher

logger = line_logger(__name__)


class FollowerRelay(Relay):
    """`say` sends to the primary. `sockets` are bound already; without any it binds beside the other workers."""

    def __init__(
        self, options: RelayOptions, say: Callable[[Message], None], *, sockets: Sequence[socket.socket] = ()
    ) -> None:
        self._say = say
        self._sockets = sockets
        self._followed = FollowedBackplane()
        self._upstream = Upstream(
            say,
            default=options.channel,
            has_stamps=lambda: self._hub.has_stamps,
            given_up=lambda channel: self.channel_given_up(channel),
        )
        self._upstream_watcher = UpstreamWatcher(say)
        self._catalogue: Catalogue | None = None
        self._metrics = {each: Awaited(partial(say, AskMetrics(each))) for each in (False, True)}  # True: OpenMetrics
        self._shown_status = Awaited(lambda: say(AskStatus()))
        super().__init__(options)

    def _make_backplane(self) -> Backplane:
        return self._followed

    def _make_source(self) -> Source:
        return self._upstream

    def _make_watcher(self) -> Watcher:
        return self._upstream_watcher

    async def start(self) -> None:
        """Accept connections. Raises OSError when the address can not be had."""
        if self._sockets:
            await self._server.start_on(self._sockets)
        else:
            await self._server.start(self.options.host, self.options.port, reuse_port=True)
        self._lag.start()
        self._gate.start()

    def stop_listening(self) -> None:
        """Leave new connections to other workers."""
        self._server.stop_listening()

    async def close(self) -> None:
        going = http.refuse(503, "the relay is going away")
        for awaited in (*self._metrics.values(), self._shown_status):
            awaited.told(going)
        await super().close()

    # --- what the primary tells, in order

    def told(self, message: FromPrimary) -> None:
        """One message. Raises LinkBroken when it can not follow those before it."""
        match message:
            case Changes(changes):
                for change in changes:
                    self._change(change)
            case LoopedBack():
                self._upstream.looped_back(message)
                self._prove(self._loopback.proven(message.as_of_ms, message.snapshot), message.position)
                self._upstream.tell_state()
            case TokenNotified(token):
                self.token_notified(token)
            case TokensSettled():
                self.tokens_settled()
            case Ask():
                sights = self.sights(has_tables=message.wants_tables) if message.wants_clients else None
                self._say(Counted(message.number, self.client_readings(), sights))
            case Exposed(text, is_openmetrics):
                self._metrics[is_openmetrics].told(metrics_answer(text, is_openmetrics=is_openmetrics))
            case StatusShown(text):
                self._shown_status.told(status_answer(text))
            case Begin() | Here() | SourceUp() | SourceLost() | Listening() | ListenRefused():
                self._told_of_source(message)
            case Looked(began_s, catalogue, retyped):
                self._looked(catalogue, began_s, retyped)
            case ClosePlain(reason):
                self._hub.close_plain(reason)
            case _:
                raise TypeError(f"a worker's relay is not told {type(message).__name__}")

    def _change(self, change: Change) -> None:  # hot path
        seq, at_s, received_at, channel, payload, verdict = change
        self._followed.follow(seq)
        try:
            told = verdict if isinstance(verdict, Gap) else self._read(channel, payload, received_at, verdict)
            self._hub.publish(told, channel=channel, payload=payload, now_s=at_s)
        except Exception:
            logger.exception("change failed, it became a gap", channel=channel)
            told = not_handled(channel)
            self._hub.publish(told, channel=channel, payload="", now_s=at_s)
        if self._traces is not None:
            self._traces.began(told, payload)
        self._departures.published(told)

    def _read(self, channel: str, payload: str, received_at: datetime.datetime, is_wide: bool) -> Event | Gap:
        read = self._intake.read(channel, payload, received_at=received_at)
        return read.model_copy(update={"keys": None}) if is_wide and isinstance(read, Event) else read

    def _told_of_source(self, message: Begin | Here | SourceUp | SourceLost | Listening | ListenRefused) -> None:
        match message:
            case Begin(epoch, floor, journal_floor):
                self._followed.begin(epoch, floor)
                self._hub.history.begin_after(floor, journal_floor)
            case Here():
                self._began(message)
            case SourceUp(new):
                self._upstream.came_up(message)
                if new is not None:
                    self._followed.follow_epoch(new.epoch, new.floor)
                    start = Position(new.epoch, new.floor)
                    self._hub.source_restored(self._last_loss, start=start, floor=new.journal_floor)
                self._barriers.source_up()
                self._ready.set()
                self._upstream.answer_listening()
            case SourceLost(reason):
                self._upstream.lost(message)
                self._loopback.reset()
                self.source_lost(reason)
            case Listening(channel, seq):
                if self._upstream.listening(message):
                    self._reception.listened(channel, seq)
            case ListenRefused():
                self._upstream.refused(message)
            case other:
                assert_never(other)

    def _began(self, here: Here) -> None:
        self._upstream.began(here)
        self._last_loss = here.loss
        self._tokens.remember(here.tokens)
        for channel, seq in here.channels.items():
            self._reception.listened(channel, seq)
        if here.catalogue:
            self._looked(here.catalogue, here.began_s, frozenset())
        if here.is_up:
            self._ready.set()
            if here.as_of_ms is not None:
                self._prove(self._loopback.proven(here.as_of_ms))

    def _looked(self, catalogue: bytes, began_s: float, retyped: frozenset[str]) -> None:
        if catalogue:
            self._catalogue = pickle.loads(catalogue)
        assert self._catalogue is not None, "the first look that is told has a catalogue"
        self._upstream_watcher.looked()
        self._inspection.adopt(Assessment(self._catalogue, retyped=retyped), began_s)

    # --- what is of the whole relay

    def _show_metrics(self, answer: Callable[[Answer], None], is_openmetrics: bool) -> None:
        self._metrics[is_openmetrics].wait(answer)

    def _show_status(self, answer: Callable[[Answer], None]) -> None:
        self._shown_status.wait(answer)
