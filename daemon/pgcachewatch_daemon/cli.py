"""`pgcachewatch serve`: settings in, a relay out, and an exit code that says how it ended.

0 after SIGTERM or Ctrl-C and a drain; 1 when the port can not be had, or workers end each time they are started; 2 for
a setting that can not work, with one sentence that says which, from where, and what is allowed. A second signal ends
the process at once, with 128 plus the signal's number. SIGHUP reads all sources of settings anew, see `reloading`. Log
lines go to standard error: one per change of state, `key=value`, never with a password.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pydantic

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Loaded, Settings
from pgcachewatch_config.command_line import Parser, add_options, read
from pgcachewatch_daemon import tracing
from pgcachewatch_daemon.authentication import AccessOptions, prove
from pgcachewatch_daemon.core.admission import AdmissionLimits
from pgcachewatch_daemon.core.consumers import ConsumerLimits
from pgcachewatch_daemon.core.history import HistoryLimits
from pgcachewatch_daemon.core.loopback import LoopbackLimits
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.core.wakefulness import WakeOptions
from pgcachewatch_daemon.io.catalogue import CatalogueOptions
from pgcachewatch_daemon.io.jwt import Rules
from pgcachewatch_daemon.io.postgres import JournalOptions, SourceOptions, complete
from pgcachewatch_daemon.io.supervisor import Supervisor
from pgcachewatch_daemon.io.websocket import SocketLimits, TlsOptions
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.posts import ConsumerOptions
from pgcachewatch_daemon.process import leave_a_trace, log_to_stderr, loop_factory
from pgcachewatch_daemon.readings import package_version
from pgcachewatch_daemon.relay import Relay, RelayOptions
from pgcachewatch_daemon.reloading import Reloading, warn
from pgcachewatch_daemon.showing import shown
from pgcachewatch_daemon.workers.primary import CAN_HAVE_WORKERS, PrimaryRelay
from pgcachewatch_daemon.workers.staff import WorkersFailed

EXIT_UNAVAILABLE = 1
EXIT_CONFIGURATION = 2
EXIT_SIGNAL_BASE = 128
VERIFY = "sslmode=verify-full, which proves who the server is"

logger = line_logger(__name__)


def serve(arguments: list[str]) -> int:
    """the relay: one LISTEN connection to PostgreSQL, many clients"""
    given = _parser().parse_args(arguments)
    try:
        return _serve_with(read(given), partial(read, given))
    except ConfigurationError as error:
        sys.stderr.write(f"pgcachewatch serve: {error}\n")
        return EXIT_CONFIGURATION


def _serve_with(loaded: Loaded, read_anew: Callable[[], Loaded]) -> int:
    settings = loaded.settings
    options = relay_options(settings)
    options.tls.check()
    if options.is_tracing:
        tracing.check()
    prove(options.access, options.host)
    if settings.workers > 1 and not CAN_HAVE_WORKERS:
        sys.stderr.write("pgcachewatch serve: this system has no unix sockets to join workers by; set workers to 1\n")
        return EXIT_CONFIGURATION
    leave_a_trace()
    log_to_stderr(settings.log_level.upper(), log_format=settings.log_format)
    _say_what_starts(settings)
    warn(loaded)
    _say_what_is_not_enforced(settings)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_serve(options, settings, read_anew))


def _say_what_starts(settings: Settings) -> None:
    """Names of options only: whoever reads a log at night wants to know what is unusual, and values may be secret."""
    set_options = [name for name, field in Settings.model_fields.items() if getattr(settings, name) != field.default]
    logger.info(
        "relay starting",
        version=package_version(),
        python=platform.python_version(),
        node=settings.node or socket.gethostname(),
        database=shown("listen_dsn", settings.listen_dsn or settings.dsn),
        workers=settings.workers,
        set_options=",".join(set_options),
    )


def _say_what_is_not_enforced(settings: Settings) -> None:
    for dsn in filter(None, (settings.dsn, settings.listen_dsn)):
        for parameter in complete(dsn.get_secret_value()).unmet:
            logger.warning("the DSN demands what the driver can not do", parameter=parameter, try_instead=VERIFY)


def relay_options(settings: Settings) -> RelayOptions:
    """Settings as the plain values that are handed down."""
    return RelayOptions(
        host=settings.host,
        port=settings.port,
        channel=settings.channel,
        node=settings.node,
        hello_timeout_s=settings.hello_timeout_s,
        subscriptions_limit=settings.subscriptions_limit,
        client_channels_limit=settings.client_channels_limit,
        compression=settings.compression,
        drain_grace_s=settings.drain_grace_s,
        drain_jitter_s=settings.drain_jitter_s,
        workers=settings.workers,
        page=settings.page,
        log_format=settings.log_format,
        is_tracing=settings.tracing,
        source=_source_options(settings),
        catalogue=CatalogueOptions(
            dsn=_completed(settings.dsn or settings.listen_dsn),
            interval_s=settings.drift_check_s,
            connect_timeout_s=settings.connect_timeout_s,
        ),
        sockets=SocketLimits(
            send_buffer_bytes=settings.send_buffer_bytes,
            handshakes_limit=settings.handshakes_limit,
            handshake_s=settings.handshake_timeout_s,
            write_stall_s=settings.write_stall_s,
            ping_after_s=settings.ping_interval_s,
            pong_s=settings.pong_timeout_s,
        ),
        tls=TlsOptions(settings.tls_certificate_file, settings.tls_key_file, settings.tls_client_ca_file),
        trusted_proxies=settings.trusted_proxies,
        history=HistoryLimits(
            events=settings.history_events, bytes=settings.history_bytes, age_s=settings.history_age_s
        ),
        outbox=OutboxLimits(bytes=settings.outbox_bytes),
        barriers=LoopbackLimits(
            barriers=settings.barriers_limit,
            barriers_per_subscriber=settings.barriers_per_connection_limit,
            barriers_per_s=settings.barrier_rate,
        ),
        admission=AdmissionLimits(
            connections=settings.connections_limit,
            connections_per_address=settings.connections_per_address_limit,
            handshakes_per_s=settings.handshake_rate,
        ),
        consumers=_consumer_options(settings),
        access=_access_options(settings),
    )


def _source_options(settings: Settings) -> SourceOptions:
    return SourceOptions(
        dsn=_completed(settings.listen_dsn or settings.dsn),
        heartbeat_s=settings.heartbeat_s,
        idle_heartbeat_s=settings.idle_heartbeat_s,
        overdue_s=settings.loopback_overdue_s,
        connect_timeout_s=settings.connect_timeout_s,
        reconnect_min_s=settings.reconnect_min_s,
        reconnect_max_s=settings.reconnect_max_s,
        queue_usage_interval_s=settings.queue_usage_interval_s,
        tcp_user_timeout_s=settings.tcp_user_timeout_s,
        channels_limit=settings.channels_limit,
        journal=JournalOptions(
            wake=WakeOptions(poll_s=settings.journal_poll_ms / 1_000, is_gated=settings.journal_wake == "gated"),
            history_rows=settings.history_events,
            retention_s=settings.journal_retention_s,
            rows_limit=settings.journal_rows_limit,
            hold_s=settings.consumer_hold_s,
        ),
    )


def _completed(dsn: pydantic.SecretStr | None) -> str | None:
    return complete(dsn.get_secret_value() if dsn else None).dsn


def _consumer_options(settings: Settings) -> ConsumerOptions:
    limits = ConsumerLimits(
        timeout_s=settings.consumer_timeout_s, tries=settings.consumer_tries, retry_s=settings.consumer_retry_s
    )
    return ConsumerOptions(limits, consumers=settings.consumers_limit)


def _access_options(settings: Settings) -> AccessOptions:
    return AccessOptions(
        allow_anonymous=settings.allow_anonymous,
        tokens_file=settings.tokens_file,
        jwt_secret=settings.jwt_secret.get_secret_value() if settings.jwt_secret else "",
        jwt_keys_file=settings.jwt_keys_file,
        jwks_url=settings.jwt_jwks_url,
        jwks_refresh_s=settings.jwt_jwks_refresh_s,
        rules=Rules(
            algorithms=settings.jwt_algorithms,
            audience=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            leeway_s=settings.jwt_leeway_s,
        ),
        allowed_origins=settings.allowed_origins,
        needs_certificate=bool(settings.tls_client_ca_file),
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="pgcachewatch serve",
        description="Run the relay: one LISTEN connection to PostgreSQL, many clients.",
        allow_abbrev=False,
    )
    add_options(parser)
    return parser


async def _serve(options: RelayOptions, settings: Settings, read_anew: Callable[[], Loaded]) -> int:
    relay = Relay(options) if options.workers == 1 else PrimaryRelay(options)
    reloading = Reloading(
        settings, read=read_anew, prepare=lambda new: relay.prepare(relay_options(new)), results=relay.reloads
    )
    supervisor = Supervisor(os.environ, pid=os.getpid())

    def stop() -> None:
        supervisor.stopping()
        relay.stop()

    _handle_signals(stop, reloading.ask)
    asyncio.get_running_loop().set_exception_handler(_leave_out_late_lookups)
    try:
        problem = await _run(relay, options, supervisor)
    finally:
        await reloading.close()
        await relay.close()
        supervisor.close()
    if problem:
        sys.stderr.write(f"pgcachewatch serve: {problem}\n")
    return EXIT_UNAVAILABLE if problem else 0


async def _run(relay: Relay | PrimaryRelay, options: RelayOptions, supervisor: Supervisor) -> str:
    """Until it is stopped and drained; why it could not serve, else nothing."""
    try:
        try:
            await relay.start()
        except OSError as error:
            return _explain(error, options)
        supervisor.ready()
        await relay.run()
    except WorkersFailed as error:
        return str(error)
    return ""


def _explain(error: OSError, options: RelayOptions) -> str:
    place = f"{options.host}:{options.port}"
    if error.errno == errno.EADDRINUSE:
        return f"{place} is in use; end the program that listens there, or choose another --port"
    return f"can not listen on {place} ({error}); check --host and --port"


def _leave_out_late_lookups(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # Any: asyncio's own
    """Log what nobody handled, as the loop does by itself, but for one thing.

    When an attempt to connect times out in the name lookup, uvloop lets the lookup go on with nobody to tell. Each
    would be an ERROR line, behind the source's own that already says that the server can not be reached.
    """
    if not isinstance(context.get("exception"), socket.gaierror):
        loop.default_exception_handler(context)


def _handle_signals(stop: Callable[[], None], reload: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    signals_seen = 0

    def handle(number: signal.Signals) -> None:
        nonlocal signals_seen
        signals_seen += 1
        if signals_seen > 1:
            # Whoever asks twice does not want to wait for clients, nor for anything else.
            os._exit(EXIT_SIGNAL_BASE + number)
        logger.info("signal received", signal=number.name)
        stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # a loop without signals: Ctrl-C still raises
            loop.add_signal_handler(number, handle, number)
    if hasattr(signal, "SIGHUP"):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(signal.SIGHUP, reload)
