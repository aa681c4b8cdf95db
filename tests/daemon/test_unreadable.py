"""Each kind of what can not be read is said once, and again after a while."""

from __future__ import annotations

import logging

import pytest

from pgcachewatch.models import EVERYTHING, Gap, Scope
from pgcachewatch_daemon.unreadable import LOST_ROW_TEXT, REPEAT_LOG_S, UnreadableLog, not_handled, row_lost


def test_one_line_per_kind_and_while(caplog: pytest.LogCaptureFixture) -> None:
    log = UnreadableLog()
    with caplog.at_level(logging.WARNING):
        for now_s, kind in ((0.0, "not_json"), (1.0, "not_json"), (2.0, "malformed"), (REPEAT_LOG_S, "not_json")):
            log.note("ch", Gap(Scope("ch"), "unreadable", f"{kind}: 'x{now_s:g}'"), now_s=now_s)
    said = [record.getMessage() for record in caplog.records]
    assert [text.rpartition("detail=")[2] for text in said] == [
        "\"not_json: 'x0'\"",
        "\"malformed: 'x2'\"",
        f"\"not_json: 'x{REPEAT_LOG_S:g}'\" suppressed=1",
    ]
    assert all("channel=ch " in text for text in said)


def test_a_notification_that_was_not_handled_flushes_its_channel() -> None:
    assert not_handled("ch").scope == Scope("ch")


def test_a_lost_row_flushes_everything_and_says_why_in_short() -> None:
    gap = row_lost("disk full " * 100)
    assert (gap.scope, len(gap.detail)) == (EVERYTHING, LOST_ROW_TEXT)
    assert gap.detail.startswith("a row of the journal could not be written: disk full")
