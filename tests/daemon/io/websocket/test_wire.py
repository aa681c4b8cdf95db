"""What the shell and its application agree on."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from pgcachewatch import protocol
from pgcachewatch_daemon.io.websocket import Application, SocketStats
from pgcachewatch_daemon.io.websocket.wire import EVERYDAY_CODES, MEANINGS
from pgcachewatch_daemon.reception import Reception


def test_the_relays_reception_takes_each_call_of_an_application_as_it_is_made() -> None:
    calls = [name for name in vars(Application) if not name.startswith("_")]
    assert len(calls) >= 6
    for name in calls:
        wanted = list(inspect.signature(getattr(Application, name)).parameters)
        assert list(inspect.signature(getattr(Reception, name)).parameters) == wanted, name


def test_each_code_of_the_protocol_has_its_meaning_in_the_log() -> None:
    rules = Path(protocol.__file__).with_name("PROTOCOL.md").read_text(encoding="utf-8")
    table = "".join(line for line in rules.splitlines() if re.match(r"\| 4\dxx \|", line))
    codes = {int(code) for code in re.findall(r"\b4\d{3}\b", table)}
    assert len(codes) >= 15
    assert {code for code in MEANINGS if code >= 4_000} == codes
    assert MEANINGS.keys() >= EVERYDAY_CODES


def test_counts_of_two_servers_are_apart() -> None:
    one, other = SocketStats(), SocketStats()
    one.refusals[400] += 1
    one.disconnects[1000] += 1
    assert (other.refusals[400], other.disconnects[1000]) == (0, 0)
