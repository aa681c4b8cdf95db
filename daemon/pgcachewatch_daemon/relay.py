"""The composition root: builds the relay from plain values, and is the one place that knows all of its parts.

    PostgresSource --notified--> Intake --> Hub --> outboxes --> Departures --> Connection
                   --looped_back--> Loopback --> Hub.mark, barriers
    WebSocketServer --requested, received, gone--> Reception --> Hub

The source's callbacks run straight through to the outboxes; what they filled is written once per iteration of the loop,
and at once when a loopback came back. All of it is one thread and one event loop; nothing waits for a client.

Life: `start` binds the port and begins to look for PostgreSQL; `run` serves until `stop`, then drains; `close` ends it
all and leaves no task behind. Bound of a drain: `drain_grace_s`, then what is still connected is cut.
"""

from __future__ import annotations

import asyncio
import datetime
import secrets
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias

from pgcachewatch.models import DEFAULT_PG_CHANNEL, Event, Gap, Position
from pgcachewatch.protocol.messages import SNAPSHOT_LENGTH
from pgcachewatch_daemon import health
from pgcachewatch_daemon.authentication import AccessOptions
from pgcachewatch_daemon.barriers import Barriers
from pgcachewatch_daemon.consuming import Consuming
from pgcachewatch_daemon.core.admission import Admission, AdmissionLimits
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Backplane, Hub, HubSettings
from pgcachewatch_daemon.core.intake import Intake
from pgcachewatch_daemon.core.loopback import Ignored, Loopback, LoopbackLimits, LoopbackResult
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.core.tokens import Tokens
from pgcachewatch_daemon.core.uses import Uses
from pgcachewatch_daemon.departures import PLAIN, Departures
from pgcachewatch_daemon.farewells import DRAINED
from pgcachewatch_daemon.feeds import Source, Watcher
from pgcachewatch_daemon.gate import Gate
from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane
from pgcachewatch_daemon.io.catalogue import CatalogueOptions, CatalogueWatcher
from pgcachewatch_daemon.io.http import Answer, Check
from pgcachewatch_daemon.io.metrics import Exposition, Histogram, Reading
from pgcachewatch_daemon.io.postgres import LossReason, Opened, PostgresSource, SourceOptions
from pgcachewatch_daemon.io.websocket import SocketLimits, SocketStats, TlsOptions, WebSocketServer
from pgcachewatch_daemon.lag import LoopLag
from pgcachewatch_daemon.life import Life
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.overview import Kept, View, render
from pgcachewatch_daemon.posts import ConsumerOptions, Desk, Standing
from pgcachewatch_daemon.process import LogFormat
from pgcachewatch_daemon.readings import (
    Durations,
    Workforce,
    access_readings,
    client_readings,
    consumer_readings,
    package_version,
    source_readings,
)
from pgcachewatch_daemon.reception import Reception, ReceptionOptions
from pgcachewatch_daemon.sights import Sights, lag_s, see_clients, see_consumers, see_tables
from pgcachewatch_daemon.site import Site, metrics_answer, status_answer
from pgcachewatch_daemon.tracing import open_traces
from pgcachewatch_daemon.unreadable import UnreadableLog, not_handled, row_lost

logger = line_logger(__name__)


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """Plain values for every part; config/pgcachewatch.toml says what each is for.

    `node` empty: the host's name. `catalogue` without a DSN: the source's. `workers` above 1: see workers/primary.
    """

    host: str = "127.0.0.1"
    port: int = 8420
    channel: str = DEFAULT_PG_CHANNEL
    node: str = ""
    hello_timeout_s: float = 10.0
    subscriptions_limit: int = 1_000
    client_channels_limit: int = 100
    compression: Literal["off", "shared"] = "off"
    drain_grace_s: float = 5.0
    drain_jitter_s: float = 1.0
    workers: int = 1
    page: bool = True
    log_format: LogFormat = "auto"
    is_tracing: bool = False
    source: SourceOptions = field(default_factory=SourceOptions)
    catalogue: CatalogueOptions = field(default_factory=CatalogueOptions)
    sockets: SocketLimits = field(default_factory=SocketLimits)
    tls: TlsOptions = field(default_factory=TlsOptions)
    trusted_proxies: Sequence[str] = ()
    history: HistoryLimits = field(default_factory=HistoryLimits)
    outbox: OutboxLimits = field(default_factory=OutboxLimits)
    barriers: LoopbackLimits = field(default_factory=LoopbackLimits)
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)
    consumers: ConsumerOptions = field(default_factory=ConsumerOptions)
    access: AccessOptions = field(default_factory=AccessOptions)


