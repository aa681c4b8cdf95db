"""Each figure moves when what it is named for happens: a count that nothing counts would look like good health."""

from __future__ import annotations

import dataclasses
import datetime

import pytest

from pgcachewatch.models import Event, Position
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.admission import Admission, AdmissionLimits
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.core.intake import Intake
from pgcachewatch_daemon.core.loopback import Loopback, LoopbackLimits
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.core.stats import AdmissionStats, HubStats, IntakeStats, LoopbackStats
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
Stats = AdmissionStats | HubStats | IntakeStats | LoopbackStats


class Hall:
    """A hub whose outboxes hold next to nothing, so that a few events make a reader slow."""

    def __init__(self) -> None:
        epochs = (f"{number:016x}" for number in range(1, 100))
        self.hub = Hub(
            MemoryBackplane(lambda: next(epochs)),
            History(HistoryLimits(events=20)),
            HubSettings("node", 500.0, OutboxLimits(bytes=1_000, keys=1)),
            framing=Framing(str.encode),
        )

    def join(self, *subscriptions: Subscription, resume: Position | None = None) -> Subscriber:
        place = messages.Resume(e=resume.epoch, s=resume.seq) if resume else None
        subscriber = self.hub.join(messages.Hello(resume=place), subscriptions, now_ms=0.0)
        subscriber.drain()
        return subscriber

    def publish(self, count: int) -> None:
        for number in range(count):
            event = Event.model_validate(
                {"channel": "c", "table": "t", "operation": "update", "sent_at": NOW, "keys": [str(number % 2)]}
            )
            self.hub.publish(event, channel="c", payload="{}", now_s=0.0)


def zeros(stats: Stats) -> list[str]:
    return [each.name for each in dataclasses.fields(stats) if not getattr(stats, each.name)]


@pytest.mark.parametrize("kind", [AdmissionStats, HubStats, IntakeStats, LoopbackStats])
def test_every_figure_starts_at_nothing_and_belongs_to_one_core(kind: type[Stats]) -> None:
    one, other = kind(), kind()
    assert zeros(one) == [each.name for each in dataclasses.fields(kind)]
    for each in dataclasses.fields(kind):
        if isinstance(counts := getattr(one, each.name), dict):
            counts["anything"] = 1
    assert other == kind()


def test_no_figure_of_the_intake_stands_still() -> None:
    intake = Intake()
    for payload in ("{", "[]", '{"table":"t"}'):
        intake.read("c", payload, received_at=NOW)
    assert intake.stats == IntakeStats(received=3, invalid={"not_json": 1, "not_an_object": 1, "malformed": 1})


def test_no_figure_of_admission_stands_still() -> None:
    admission = Admission(AdmissionLimits(connections=2, connections_per_address=1))
    for address in ("a", "a", "b", "c"):
        admission.enter(address)
    assert admission.stats == AdmissionStats(connections=2, refused={429: 1, 503: 1})


def test_no_figure_of_the_loopback_stands_still() -> None:
    loopback = Loopback(lambda: "nonce", LoopbackLimits(barriers=1))
    loopback.request("client", 1, now_ms=0.0)
    loopback.request("client", 2, now_ms=0.0)
    loopback.start(now_ms=0.0)
    loopback.returned("another")
    loopback.returned("nonce")
    assert loopback.stats == LoopbackStats(sent=1, returned=1, ignored=1, barriers=1, barriers_refused=1)


def test_no_figure_of_the_hub_stands_still() -> None:
    hall = Hall()
    hub = hall.hub
    first = hub.position
    hall.join(Subscription(1, 1, "c"))
    hall.join(Subscription(1, 1, "c"), Subscription(2, 2, "c", table="t"), Subscription(3, 3, "c", mode="stream"))
    hall.join(Subscription(1, 1, "c"), Subscription(2, 2, "c", table="t"))
    hub.join_plain("c")
    hall.publish(15)
    hall.join(Subscription(1, 1, "c"), resume=hub.position)
    hall.publish(15)
    hall.join(Subscription(1, 1, "c"), resume=Position(first.epoch, first.seq + 1))
    hub.mark(1.0)
    hub.source_lost("connection_lost", now_ms=0.0)
    hub.source_restored("connection_lost")
    hall.join(Subscription(1, 1, "c"), resume=first)
    assert zeros(hub.stats) == []


def test_who_has_left_is_not_counted_any_more() -> None:
    hall = Hall()
    visitors = [hall.join(Subscription(1, 1, "c"), Subscription(2, 2, "c", mode="stream")), hall.hub.join_plain("c")]
    for visitor in visitors:
        hall.hub.leave(visitor)
        hall.hub.leave(visitor)
    stats = hall.hub.stats
    now = (stats.clients, stats.plain_clients, stats.subscriptions_invalidate, stats.subscriptions_stream)
    assert now == (0, 0, 0, 0)
