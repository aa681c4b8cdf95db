"""Whole programs beside one another, on a machine that may have other work: what waits here waits long."""

from __future__ import annotations

import pytest

import pgcachewatch
from pgcachewatch_daemon.workers import scrape
from tests.waiting import LIMIT_S


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A barrier that nobody gave a time, and a worker that is asked what it counted, may be late."""
    for client in (pgcachewatch.Client, pgcachewatch.sync.Client):
        defaults = client.barrier.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "timeout", LIMIT_S)
    monkeypatch.setattr(scrape, "ANSWER_S", LIMIT_S)
