"""What the shell and its application agree on."""

from __future__ import annotations

import inspect

from pgcachewatch_daemon.io.websocket import Application, SocketStats
from pgcachewatch_daemon.reception import Reception


def test_the_relays_reception_takes_each_call_of_an_application_as_it_is_made() -> None:
    calls = [name for name in vars(Application) if not name.startswith("_")]
    assert len(calls) >= 6
    for name in calls:
        wanted = list(inspect.signature(getattr(Application, name)).parameters)
        assert list(inspect.signature(getattr(Reception, name)).parameters) == wanted, name


def test_counts_of_two_servers_are_apart() -> None:
    one, other = SocketStats(), SocketStats()
    one.refusals[400] += 1
    one.disconnects[1000] += 1
    assert (other.refusals[400], other.disconnects[1000]) == (0, 0)
