"""Step 1 of an event's path: the one LISTEN connection. See `source` for what it promises."""

from pgcachewatch_daemon.io.postgres.contract import (
    GiveUpReason,
    LossReason,
    Probe,
    SourceListener,
    SourceOptions,
    SourceStats,
)
from pgcachewatch_daemon.io.postgres.dsn import describe_dsn
from pgcachewatch_daemon.io.postgres.journal import JOURNAL_STATES, Held, Opened
from pgcachewatch_daemon.io.postgres.journal_feed import JournalOptions
from pgcachewatch_daemon.io.postgres.libpq import complete
from pgcachewatch_daemon.io.postgres.source import PostgresSource

__all__ = [
    "JOURNAL_STATES",
    "GiveUpReason",
    "Held",
    "JournalOptions",
    "LossReason",
    "Opened",
    "PostgresSource",
    "Probe",
    "SourceListener",
    "SourceOptions",
    "SourceStats",
    "complete",
    "describe_dsn",
]