# Looks at new options and returns what takes them over; raises ConfigurationError when they can not work.
Preparation: TypeAlias = Callable[[RelayOptions], Callable[[], None]]


class Relay(Life):
    """One relay. Use it as `async with Relay(options) as relay`, or `start`, `run`, `close`."""

    def __init__(self, options: RelayOptions) -> None:
        self.options = options
        self._intake = Intake()
        self._loopback = Loopback(
            lambda: secrets.token_hex(8), options.barriers, wants_snapshot=lambda: self._hub.has_stamps
        )
        self._tokens = Tokens(options.barriers)
        self._admission = Admission(options.admission)
        self._uses = Uses(
            began=lambda channel: self._source.use(channel),
            ended=lambda channel: self._source.leave(channel, seq=self._hub.position.seq),
        )
        self._hub = Hub(
            self._make_backplane(),
            History(options.history),
            HubSettings(options.node or socket.gethostname(), options.source.heartbeat_s * 1_000, options.outbox),
            framing=PLAIN,
            uses=self._uses,
            on_dirty=lambda: self._departures.schedule(),
        )
        self._socket_stats = SocketStats()
        node = options.node or socket.gethostname()
        self._traces = open_traces(options.is_tracing, node=node, version=package_version())
        self._departures = Departures(self._hub, self._socket_stats, self._traces)
        self._source = self._make_source()
        self._uses.begin(options.channel)  # for good: what a client of it resumes from is whole
        self._barriers = Barriers(
            self._hub,
            self._loopback,
            self._tokens,
            now_ms=lambda: time.monotonic() * 1_000,
            hasten=self._source.hasten,
        )
        self._inspection = self._make_inspection()
        self._consuming = self._make_consuming()
        self._watcher = self._make_watcher()
        self._gate = Gate(options.access, doors=lambda: self._reception, now_s=time.monotonic, wall_s=time.time)
        self._reception = self._make_reception()
        self._server = self._make_server()
        self._exposition = Exposition(self.readings)
        self._status = Kept(time.monotonic)
        self._began_s = time.monotonic()
        self.reloads: Counter[str] = Counter()  # by how they ended; whoever calls `reload` counts
        self._loopback_seconds = Histogram()
        self._barrier_seconds = Histogram()
        self._lag = LoopLag()
        self._unreadable = UnreadableLog()
        self._last_loss = "start"
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._draining_since_s: float | None = None
        # A part that reads a file of its own adds its preparation here.
        self.preparations: list[Preparation] = [
            self._prepare_limits,
            lambda new: self._server.prepare(new.tls, new.trusted_proxies),
            lambda new: self._gate.prepare(new.access, new.host),
        ]

    def _make_reception(self) -> Reception:
        return Reception(
            _reception_options(self.options),
            hub=self._hub,
            barriers=self._barriers,
            departures=self._departures,
            inspection=self._inspection,
            consuming=self._consuming,
            admission=self._admission,
            gate=self._gate,
            source=self._source,
            site=Site(
                checks=self.checks,
                show_metrics=self._show_metrics,
                show_status=self._show_status,
                has_page=self.options.page,
            ),
            now_s=time.monotonic,
        )

    def _make_inspection(self) -> Inspection:
        return Inspection(
            self._hub,
            channel=self.options.channel,
            now_s=time.monotonic,
            hasten=lambda: self._watcher.hasten(),
            retyped=lambda tables: self._reception.retyped(tables),
            doubted=lambda gap: self._consuming.doubt(gap),
        )

    def _make_consuming(self) -> Consuming:
        desk = Desk(
            tell=self._hub.send,
            refuse=lambda subscriber, error: self._reception.refuse(subscriber, error),
            why_not=self._inspection.why_not_journalled,
        )
        return Consuming(self.options.consumers, self.options.source, desk, now_s=time.monotonic)

    def _make_server(self) -> WebSocketServer:
        return WebSocketServer(
            self._reception,
            self.options.sockets,
            clock=time.monotonic,
            stats=self._socket_stats,
            tls=self.options.tls,
            trusted_proxies=self.options.trusted_proxies,
        )

    # --- parts that a worker has others of

    def _make_backplane(self) -> Backplane:
        return MemoryBackplane(lambda: secrets.token_hex(8))

    def _make_source(self) -> Source:
        return PostgresSource(self.options.source, self._loopback, self, clock=time.monotonic)

    def _make_watcher(self) -> Watcher:
        return CatalogueWatcher(
            catalogue_options(self.options),
            judge=self._inspection.assess,
            tell=self._inspection.tell,
            clock=time.monotonic,
        )

    # --- life

    @property
    def port(self) -> int:
        """The port that is listened to; the real one when 0 was asked for."""
        return self._server.port

    @property
    def url(self) -> str:
        return f"{'wss' if self.options.tls.is_on else 'ws'}://{self.options.host}:{self.port}"

    async def start(self) -> None:
        """Bind and begin. Raises OSError when the address can not be had; PostgreSQL need not be there yet."""
        await self._server.start(self.options.host, self.options.port)
        self._lag.start()
        self._gate.start()
        wanted = self._source.ensure_channel(self.options.channel)
        wanted.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._source.start()
        self._watcher.start()
        logger.info("relay listening", host=self.options.host, port=self.port)

    async def ready(self) -> None:
        """Wait until events provably flow. A relay that loses PostgreSQL is not ready until it is back."""
        await self._ready.wait()

    def stop(self) -> None:
        """Make `run` drain and return. May be called from a signal handler of the loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve until `stop`, then drain."""
        await self._stopping.wait()
        await self.drain()

    def prepare(self, options: RelayOptions) -> Callable[[], None]:
        """Read what these name; what is returned makes a running relay go on with them, and sends nobody away.

        In any thread, since files may be long. Raises ConfigurationError, and then nothing has changed.
        """
        return partial(self._take_over, options, [prepare(options) for prepare in self.preparations])

    def _take_over(self, options: RelayOptions, parts: Sequence[Callable[[], None]]) -> None:
        for take_over in parts:
            take_over()
        self.options = options

    def _prepare_limits(self, options: RelayOptions) -> Callable[[], None]:
        return partial(self._take_limits, options)

    def _take_limits(self, options: RelayOptions) -> None:
        self._admission.limits = options.admission
        self._loopback.limits = self._tokens.limits = options.barriers
        self._hub.history.limits = options.history
        self._server.limits = options.sockets
        self._reception.reload(_reception_options(options))
        self._consuming.reload(options.consumers, options.source)
        self._source.reload(options.source)
        self._watcher.reload(catalogue_options(options))

    async def drain(self) -> None:
        """Send everybody away: not ready first, then `bye` and close, then cut who is still there after the grace."""
        if self._draining_since_s is not None:
            return
        self._draining_since_s = time.monotonic()
        logger.info("relay draining", grace_s=self.options.drain_grace_s, sockets=len(self._server.connections))
        self._reception.drain()
        self._consuming.drain()
        self._hub.say_bye(
            DRAINED, reason="the relay is going away", after_ms=0.0, jitter_ms=self.options.drain_jitter_s * 1_000
        )
        self._departures.flush_all()
        if not await self._server.until_empty(self.options.drain_grace_s):
            logger.warning("relay cuts what did not go in time", sockets=len(self._server.connections))

    async def close(self) -> None:
        """End everything at once; harmless when called twice."""
        self._stopping.set()
        self._lag.close()
        await self._watcher.close()
        await self._source.close()
        await self._server.close()
        await self._gate.close()
        await self._reception.close()
        await self._consuming.close()
        if self._traces is not None:
            await self._traces.close()
        logger.info("relay stopped")

    # --- what the source tells, in order

    def notified(self, channel: str, payload: str) -> None:  # hot path
        now_s = time.monotonic()
        change = self._intake.read(channel, payload, received_at=datetime.datetime.now(tz=datetime.UTC))
        if isinstance(change, Gap):
            self._unreadable.note(channel, change, now_s=now_s)
        self._hub.publish(self._inspection.believed(change), channel=channel, payload=payload, now_s=now_s)
        if self._traces is not None:
            self._traces.began(change, payload)
        self._departures.published(change)
        if isinstance(change, Event) and change.id is not None:
            self._consuming.wake()

    def notification_failed(self, channel: str) -> None:
        self._hub.publish(not_handled(channel), channel=channel, payload="", now_s=time.monotonic())

    def looped_back(self, payload: str, position: str) -> None:
        result = self._loopback.returned(payload)
        if isinstance(result, Ignored):
            return
        self._loopback_seconds.observe(time.monotonic() - result.as_of_ms / 1_000)
        self._prove(result, position)
        self._source.give_up_before(self._hub.history.floor)
        if self._loopback.has_waiting:
            self._source.hasten()

    def _prove(self, result: LoopbackResult, position: str = "") -> None:
        now_ms = time.monotonic() * 1_000
        shown = position if 0 < len(position) <= SNAPSHOT_LENGTH else None
        self._hub.mark(result.as_of_ms, result.snapshot, shown)
        for barrier in result.barriers:
            self._barrier_seconds.observe((now_ms - barrier.asked_ms) / 1_000)
        self._barriers.looped_back(result)
        self._departures.flush()  # not in the next iteration: somebody waits for this

    def token_notified(self, token: str) -> None:
        self._barriers.token_notified(token)

    def tokens_settled(self) -> None:
        if self._barriers.tokens_settled():
            self._departures.flush()

    def catalogue_changed(self) -> None:
        self._watcher.hasten()

    def row_lost(self, payload: str) -> None:
        gap = row_lost(payload)
        self._hub.publish(gap, channel="", payload="", now_s=time.monotonic())
        self._consuming.doubt(gap)

    def source_up(self, journal: Opened | None) -> None:
        now_s = time.monotonic()
        if journal is None:
            self._hub.source_restored(self._last_loss)
        elif journal.floor is not None:
            start = Position(journal.epoch, journal.first_seq)
            self._hub.source_restored(self._last_loss, start=start, floor=journal.floor)
        if journal is not None:
            self._hub.notifications_lost(now_s=now_s)
        self._barriers.source_up()
        self._watcher.source_up()
        self._ready.set()

    def source_lost(self, reason: LossReason) -> None:
        self._ready.clear()
        self._last_loss = reason
        self._hub.source_lost(reason, now_ms=time.monotonic() * 1_000)
        self._barriers.source_lost()
        self._watcher.source_lost()
        self._reception.source_lost()

    def channel_listened(self, channel: str) -> None:
        self._reception.listened(channel, self._hub.position.seq)

    def channel_given_up(self, channel: str) -> None:
        self._reception.given_up(channel)

    # --- what others may see

    def checks(self) -> Sequence[Check]:
        """The conditions of readiness."""
        return health.checks(
            self._source,
            proven_ms=self._loopback.last_as_of_ms,
            loss=self._last_loss,
            began_s=self._began_s,
            draining_since_s=self._draining_since_s,
            now_s=time.monotonic(),
        )

    def readings(self) -> Mapping[str, Reading]:
        """The values of io/metrics.METRICS at this moment."""
        return self.client_readings() | source_readings(
            self._source.stats,
            checks=self.checks(),
            loopback_seconds=self._loopback_seconds,
            intake=self._intake.stats,
            inspection=self._inspection,
            catalogue=self._watcher.stats,
            epoch_changes=self._hub.stats.epoch_changes,
            reloads=self.reloads,
            log=self._hub.history,
            now_s=time.monotonic(),
            workforce=Workforce(),
            consumer_lag_s=lag_s(self._consumers()),
        )

    def client_readings(self) -> dict[str, Reading]:
        """Those of them that tell of clients."""
        others = consumer_readings(self._consuming) | access_readings(self._gate.authentication)
        return others | client_readings(
            self._hub.stats,
            self._server.stats,
            self._tokens.stats,
            Durations(self._barrier_seconds, self._departures.seconds, self._lag.seconds),
            limit_refusals=self._reception.limit_refusals,
            clients_limit=self.options.admission.connections,
        )

    def _show_metrics(self, answer: Callable[[Answer], None], is_openmetrics: bool) -> None:
        text = self._exposition.render(is_openmetrics=is_openmetrics)
        answer(metrics_answer(text, is_openmetrics=is_openmetrics))

    def sights(self, *, has_tables: bool = True) -> Sights:
        """Clients, and tables that changed, for people."""
        now_s = time.monotonic()
        tables, total = see_tables(self._hub.history, now_s=now_s) if has_tables else ((), 0)
        clients = see_clients(self._reception.visitors, seq=self._hub.position.seq, now_s=now_s)
        return Sights(clients, tables, total)

    def _show_status(self, answer: Callable[[Answer], None]) -> None:
        text = self._status.text
        answer(status_answer(text if text is not None else self._status.keep(self._render_status())))

    def _render_status(self) -> bytes:
        view = View(
            node=self.options.node or socket.gethostname(),
            uptime_s=time.monotonic() - self._began_s,
            position=self._hub.position,
            checks=self.checks(),
            source=self._source.stats,
            readings=self.readings(),
            sights=self.sights(),
            findings=self._inspection.findings,
            consumers=self._consumers(),
        )
        return render(view, wall_s=time.time())

    def _consumers(self) -> tuple[Standing, ...]:
        here = self._consuming.standings(datetime.datetime.now(tz=datetime.UTC))
        return see_consumers(here, self._source.stats.journal.held)


def catalogue_options(options: RelayOptions) -> CatalogueOptions:
    """Those of the watcher: without a DSN of its own it uses the source's."""
    return replace(options.catalogue, dsn=options.catalogue.dsn or options.source.dsn)


def _reception_options(options: RelayOptions) -> ReceptionOptions:
    return ReceptionOptions(
        options.channel,
        options.hello_timeout_s,
        options.subscriptions_limit,
        options.client_channels_limit,
        is_compressing=options.compression == "shared",
    )
