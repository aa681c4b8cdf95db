"""Says in the log that notifications could not be read, once per kind and minute: anybody may notify anything."""

from __future__ import annotations

from pgcachewatch.models import Gap
from pgcachewatch_daemon.lines import line_logger

REPEAT_LOG_S = 60.0

logger = line_logger(__name__)


class UnreadableLog:
    """Bound: one line per kind (core/intake.Fault) each REPEAT_LOG_S."""

    def __init__(self) -> None:
        self._said_s: dict[str, float] = {}

    def note(self, channel: str, gap: Gap, *, now_s: float) -> None:
        """`gap` took the place of a notification on `channel`."""
        kind = gap.detail.partition(":")[0]
        if now_s - self._said_s.get(kind, -REPEAT_LOG_S) >= REPEAT_LOG_S:
            self._said_s[kind] = now_s
            logger.warning("notification unreadable, a gap took its place", channel=channel, detail=gap.detail)
