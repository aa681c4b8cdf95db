"""Each message arrives as it was said."""

from __future__ import annotations

import datetime
from typing import get_args

import pytest

from pgcachewatch.models import Gap, Scope
from pgcachewatch_daemon.core.history import JournalFloor
from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.core.tokens import Memory
from pgcachewatch_daemon.io.metrics import Histogram
from pgcachewatch_daemon.relay import RelayOptions
from pgcachewatch_daemon.workers import messages
from pgcachewatch_daemon.workers.framing import Decoder, encode
from pgcachewatch_daemon.workers.messages import AS_READ, TABLE_WIDE, Message

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
GAP = Gap(Scope(None, "users", "public"), "table_wide", "why")
SAID: list[Message] = [
    messages.Changes(
        [(1, 0.5, AT, "ch", "{}", AS_READ), (2, 1.5, AT, "ch", "{}", TABLE_WIDE), (3, 2.0, AT, "", "", GAP)]
    ),
    messages.Start(1, RelayOptions(port=1), (7, 8), 20),
    messages.Begin("e" * 16, 3, JournalFloor(Snapshot(5, 9, frozenset({7})), 4)),
    messages.Here(True, 1.0, "start", {"ch": 0}, 2.0, 3.5, Memory(None, {"t": 1.0}, {}), b"x", 0.5),
    messages.LoopedBack(1.5, "10:20:", 3.5, "5:9:7"),
    messages.TokenNotified("0" * 32),
    messages.TokensSettled(),
    messages.SourceUp(messages.Begin("e" * 16, 0), ("ch",), 1.0),
    messages.SourceUp(None, ("ch",), 1.0),
    messages.SourceLost("connection_lost", 1.0),
    messages.Listening("ch", 5, 1),
    messages.ListenRefused("ch", "why", 3, 1),
    messages.Looked(1.0, b"", frozenset({"users"})),
    messages.ClosePlain("why"),
    messages.Ask(1),
    messages.Ask(2, wants_clients=True, wants_tables=True),
    messages.AskStatus(),
    messages.StatusShown(b"{}"),
    messages.Exposed(b"text"),
    messages.Exposed(b"text", is_openmetrics=True),
    messages.Reload(RelayOptions(port=1), 20),
    messages.Drain(),
    messages.Hello(),
    messages.Serving(8420),
    messages.Ensure("ch", 1),
    messages.Release("ch"),
    messages.Hasten(0.0),
    messages.HastenLook(),
    messages.State(is_busy=True, has_stamps=False),
    messages.AskMetrics(),
    messages.Counted(1, {"writes": 2, "clients": {("v1",): 1.0}, "barrier_seconds": Histogram()}),
]


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_a_message_arrives_as_it_was_said(message: Message) -> None:
    assert Decoder().feed(encode([message])) == [message]


def test_none_is_left_out_here() -> None:
    assert {type(message) for message in SAID} == set(get_args(Message))
