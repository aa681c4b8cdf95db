"""The two halves of the readings are the table of metrics, each row once, in a relay and in a worker."""

from __future__ import annotations

import re

from pgcachewatch_daemon.core.stats import HubStats, TokenStats
from pgcachewatch_daemon.io.metrics import METRICS, Histogram
from pgcachewatch_daemon.io.websocket import SocketStats
from pgcachewatch_daemon.readings import Durations, client_readings
from pgcachewatch_daemon.relay import Relay, RelayOptions
from tests.tidy.tree import ROOT


def of_clients() -> dict[str, object]:
    sockets = SocketStats(frames=7)
    sockets.disconnects[4103] += 2
    hub = HubStats(clients=3, plain_clients=1, resumed=5)
    durations = Durations(Histogram(), Histogram(), Histogram())
    return dict(
        client_readings(hub, sockets, TokenStats(lost=4), durations, limit_refusals={"channels": 6}, clients_limit=10)
    )


async def test_a_relay_reads_each_row_of_the_table_and_no_other() -> None:
    relay = Relay(RelayOptions())
    assert set(relay.readings()) == {row.name for row in METRICS}
    assert relay.readings()["workers"] == 1


async def test_a_count_whose_increase_is_alerted_on_has_its_labels_from_the_start() -> None:
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    watched = set(re.findall(r"increase\(pgcachewatch_(\w+?)_total", alerts))
    readings = Relay(RelayOptions()).readings()
    assert {"source_losses", "gaps_received", "reloads"} <= watched
    # From nothing to 1 is no increase to Prometheus: the first of its kind would wake nobody.
    assert [name for name in sorted(watched) if readings[name] == {}] == []


def test_what_is_told_of_clients_is_a_part_of_it_with_the_labels_of_the_table() -> None:
    rows = {row.name: row for row in METRICS}
    for name, reading in of_clients().items():
        labels = rows[name].labels
        if isinstance(reading, dict):
            assert all(len(key) == len(labels) > 0 for key in reading), name
        else:
            assert labels == (), name


def test_counts_are_read_as_they_are() -> None:
    readings = of_clients()
    assert readings["frames_sent"] == 7
    assert readings["clients"] == {("v1",): 3, ("plain",): 1}
    assert readings["disconnects"] == {("4103",): 2.0}
    assert readings["resumes"] == {("resumed",): 5, ("epoch",): 0, ("history",): 0}
    assert readings["limit_refusals"] == {("channels",): 6.0, ("client_channels",): 0.0, ("subscriptions",): 0.0}
    assert readings["token_barriers"] == {("passed",): 0, ("lost",): 4, ("refused",): 0}
