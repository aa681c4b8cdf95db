"""The composition root of a relay with workers: the process that holds the LISTEN connection.

    PostgresSource --notified--> Intake --> Inspection --> position --> Dispatch ==links==> workers
    workers --ensure, hasten, needed, metrics--> PrimaryRelay

It does what relay.Relay does between PostgreSQL and the hub, and hands the outcome on instead of fanning it out.
Nothing here waits for a worker: what is said is written to each link and forgotten, a worker that does not read is
replaced. Positions are assigned here and nowhere else, drift is judged here, and the channels that are listened to are
those of all workers together.

Life: as relay.Relay, which it stands in for. Bound of a drain: the grace and EXIT_GRACE_S.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import os
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import assert_never

from pgcachewatch.models import EVERYTHING, Event, Gap, Position
from pgcachewatch_daemon.core.intake import Intake
from pgcachewatch_daemon.core.loopback import Ignored, Loopback
from pgcachewatch_daemon.core.tokens import Tokens
from pgcachewatch_daemon.health import checks
from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane
from pgcachewatch_daemon.io.catalogue import CatalogueWatcher
from pgcachewatch_daemon.io.http import Check
from pgcachewatch_daemon.io.metrics import Histogram, Reading
from pgcachewatch_daemon.io.postgres import LossReason, Opened, PostgresSource
from pgcachewatch_daemon.lag import LoopLag
from pgcachewatch_daemon.life import Life
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.overview import View
from pgcachewatch_daemon.posts import Standing
from pgcachewatch_daemon.readings import Workforce, source_readings
from pgcachewatch_daemon.relay import Preparation, RelayOptions, catalogue_options
from pgcachewatch_daemon.sights import Sights, lag_s, see_consumers
from pgcachewatch_daemon.unreadable import UnreadableLog, not_handled, row_lost
from pgcachewatch_daemon.workers.channels import SharedChannels
from pgcachewatch_daemon.workers.dispatch import Dispatch
from pgcachewatch_daemon.workers.framing import encode
from pgcachewatch_daemon.workers.handover import Handover
from pgcachewatch_daemon.workers.looks import Look, Looks
from pgcachewatch_daemon.workers.member import Member
from pgcachewatch_daemon.workers.messages import (
    AS_READ,
    TABLE_WIDE,
    AskMetrics,
    AskStatus,
    Begin,
    ClosePlain,
    Counted,
    Ensure,
    Exposed,
    FromWorker,
    Hasten,
    HastenLook,
    Hello,
    Here,
    Listening,
    ListenRefused,
    LoopedBack,
    Message,
    Release,
    Reload,
    Serving,
    SourceLost,
    SourceUp,
    Start,
    State,
    StatusShown,
    TokenNotified,
    TokensSettled,
)
from pgcachewatch_daemon.workers.scrape import Scrapes
from pgcachewatch_daemon.workers.shares import divide, prove_files
from pgcachewatch_daemon.workers.sockets import HeldPort, can_spread, hold_soon
from pgcachewatch_daemon.workers.staff import Staff
from pgcachewatch_daemon.workers.statuses import Statuses

EXIT_GRACE_S = 3.0
CAN_HAVE_WORKERS = hasattr(socket, "AF_UNIX") and os.name == "posix"

logger = line_logger(__name__)


class PrimaryRelay(Life):
    """Use it as relay.Relay. `is_spread`: workers bind the port each for itself (see sockets); None: where they can."""

    def __init__(self, options: RelayOptions, *, is_spread: bool | None = None) -> None:
        self.options = options
        self._is_spread = can_spread() if is_spread is None else is_spread
        self._intake = Intake()
        self._tokens = Tokens(options.barriers)
        self._loopback = Loopback(
            lambda: secrets.token_hex(8),
            options.barriers,
            wants_snapshot=lambda: any(member.state.has_stamps for member in self._staff.following),
        )
        self._backplane = MemoryBackplane(lambda: secrets.token_hex(8))
        self._began = Begin(self._backplane.position.epoch, 0)
        self._handover = Handover(options.history)
        self._dispatch = Dispatch(self._handover, self._write)
        self._source = PostgresSource(options.source, self._loopback, self, clock=time.monotonic)
        self._channels = SharedChannels(self._source, head=lambda: self._backplane.position.seq)
        self._inspection = Inspection(
            self,
            channel=options.channel,
            now_s=time.monotonic,
            hasten=lambda: self._watcher.hasten(),
            retyped=lambda tables: None,  # the workers are told with the look
        )
        self._looks = Looks(self._inspection, self._dispatch.say_bulk)
        self._watcher: CatalogueWatcher[Look] = CatalogueWatcher(
            catalogue_options(options), judge=self._looks.judge, tell=self._looks.tell, clock=time.monotonic
        )
        self._held: HeldPort | None = None
        self._staff = Staff(0, received=self._received, gone=self._gone)
        self._scrapes = Scrapes(lambda: self._staff.serving, self._readings)
        self._statuses = Statuses(self._scrapes, self._view)
        self._began_s = time.monotonic()
        self.reloads: Counter[str] = Counter()  # by how they ended; whoever calls `reload` counts
        self._loopback_seconds = Histogram()
        self._epoch_changes: Counter[str] = Counter()
        self._lag = LoopLag()
        self._unreadable = UnreadableLog()
        self._last_loss = "start"
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._is_draining = False
        # As relay.Relay's: what can be refused is looked at here, before workers are told.
        self.preparations: list[Preparation] = [self._prepare_limits, prove_files]

    # --- life

    @property
    def port(self) -> int:
        """The port that the workers listen to; the real one when 0 was asked for."""
        assert self._held is not None, "the relay was not started"
        return self._held.port

    @property
    def url(self) -> str:
        return f"{'wss' if self.options.tls.is_on else 'ws'}://{self.options.host}:{self.port}"

    @property
    def workers(self) -> Mapping[int, int]:
        """Process ids of those that serve, by place."""
        return {member.number: member.pid for member in self._staff.serving}

    async def start(self) -> None:
        """Take the port, and return when each worker serves, or when stopped before.

        Raises OSError when the address can not be had, WorkersFailed when a worker can not be started.
        """
        self._held = await hold_soon(self.options.host, self.options.port, is_spread=self._is_spread)
        self._staff = Staff(
            self.options.workers,
            received=self._received,
            gone=self._gone,
            sockets=[each.fileno() for each in self._held.inherited],
        )
        self._lag.start()
        # For good: workers need not ask for it, and what a client of it resumes from is whole.
        self._channels.ensure(self, self.options.channel, number=0, answer=self._default_channel_answered)
        if await self._until_stopped(self._staff.start()):
            self._source.start()
            self._watcher.start()
            logger.info("relay listening", host=self.options.host, port=self.port)

    def _default_channel_answered(self, answer: Listening | ListenRefused) -> None:
        if isinstance(answer, ListenRefused):
            logger.error("default channel refused", detail=answer.text)

    async def ready(self) -> None:
        """Wait until events provably flow, and each worker knows it."""
        await self._ready.wait()
        await self._scrapes.ask()  # whoever answers has handled what was said before

    def stop(self) -> None:
        """Make `run` drain and return. May be called from a signal handler of the loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then drain. Raises WorkersFailed, after a drain, when a worker can not be replaced."""
        await self._until_stopped(self._staff.failed.wait())
        await self.drain()
        if self._staff.failure is not None:
            raise self._staff.failure

    def prepare(self, options: RelayOptions) -> Callable[[], None]:
        """As relay.Relay's; what is returned tells each worker too."""
        return partial(self._take_over, options, [prepare(options) for prepare in self.preparations])

    def _take_over(self, options: RelayOptions, parts: Sequence[Callable[[], None]]) -> None:
        for take_over in parts:
            take_over()
        self.options = options
        self._dispatch.flush()
        for member in self._staff.following:
            member.say(Reload(divide(options, port=self.port), logging.getLogger().getEffectiveLevel()))

    def _prepare_limits(self, options: RelayOptions) -> Callable[[], None]:
        options.tls.check()  # workers, which serve by it, can not refuse
        return partial(self._take_limits, options)

    def _take_limits(self, options: RelayOptions) -> None:
        self._loopback.limits = self._tokens.limits = options.barriers
        self._handover.limits = options.history
        self._source.reload(options.source)
        self._watcher.reload(catalogue_options(options))

    async def _until_stopped(self, waiting: Coroutine[None, None, object]) -> bool:
        """True when it ended, False when the relay is stopped before that."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        waited = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({stopping, waited}, return_when=asyncio.FIRST_COMPLETED)
            if waited.done():
                waited.result()
            return waited.done()
        finally:
            for each in (stopping, waited):
                each.cancel()
            await asyncio.gather(stopping, waited, return_exceptions=True)

    async def drain(self) -> None:
        """Let each worker send its clients away and end."""
        if self._is_draining:
            return
        self._is_draining = True
        logger.info("relay draining", grace_s=self.options.drain_grace_s, workers=len(self._staff.serving))
        self._dispatch.flush()
        await self._staff.drain(self.options.drain_grace_s + EXIT_GRACE_S)

    async def close(self) -> None:
        """End everything at once; harmless when called twice."""
        self._stopping.set()
        self._lag.close()
        self._scrapes.close()
        await self._statuses.close()
        await self._watcher.close()
        await self._source.close()
        await self._staff.close()
        if self._held is not None:
            self._held.close()
        logger.info("relay stopped")

    # --- what the source tells, in order

    def notified(self, channel: str, payload: str) -> None:  # hot path
        now_s = time.monotonic()
        received_at = datetime.datetime.now(tz=datetime.UTC)
        change = self._intake.read(channel, payload, received_at=received_at)
        if isinstance(change, Gap):
            self._unreadable.note(channel, change, now_s=now_s)
        verdict = AS_READ if self._inspection.believed(change) is change else TABLE_WIDE
        seq = self._backplane.append().seq
        self._dispatch.change((seq, now_s, received_at, channel, payload, verdict))

    def notification_failed(self, channel: str) -> None:
        self.publish(not_handled(channel), channel=channel, payload="", now_s=time.monotonic())

    def looped_back(self, payload: str, position: str) -> None:
        result = self._loopback.returned(payload)
        if isinstance(result, Ignored):
            return
        self._loopback_seconds.observe(time.monotonic() - result.as_of_ms / 1_000)
        self._dispatch.say(LoopedBack(result.as_of_ms, result.snapshot, self._source.proof_limit_s, position))
        self._dispatch.flush()  # not in the next iteration: somebody waits for this
        self._source.give_up_before(self._handover.floor)

    def token_notified(self, token: str) -> None:
        self._tokens.arrived(token, now_ms=time.monotonic() * 1_000)
        self._dispatch.say(TokenNotified(token))

    def tokens_settled(self) -> None:
        self._tokens.settled()
        self._dispatch.say(TokensSettled())
        self._dispatch.flush()

    def catalogue_changed(self) -> None:
        self._watcher.hasten()

    def row_lost(self, payload: str) -> None:
        self.publish(row_lost(payload), channel="", payload="", now_s=time.monotonic())

    def source_up(self, journal: Opened | None) -> None:
        self._dispatch.flush()
        new = None if journal is not None and journal.floor is None else self._new_epoch(journal)
        self._tokens.source_up()
        self._dispatch.say(SourceUp(new, self._channels.came_up(), self._source.since_s))
        if journal is not None:
            gap = Gap(EVERYTHING, "source_lost", "what was notified meanwhile is lost")
            self.publish(gap, channel="", payload="", now_s=time.monotonic())
            self.close_plain("the database connection was lost; connect again")
        self._watcher.source_up()
        self._ready.set()

    def _new_epoch(self, journal: Opened | None) -> Begin:
        """What was said until now is void; with a journal its past from `floor` on comes behind this."""
        start = Position(journal.epoch, journal.first_seq) if journal is not None else None
        position = self._backplane.new_epoch(self._last_loss, start)
        self._epoch_changes[self._last_loss] += 1
        self._handover.begin_after(position.seq)
        self._began = Begin(position.epoch, position.seq, journal.floor if journal is not None else None)
        return self._began

    def source_lost(self, reason: LossReason) -> None:
        self._ready.clear()
        self._last_loss = reason
        self._tokens.source_lost()
        self._watcher.source_lost()
        self._channels.lost()
        self._dispatch.say(SourceLost(reason, self._source.since_s))
        self._dispatch.flush()

    def channel_listened(self, channel: str) -> None:
        self._channels.channel_listened(channel)

    def channel_given_up(self, channel: str) -> None:
        self._channels.channel_given_up(channel)

    # --- what the inspection tells

    def publish(self, change: Event | Gap, *, channel: str, payload: str, now_s: float) -> None:
        """A gap that no notification told of."""
        assert isinstance(change, Gap), "events come from notifications"
        seq = self._backplane.append().seq
        self._dispatch.change((seq, now_s, datetime.datetime.now(tz=datetime.UTC), channel, payload, change))

    def close_plain(self, reason: str) -> None:
        """Published clients missed something."""
        self._dispatch.say(ClosePlain(reason))

    # --- the workers

    def _write(self, frames: list[bytes], is_bulk: bool) -> None:
        for member in self._staff.following:
            member.write(frames, is_bulk=is_bulk)

    def _received(self, member: Member, messages: list[Message]) -> None:
        for message in messages:
            self._hear(member, message)  # type: ignore[arg-type]  # a worker says FromWorker only

    def _hear(self, member: Member, message: FromWorker) -> None:
        match message:
            case Hello():
                self._hand_over(member)
            case Serving():
                self._staff.began_to_serve(member)
            case Ensure(channel, number):
                self._channels.ensure(member, channel, number=number, answer=partial(self._say_behind, member))
            case Release(channel):
                self._channels.release(member, channel)
            case Hasten(spacing_s):
                self._source.hasten(spacing_s=spacing_s)
            case HastenLook():
                self._watcher.hasten()
            case State():
                member.state = message
                self._tell_busy()
            case AskMetrics(is_openmetrics):
                asked = self._scrapes.ask(is_openmetrics=is_openmetrics)
                asked.add_done_callback(partial(self._expose, member, is_openmetrics))
            case AskStatus():
                self._statuses.ask(lambda text: member.say(StatusShown(text)))
            case Counted(number, readings, sights):
                self._scrapes.counted(member, number, readings, sights)
            case other:
                assert_never(other)

    def _say_behind(self, member: Member, message: Listening | ListenRefused) -> None:
        """To one, behind everything that all are told: what it says of the log holds where it arrives."""
        self._dispatch.flush()
        member.say(message)

    def _hand_over(self, member: Member) -> None:
        """All that the others know, in one step, so that nothing is said in between."""
        self._dispatch.flush()
        assert self._held is not None, "workers are started behind the port"
        sockets = tuple(each.fileno() for each in self._held.inherited)
        options = divide(self.options, port=self.port)
        member.say(Start(member.number, options, sockets, logging.getLogger().getEffectiveLevel()))
        position = self._backplane.position
        here = Here(
            is_up=self._source.is_up,
            since_s=self._source.since_s,
            loss=self._last_loss,
            channels={name: seq for name, seq in self._channels.listened.items() if name == self.options.channel},
            as_of_ms=self._loopback.last_as_of_ms,
            proof_limit_s=self._source.proof_limit_s,
            tokens=self._tokens.memory(),
            catalogue=self._looks.pickled,
            began_s=self._looks.began_s,
        )
        # What was forgotten may be what a client of another life of the relay has missed.
        begin = (
            self._began if self._handover.floor == self._began.floor else Begin(position.epoch, self._handover.floor)
        )
        member.write([encode([begin]), *self._handover.frames, encode([here])], is_bulk=True)
        member.is_following = True

    def _gone(self, member: Member) -> None:
        self._scrapes.gone(member)
        self._channels.gone(member)
        self._tell_busy()

    def _tell_busy(self) -> None:
        self._source.set_busy(any(each.state.is_busy for each in self._staff.following))

    def _expose(self, member: Member, is_openmetrics: bool, text: asyncio.Future[bytes]) -> None:
        if not text.cancelled():
            member.say(Exposed(text.result(), is_openmetrics))

    def _view(self, sights: Sights) -> View:
        now_s = time.monotonic()
        return View(
            node=self.options.node or socket.gethostname(),
            uptime_s=now_s - self._began_s,
            position=self._backplane.position,
            checks=self._checks(now_s),
            source=self._source.stats,
            readings=self._scrapes.sum,
            sights=sights,
            findings=self._inspection.findings,
            consumers=self._consumers(),
        )

    def _consumers(self) -> tuple[Standing, ...]:
        return see_consumers((), self._source.stats.journal.held)  # workers give no jobs

    # --- what others may see

    def _checks(self, now_s: float) -> Sequence[Check]:
        proven_ms = self._loopback.last_as_of_ms
        return checks(self._source, proven_ms=proven_ms, loss=self._last_loss, began_s=self._began_s, now_s=now_s)

    def _readings(self) -> Mapping[str, Reading]:
        now_s = time.monotonic()
        return source_readings(
            self._source.stats,
            checks=self._checks(now_s),
            loopback_seconds=self._loopback_seconds,
            intake=self._intake.stats,
            inspection=self._inspection,
            catalogue=self._watcher.stats,
            epoch_changes=self._epoch_changes,
            reloads=self.reloads,
            log=self._handover,
            now_s=now_s,
            workforce=Workforce(len(self._staff.serving), self._staff.restarts, self._scrapes.silences),
            consumer_lag_s=lag_s(self._consumers()),
        ) | {"event_loop_lag_seconds": self._lag.seconds}
