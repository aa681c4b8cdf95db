"""The values of io/metrics.METRICS, read from the counts of the parts at scrape time.

In two halves, because they may be counted in different processes: what is known of PostgreSQL and the log of changes
(`source_readings`), and what is known of clients (`client_readings`), of which each worker has its own part.
Together they have each row of the table once; the exposition fails loudly when one is missing.
"""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, get_args

from pgcachewatch_daemon.authentication import Authentication
from pgcachewatch_daemon.consuming import Consuming
from pgcachewatch_daemon.core.intake import Fault
from pgcachewatch_daemon.core.stats import HubStats, IntakeStats, TokenStats
from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.io.catalogue import CatalogueStats
from pgcachewatch_daemon.io.http import Check
from pgcachewatch_daemon.io.metrics import Histogram, Reading
from pgcachewatch_daemon.io.postgres import JOURNAL_STATES, GiveUpReason, LossReason, SourceStats
from pgcachewatch_daemon.io.websocket import SocketStats

SUBSCRIPTION_LIMITS = ("subscriptions", "client_channels", "channels")
RELOADS = ("applied", "refused")


class Log(Protocol):
    """The events kept for clients that come back."""

    @property
    def events(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    def oldest_age_s(self, now_s: float) -> float: ...


@dataclass(frozen=True, slots=True)
class Workforce:
    """The processes that serve clients: those that do now, and counts since the start."""

    alive: int = 1
    restarts: int = 0
    silences: int = 0


@dataclass(frozen=True, slots=True)
class Durations:
    """Of one process that serves clients."""

    barrier: Histogram
    fanout: Histogram
    lag: Histogram


def source_readings(
    source: SourceStats,
    *,
    checks: Sequence[Check],
    loopback_seconds: Histogram,
    intake: IntakeStats,
    inspection: Inspection,
    catalogue: CatalogueStats,
    epoch_changes: Mapping[str, int],
    reloads: Mapping[str, int],
    log: Log,
    now_s: float,
    workforce: Workforce,
    consumer_lag_s: float,
) -> dict[str, Reading]:
    """What is counted once in a relay."""
    by_name = {check.name: check for check in checks}
    return {
        "ready": float(all(check.is_passing for check in checks)),
        "source_up": float(by_name["source"].is_passing),
        "source_connects": source.connects,
        "source_connect_failures": source.connect_failures,
        "source_losses": _labelled(source.losses, get_args(LossReason)),
        "source_channels": source.channels,
        "source_channels_unused": source.channels_unused,
        "source_channels_given_up": _labelled(source.channels_given_up, get_args(GiveUpReason)),
        "notify_queue_usage_ratio": source.queue_usage,
        "loopback_age_seconds": by_name["loopback"].since_s,
        "loopback_seconds": loopback_seconds,
        "journal_state": {(state,): float(source.journal.state == state) for state in JOURNAL_STATES},
        "journal_rows": source.journal.rows,
        "journal_polls": source.journal.polls,
        "journal_wakes": source.journal.wakes,
        "journal_losses": source.journal.resets,
        "consumer_lag_seconds": consumer_lag_s,
        "drift_findings": _labelled(inspection.stats.findings),
        "drift_gaps": inspection.stats.gaps,
        "drift_checks": _labelled(catalogue.looks),
        "catalogue_age_seconds": inspection.age_s,
        "epoch_changes": _labelled(epoch_changes),
        "events_received": intake.received - sum(intake.invalid.values()),
        "gaps_received": _labelled(intake.invalid, get_args(Fault)),
        "handler_failures": source.handler_failures,
        "history_events": log.events,
        "history_bytes": log.size_bytes,
        "history_age_seconds": log.oldest_age_s(now_s),
        "reloads": _labelled(reloads, RELOADS),
        "workers": workforce.alive,
        "worker_restarts": workforce.restarts,
        "worker_silences": workforce.silences,
        "build_info": {(package_version(), platform.python_version()): 1.0},
    }


def access_readings(authentication: Authentication) -> dict[str, Reading]:
    """Of who came in and who did not; never who it was."""
    return {
        "authentications": _labelled(authentication.results),
        "key_fetches": _labelled(authentication.key_fetches),
    }


def consumer_readings(consuming: Consuming) -> dict[str, Reading]:
    """Of durable consumers. Their names come from clients, so none is a label."""
    stats = consuming.stats
    return {
        "consumers": consuming.consumers,
        "consumer_clients": consuming.takers,
        "consumer_pending": consuming.pending,
        "consumer_jobs": stats.jobs,
        "consumer_redeliveries": stats.redeliveries,
        "consumer_timeouts": stats.timeouts,
        "consumer_dead_letters": stats.letters,
        "consumer_gaps": stats.gaps,
    }


def client_readings(
    hub: HubStats,
    sockets: SocketStats,
    tokens: TokenStats,
    durations: Durations,
    *,
    limit_refusals: Mapping[str, int],
    clients_limit: int,
) -> dict[str, Reading]:
    """What is counted in each process that serves clients."""
    return {
        "barrier_seconds": durations.barrier,
        "token_barriers": {("passed",): tokens.passed, ("lost",): tokens.lost, ("refused",): tokens.refused},
        "clients": {("v1",): hub.clients, ("plain",): hub.plain_clients},
        "clients_limit": clients_limit,
        "commit_to_fanout_seconds": durations.fanout,
        "subscriptions": {("invalidate",): hub.subscriptions_invalidate, ("stream",): hub.subscriptions_stream},
        "frames_sent": sockets.frames,
        "bytes_sent": sockets.bytes,
        "writes": sockets.writes,
        "conflations": {
            ("key",): hub.conflated_key,
            ("subscription",): hub.conflated_subscription,
            ("everything",): hub.conflated_everything,
        },
        "stream_overflows": hub.overflowed_streams,
        "write_stalls": sockets.write_stalls,
        "disconnects": _labelled(sockets.disconnects),
        "refusals": _labelled(sockets.refusals),
        "limit_refusals": _labelled(limit_refusals, SUBSCRIPTION_LIMITS),
        "evicted_handshakes": sockets.evicted_handshakes,
        "tls_failures": sockets.tls_failures,
        "tls_certificate_not_after_seconds": sockets.tls_not_after_s,
        "resumes": {
            ("resumed",): hub.resumed,
            ("epoch",): hub.not_resumed_epoch,
            ("history",): hub.not_resumed_history,
        },
        "event_loop_lag_seconds": durations.lag,
    }


def _labelled(
    counts: Mapping[str, int] | Mapping[int, int], known: Collection[str] = ()
) -> dict[tuple[str, ...], float]:
    """`known` labels are there from the start, at 0.

    A series that begins at 1 has not increased: an alert on `increase()` would sleep through the first of its kind.
    """
    found: dict[tuple[str, ...], float] = {(label,): 0.0 for label in known}
    return found | {(str(label),): float(count) for label, count in counts.items()}


def package_version() -> str:
    """Of this package, as it is installed."""
    try:
        return version("pgcachewatch")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
