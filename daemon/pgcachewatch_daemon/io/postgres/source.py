"""Step 1 of an event's path: the one LISTEN connection, and the proof that events flow through it.

PostgreSQL gives each listener every notification, in commit order, while its session lives; so the relay holds one
session and does nothing else on it. The reader is one synchronous callback, called in order; it never waits for the
fan-out (a relay that stops reading holds back VACUUM and fills the server's queue, manual 'NOTIFY').

Invariants. `source_up` means: each wanted channel was LISTENed on this very session, and a notification we sent to
ourselves came back through it. `source_lost` is told the moment that stops being provable: connection lost, or a
loopback overdue. An exception of the handler is never swallowed: it becomes `notification_failed`.

Bounds. Channels: `channels_limit`; what nobody uses is given up when no resume needs it or another needs its place.
Waits: connecting `connect_timeout_s`, any answer `overdue_s`; attempts: one per `reconnect_max_s` in the long run.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import asyncpg

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol.messages import TOKEN_CHANNEL
from pgcachewatch_daemon.core.server_version import ServerVersion
from pgcachewatch_daemon.io.postgres.contract import LossReason, Probe, SourceListener, SourceOptions, SourceStats
from pgcachewatch_daemon.io.postgres.dsn import POOLED, Unfit, advise, describe_dsn, split_hosts
from pgcachewatch_daemon.io.postgres.journal import Opened
from pgcachewatch_daemon.io.postgres.journal_feed import JournalFeed
from pgcachewatch_daemon.io.postgres.session import loopback_sql, open_session
from pgcachewatch_daemon.io.postgres.wanted import OWN_CHANNELS, Wanted
from pgcachewatch_daemon.io.postgres.watchdog import Watchdog
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.sql.entries import JOURNAL_CHANNEL, RELAY_AWAKE
from pgcachewatch_daemon.sql.functions import CATALOGUE_CHANNEL

LISTEN_BATCH = 50  # LISTENs between two looks at the loopback, so that a long list delays no heartbeat
REPEAT_LOG_S = 60.0
UNPROVEN = (
    "loopback did not return within {:g} s: a transaction pooler such as PgBouncer between? give a direct DSN in "
    "PGCACHEWATCH_LISTEN_DSN"
)
IDLE_SESSION_TIMEOUT_SINCE = 14

logger = line_logger(__name__)


class _Lost(Exception):
    """The session ended; the reason was told already."""


class PostgresSource:
    """Connects for ever, in a task of its own between `start` and `close`. `clock` is monotonic, in seconds."""

    def __init__(
        self, options: SourceOptions, probe: Probe, listener: SourceListener, *, clock: Callable[[], float]
    ) -> None:
        self._options = options
        self._probe = probe
        self._listener = listener
        self._clock = clock
        self._hosts = split_hosts(options.dsn)
        self._loopback_channel = f"pgcachewatch_loopback_{secrets.token_hex(8)}"
        self._connection: asyncpg.Connection[Any] | None = None
        self._own_pid = 0
        self._loss: LossReason | None = None
        self._stopping = False
        self._wake = asyncio.Event()
        self._interval_s = options.idle_heartbeat_s
        self._proven_interval_s = options.idle_heartbeat_s  # the one in force when the last loopback was sent
        self._loopback_sent_s = 0.0
        self._loopback_due_s = 0.0
        self._usage_due_s = 0.0
        self._command_since_s = 0.0
        self._was_proven = False
        self._is_starting = False
        self._journal = JournalFeed(options.journal, clock=clock)
        self._opened: Opened | None = None  # what the session is to begin with
        self._has_news = False  # a journal may have been installed
        self._token_pid = 0  # of the backend whose transaction named itself last, while more of it may follow
        self.heard = 0  # notifications, to see that something comes
        self._watchdog = Watchdog(self, limit_s=options.overdue_s, clock=clock)
        self._task: asyncio.Task[None] | None = None
        self._said, self._said_at_s = ("", ""), 0.0  # detail and server
        self._warned_of = ""
        self.stats = SourceStats(journal=self._journal.stats)
        self._wanted = Wanted(self.stats, given_up=self._given_up)
        self.is_up = False
        self.since_s = clock()
        self._lost_at_s: float | None = None  # for as long as it is down after it was up

    # --- what the relay calls

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="postgres source")

    async def close(self) -> None:
        """End the connection and the task; waits for neither server nor network."""
        self._stopping = True
        if self._task is None:
            return
        if self._connection is not None:
            self._lose("stopped")  # a command in flight fails at once; cancelling it would call the server first
            await asyncio.wait([self._task], timeout=1.0)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._wanted.close()

    def reload(self, options: SourceOptions) -> None:
        """Go on with these. The session there is stays; the next one is opened with what they say."""
        self._options = options
        self._hosts = split_hosts(options.dsn)
        self._journal.reload(options.journal)

    def ensure_channel(self, channel: str) -> asyncio.Future[None]:
        """Done once LISTEN on this channel is proven. Waits through reconnects.

        Fails with ConfigurationError for a name PostgreSQL can not listen to, LimitExceeded above `channels_limit`.
        Whoever asks uses it, and says so first.
        """
        if self.is_listening(channel):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        future = self._wanted.ask(channel, limit=self._options.channels_limit)
        if not future.done():
            self._wake.set()
        return future

    def is_listening(self, channel: str) -> bool:
        """True when notifications of this channel are being read right now."""
        return self.is_up and self._wanted.is_proven(channel)

    def use(self, channel: str) -> None:
        """Somebody uses it, or will once it is listened to: it is not given up."""
        self._wanted.use(channel)

    def leave(self, channel: str, *, seq: int) -> None:
        """Nobody uses it any more; whoever did was told of nothing behind `seq`."""
        self._wanted.leave(channel, seq=seq)

    def give_up_before(self, floor: int) -> None:
        """Give up what nobody uses and no resume can need: the history begins at `floor`."""
        if self.is_up:
            self._wanted.give_up_before(floor)

    def set_busy(self, is_busy: bool) -> None:
        """With readers connected the heartbeat is `heartbeat_s`, without `idle_heartbeat_s`."""
        self._interval_s = self._options.heartbeat_s if is_busy else self._options.idle_heartbeat_s
        self.hasten(spacing_s=self._interval_s)

    def hasten(self, *, spacing_s: float = 0.0) -> None:
        """Send the next loopback now, or as soon as the last one lies `spacing_s` back."""
        due_s = max(self._clock(), self._loopback_sent_s + spacing_s)
        if due_s < self._loopback_due_s:
            self._loopback_due_s = due_s
            self._wake.set()

    @property
    def proof_limit_s(self) -> float:
        """A source whose last loopback is older than this does not flow, provably."""
        return self._proven_interval_s + self._options.overdue_s

    # --- the task

    async def _run(self) -> None:
        pause_s = 0.0
        attempt = 0
        while not self._stopping:
            dsn = self._hosts[attempt % len(self._hosts)]
            attempt += 1
            started_s = self._clock()
            was_up = await self._session(dsn)
            if was_up and self._clock() - started_s > self._options.reconnect_max_s:
                pause_s, attempt = 0.0, attempt - 1  # a session that lasted: its host is the best guess, at once
            elif attempt % len(self._hosts) == 0 and not self._stopping:
                # Half of it at random: relays that lost the same server do not come back at the same instant.
                pause_s = min(self._options.reconnect_max_s, max(self._options.reconnect_min_s, pause_s * 2))
                if self._is_starting:
                    pause_s = self._options.reconnect_min_s  # it answers already: it will be there in a moment
                await asyncio.sleep(random.uniform(pause_s / 2, pause_s))

    async def _session(self, dsn: str | None) -> bool:
        """One connection from its start to its end. True when events flowed."""
        self._was_proven = self._is_starting = False
        try:
            connection = await self._connect(dsn)
            await self._establish(connection, dsn)
            await self._serve(connection)
        except _Lost:
            pass
        except Exception as error:
            # Broad on purpose: asyncpg raises InternalClientError and others when a server dies mid-message, and the
            # one thing this task must never do is end.
            self._failed(error, dsn)
        finally:
            self._lose("connection_lost")
        return self._was_proven

    def _failed(self, error: Exception, dsn: str | None) -> None:
        if self._stopping:
            return
        if self._was_proven:
            if self._loss is None:  # else the loss was told, and this is only its echo in the command under way
                self._lose("connection_lost", error=repr(error))
            return
        self.stats.connect_failures += 1
        self._is_starting = isinstance(error, asyncpg.CannotConnectNowError)
        if self._loss == "loopback_overdue":
            error = Unfit(UNPROVEN.format(self._options.overdue_s))
        self.stats.problem, self.stats.server = advise(error), describe_dsn(dsn)
        self._say(self.stats.problem, server=self.stats.server)

    def _say(self, detail: str, *, server: str) -> None:
        """One line when the trouble changes, and again from time to time while it lasts."""
        now_s = self._clock()
        if (detail, server) != self._said or now_s - self._said_at_s >= REPEAT_LOG_S:
            self._said, self._said_at_s = (detail, server), now_s
            logger.warning("source unavailable, trying again", detail=detail, server=server)

    async def _connect(self, dsn: str | None) -> asyncpg.Connection[Any]:
        connection = await open_session(dsn, self._options)
        self._connection = connection
        self._loss = None
        self._own_pid = 0
        self._was_proven = False
        self.stats.connects += 1
        connection.add_termination_listener(self._terminated)
        self._command_since_s = self._clock()
        self._watchdog.start()
        return connection

    async def _establish(self, connection: asyncpg.Connection[Any], dsn: str | None) -> None:
        """LISTEN on each channel that is used, then wait for the first loopback."""
        own_pid = await connection.fetchval("SELECT pg_catalog.pg_backend_pid()")
        if own_pid != connection.get_server_pid():
            # A pooler invents this number. Its transaction mode would even bring the loopback back, inside the command
            # that sent it, and lose what others notify in between; so the loopback alone does not prove enough.
            raise Unfit(POOLED)
        if connection.get_server_version().major >= IDLE_SESSION_TIMEOUT_SINCE:
            await connection.execute("SET idle_session_timeout = 0")
        await connection.add_listener(self._loopback_channel, self._notified)
        for own in OWN_CHANNELS:
            await connection.add_listener(own, self._notified)
        self._wanted.forget_unused()  # a new epoch begins without them
        for channel in self._wanted:
            await self._listen(connection, channel)
        self._own_pid = own_pid
        self._command_since_s = self._clock()
        self._opened = await self._journal.open(connection)
        await self._loop_back(connection)
        while not self.is_up:
            await self._sleep(self._options.overdue_s)
        version = ServerVersion.parse(connection.get_settings().server_version)
        if version.problem and str(version) != self._warned_of:
            self._warned_of = str(version)
            logger.warning("source version", version=str(version), problem=version.problem)
        self.stats.server, self.stats.version, self.stats.problem = describe_dsn(dsn), str(version), ""
        facts: dict[str, object] = {"channels": self.stats.channels, "journal": self._journal.stats.state}
        if self._lost_at_s is not None:
            facts["down_s"] = round(self._clock() - self._lost_at_s, 1)
        logger.info("source up", server=self.stats.server, version=str(version), **facts)
        self._said, self._lost_at_s = ("", ""), None

    async def _serve(self, connection: asyncpg.Connection[Any]) -> None:
        """Commands one after another: a session takes one at a time."""
        while True:
            self._check()
            now_s = self._clock()
            if now_s >= self._loopback_due_s and not self._probe.is_in_flight:
                await self._loop_back(connection)
            leaving = self._wanted.leaving(LISTEN_BATCH)
            for channel in leaving:
                await self._unlisten(connection, channel)
            missing = [] if leaving else self._wanted.missing(LISTEN_BATCH)
            for channel in missing:
                await self._listen(connection, channel)
            if now_s >= self._usage_due_s:
                await self._measure_queue(connection)
            if self._has_news:
                self._has_news = False
                if await self._journal.has_appeared(connection):
                    self._lose("journal_installed")
                    continue
            if self._clock() >= self._journal.due_s:
                await self._read_journal(connection)
            if not missing and not leaving:
                due_s = min(self._usage_due_s, self._interval_due_s, self._journal.due_s)
                await self._sleep(max(0.0, due_s - self._clock()))

    @property
    def _interval_due_s(self) -> float:
        # While one is in flight the next is not due: it is sent when the first came back, or never.
        return self._usage_due_s if self._probe.is_in_flight else self._loopback_due_s

    async def _listen(self, connection: asyncpg.Connection[Any], channel: str) -> None:
        if channel not in self._wanted:
            return  # given up while others were listened to
        self._command_since_s = self._clock()
        try:
            await connection.add_listener(channel, self._notified)
        except asyncpg.PostgresError as error:
            if connection.is_closed():
                raise
            # A name the server's encoding can not hold, say.
            self._wanted.refuse(channel, ConfigurationError(f"PostgreSQL can not LISTEN on {channel!r}: {error}"))
            return
        finally:
            self._command_since_s = 0.0
        if self._wanted.prove(channel) and self.is_up:
            self._tell(partial(self._listener.channel_listened, channel))
            self._wanted.answer(channel)

    async def _unlisten(self, connection: asyncpg.Connection[Any], channel: str) -> None:
        self._command_since_s = self._clock()
        await connection.remove_listener(channel, self._notified)
        self._command_since_s = 0.0

    async def _loop_back(self, connection: asyncpg.Connection[Any]) -> None:
        now_s = self._clock()
        self._loopback_sent_s = now_s
        self._proven_interval_s = self._interval_s
        self._loopback_due_s = now_s + self._interval_s
        # Names and nonce are hexadecimal digits of our own making.
        nonce = self._probe.start(now_ms=now_s * 1_000)
        self._command_since_s = now_s
        wants_snapshot = self._probe.wants_snapshot
        await connection.execute(loopback_sql(self._loopback_channel, nonce, wants_snapshot=wants_snapshot))
        self._command_since_s = 0.0

    async def _measure_queue(self, connection: asyncpg.Connection[Any]) -> None:
        # Not only a measure: the call also frees a queue that ran full, which nothing else does.
        self._usage_due_s = self._clock() + self._options.queue_usage_interval_s
        self._command_since_s = self._clock()
        self.stats.queue_usage = float(await connection.fetchval("SELECT pg_catalog.pg_notification_queue_usage()"))
        self._command_since_s = 0.0

    async def _sleep(self, seconds: float) -> None:
        """Until woken, or for `seconds`. Raises when the connection was lost."""
        timer = asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
        self._wake.clear()
        self._check()

    def _check(self) -> None:
        if self._loss is not None:
            raise _Lost if self._was_proven else ConnectionError(f"the connection was given up: {self._loss}")

    async def _read_journal(self, connection: asyncpg.Connection[Any]) -> None:
        """Publish what was written, then tell what waited for it."""
        self._command_since_s = self._clock()
        step = await self._journal.step(connection)
        if step is None:
            self._lose("journal_lost")
            return
        rows, waiting = step
        for row in rows:
            self._deliver(row.channel, row.payload)
        if waiting.has_tokens:
            self._tell(self._listener.tokens_settled)
        if waiting.loopback is not None:
            self._listener.looped_back(waiting.loopback, self._journal.position)
        self._command_since_s = self._clock()
        await self._journal.after(connection)
        self._command_since_s = 0.0

    # --- what asyncpg and the timer call

    def _notified(self, connection: object, pid: int, channel: str, payload: object) -> None:  # hot path
        if connection is not self._connection:
            return  # the last words of a session that was given up: its epoch is over
        self.heard += 1
        if self._token_pid and pid != self._token_pid:
            # What one transaction notified comes in one piece: with this, the piece of that token is complete.
            self._token_pid = 0
            if not self._journal.tokens_complete():
                self._tell(self._listener.tokens_settled)
        if channel == self._loopback_channel:
            if pid == self._own_pid and isinstance(payload, str):
                self._came_back(payload)
        elif channel == TOKEN_CHANNEL:
            if self.is_up:
                self._token_pid = pid
                self._tell(partial(self._listener.token_notified, cast(str, payload)))
        elif channel == CATALOGUE_CHANNEL:
            if self.is_up:
                self._tell(self._listener.catalogue_changed)
                self._has_news = True
                self._wake.set()
        elif channel == JOURNAL_CHANNEL:
            self._journal_notified(cast(str, payload))
        elif self.is_up:
            # Before the first loopback nobody has joined this epoch, and those of the last one get a reset.
            self._deliver(channel, cast(str, payload))

    def _deliver(self, channel: str, payload: str) -> None:  # hot path
        try:
            self._listener.notified(channel, payload)
        except Exception:
            self._handler_failed(channel)

    def _journal_notified(self, payload: str) -> None:
        """Empty: there are rows, or of a relay. Else a row could not be written, and its function fails open."""
        if payload not in ("", RELAY_AWAKE) and self.is_up:
            logger.error("journal row lost", detail=payload[:200])
            self._tell(partial(self._listener.row_lost, payload))
        self._journal.woken(is_rival=payload == RELAY_AWAKE)
        self._wake.set()

    def _tell(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            logger.exception("notification to the relay failed, a new epoch begins")
            self._lose("handler_failed")

    def _given_up(self, channel: str) -> None:
        self._tell(partial(self._listener.channel_given_up, channel))
        self._wake.set()

    def _came_back(self, payload: str) -> None:
        if not self.is_up:
            # Here and not in the task: a notification may follow in this very iteration of the loop.
            self.is_up = True
            self.since_s = self._clock()
            self._was_proven = True
            self._listener.source_up(self._opened)
            self._wanted.answer_proven()
            for row in self._opened.rows if self._opened is not None else ():
                self._deliver(row.channel, row.payload)
            self._opened = None
            self._journal.opened_told()
        if not self._journal.loopback_returned(payload):
            self._listener.looped_back(payload, "")
        self._wake.set()

    def _handler_failed(self, channel: str) -> None:
        self.stats.handler_failures += 1
        logger.exception("notification failed, it became a gap", channel=channel)
        try:
            self._listener.notification_failed(channel)
        except Exception:
            logger.exception("gap failed, a new epoch begins", channel=channel)
            self._lose("handler_failed")

    def _terminated(self, connection: object) -> None:
        if connection is self._connection:
            self._lose("connection_lost")

    def waiting_since_s(self) -> float:
        """For the watchdog: since when the oldest answer is waited for; 0 when none is."""
        in_flight_s = self._loopback_sent_s if self._probe.is_in_flight else 0.0
        waiting_s = [since_s for since_s in (self._command_since_s, in_flight_s) if since_s > 0.0]
        return min(waiting_s, default=0.0)

    def overdue(self) -> None:
        self._lose("loopback_overdue")

    def _lose(self, reason: LossReason, **facts: str) -> None:
        """Give the connection up: tell it, cut it, wake the task. Waits for nothing."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._loss = reason
        was_up, self.is_up = self.is_up, False
        self._wanted.disprove()
        self._command_since_s = 0.0
        self._usage_due_s = 0.0
        self._token_pid = 0
        self._probe.reset()
        self._watchdog.stop()
        if was_up:
            self.since_s = self._lost_at_s = self._clock()
            self.stats.losses[reason] += 1
            if reason != "stopped":
                logger.warning("source lost", reason=reason, **facts)
            self._listener.source_lost(reason)
        # abort, not close: close would wait for a server that may never answer.
        connection.terminate()
        self._wake.set()
