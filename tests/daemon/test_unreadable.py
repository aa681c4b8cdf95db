"""Each kind of what can not be read is said once, and again after a while."""

from __future__ import annotations

import logging

import pytest

from pgcachewatch.models import Gap, Scope
from pgcachewatch_daemon.unreadable import REPEAT_LOG_S, UnreadableLog


def test_one_line_per_kind_and_while(caplog: pytest.LogCaptureFixture) -> None:
    log = UnreadableLog()
    with caplog.at_level(logging.WARNING):
        for now_s, kind in ((0.0, "not_json"), (1.0, "not_json"), (2.0, "malformed"), (REPEAT_LOG_S, "not_json")):
            log.note("ch", Gap(Scope("ch"), "unreadable", f"{kind}: 'x{now_s:g}'"), now_s=now_s)
    said = [record.getMessage() for record in caplog.records]
    assert [text.rpartition("detail=")[2] for text in said] == [
        "\"not_json: 'x0'\"",
        "\"malformed: 'x2'\"",
        f"\"not_json: 'x{REPEAT_LOG_S:g}'\"",
    ]
    assert all("channel=ch " in text for text in said)
