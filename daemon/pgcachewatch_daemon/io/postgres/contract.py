"""What the source and those around it agree on: options, counts, and who is told what."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pgcachewatch_daemon.io.postgres.journal import JournalStats, Opened
from pgcachewatch_daemon.io.postgres.journal_feed import JournalOptions

LossReason = Literal[
    "connection_lost",
    "loopback_overdue",
    "handler_failed",
    "journal_lost",  # rows were taken away before they were read
    "journal_installed",
    "stopped",
]


# Nobody used it, and no resume could need it; or another channel needed its place.
GiveUpReason = Literal["unused", "displaced"]


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """`dsn` None: what libpq's environment says (PGHOST and so on)."""

    dsn: str | None = None
    heartbeat_s: float = 0.5
    idle_heartbeat_s: float = 15.0
    overdue_s: float = 3.0
    connect_timeout_s: float = 10.0
    reconnect_min_s: float = 0.1
    reconnect_max_s: float = 3.0
    queue_usage_interval_s: float = 10.0
    tcp_user_timeout_s: float = 15.0
    channels_limit: int = 1_000
    journal: JournalOptions = field(default_factory=JournalOptions)


@dataclass(slots=True)
class SourceStats:
    """Plain counts and texts, read when somebody asks."""

    connects: int = 0
    connect_failures: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    queue_usage: float = 0.0
    server: str = ""  # whom the last attempt was made with, without a password
    version: str = ""  # of the last that was up
    problem: str = ""  # why the last attempt failed, and what to do; empty once one succeeded
    channels: int = 0
    channels_unused: int = 0
    channels_given_up: Counter[str] = field(default_factory=Counter)  # by GiveUpReason
    handler_failures: int = 0
    journal: JournalStats = field(default_factory=JournalStats)


class Probe(Protocol):
    """The loopback's bookkeeping (core/loopback)."""

    @property
    def is_in_flight(self) -> bool: ...
    @property
    def wants_snapshot(self) -> bool: ...
    def start(self, *, now_ms: float) -> str: ...
    def overdue(self, now_ms: float, *, limit_ms: float) -> bool: ...
    def reset(self) -> None: ...


class SourceListener(Protocol):
    """Who hears from the source. All calls are synchronous and in order."""

    def notified(self, channel: str, payload: str) -> None: ...
    def notification_failed(self, channel: str) -> None: ...
    def looped_back(self, payload: str, position: str) -> None:
        """The nonce, and behind it the snapshot that the probe wanted; the journal was read up to `position`."""

    def token_notified(self, token: str) -> None:
        """A transaction named itself, whatever the text; more of what it notified may follow."""

    def tokens_settled(self) -> None:
        """Nothing more of the transactions follows whose tokens were told."""

    def catalogue_changed(self) -> None:
        """Somebody installed triggers, or took them away."""

    def row_lost(self, payload: str) -> None:
        """A function that fails open could not write its row; sql.entries says how the payload begins."""

    def source_up(self, journal: Opened | None) -> None:
        """`journal`: how it goes on, or begins; its rows follow. None: there is none."""

    def source_lost(self, reason: LossReason) -> None: ...

    def channel_listened(self, channel: str) -> None:
        """LISTEN on it is proven since this moment, in the middle of an epoch."""

    def channel_given_up(self, channel: str) -> None:
        """Nothing more is heard of it, until it is listened to anew."""
