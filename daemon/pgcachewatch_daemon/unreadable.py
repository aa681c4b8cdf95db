"""What takes the place of a notification that told nothing: gaps, and a line in the log.

The line comes once per kind and minute, as anybody may notify anything, and says how many it leaves out.
"""

from __future__ import annotations

from collections import Counter

from pgcachewatch.models import EVERYTHING, Gap, Scope
from pgcachewatch_daemon.lines import line_logger

REPEAT_LOG_S = 60.0
LOST_ROW_TEXT = 300

logger = line_logger(__name__)


def not_handled(channel: str) -> Gap:
    """For a notification on `channel` at which the relay itself failed."""
    return Gap(Scope(channel), "unreadable", "handling the notification failed")


def row_lost(payload: str) -> Gap:
    """For a row that a trigger which fails open could not write; `payload` says why."""
    return Gap(EVERYTHING, "unreadable", f"a row of the journal could not be written: {payload}"[:LOST_ROW_TEXT])


class UnreadableLog:
    """Bound: one line per kind (core/intake.Fault) each REPEAT_LOG_S."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}
        self._unsaid: Counter[str] = Counter()

    def note(self, channel: str, gap: Gap, *, now_s: float) -> None:
        """`gap` took the place of a notification on `channel`."""
        kind = gap.detail.partition(":")[0]
        if now_s - self._said_s.get(kind, -REPEAT_LOG_S) >= REPEAT_LOG_S:
            self._said_s[kind] = now_s
            unsaid = self._unsaid.pop(kind, 0)
            facts = {"suppressed": unsaid} if unsaid else {}
            logger.warning("notification unreadable, a gap took its place", channel=channel, detail=gap.detail, **facts)
        else:
            self._unsaid[kind] += 1
