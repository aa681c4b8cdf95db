"""What stands at both ends of the source's contract fits it."""

from __future__ import annotations

from typing import get_args

from pgcachewatch_daemon.core.loopback import Loopback, LoopbackLimits, LoopbackResult
from pgcachewatch_daemon.io.postgres import LossReason, Probe, SourceListener, SourceOptions, SourceStats
from pgcachewatch_daemon.relay import Relay, RelayOptions


def test_the_loopback_of_the_core_is_a_probe() -> None:
    loopback = Loopback(lambda: "nonce", LoopbackLimits())
    probe: Probe = loopback
    in_flight = [probe.is_in_flight]
    assert probe.start(now_ms=1_000.0) == "nonce"
    in_flight.append(probe.is_in_flight)
    assert not probe.overdue(1_500.0, limit_ms=1_000.0)
    assert probe.overdue(2_500.0, limit_ms=1_000.0)
    probe.reset()
    in_flight.append(probe.is_in_flight)
    assert in_flight == [False, True, False]
    probe.start(now_ms=3_000.0)
    assert isinstance(loopback.returned("nonce"), LoopbackResult)


async def test_the_relay_listens_to_its_source() -> None:
    relay = Relay(RelayOptions(port=0))
    listener: SourceListener = relay
    listener.source_up(None)
    listener.notified("channel", "not json")
    listener.notification_failed("channel")
    listener.looped_back("a nonce nobody sent", "")
    listener.row_lost("reset {}")
    listener.token_notified("no token")
    listener.tokens_settled()
    listener.catalogue_changed()
    listener.channel_listened("channel")
    listener.channel_given_up("channel")
    listener.source_lost("connection_lost")
    readings = relay.readings()
    gaps = readings["gaps_received"]
    assert isinstance(gaps, dict)
    assert gaps["not_json",] == 1.0
    assert readings["epoch_changes"] == {("start",): 1.0}


def test_a_source_starts_with_nothing_counted_and_a_heartbeat_shorter_than_its_patience() -> None:
    options, stats = SourceOptions(), SourceStats()
    assert stats.losses == {}
    assert options.heartbeat_s < options.overdue_s
    assert "loopback_overdue" in get_args(LossReason)
