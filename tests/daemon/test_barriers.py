"""Each barrier is answered once, behind the events it speaks of, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pgcachewatch.models import Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import BarrierRequested, Subscription
from pgcachewatch_daemon.barriers import Barriers
from pgcachewatch_daemon.core.audience import Framing
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.core.loopback import Loopback, LoopbackLimits, LoopbackResult
from pgcachewatch_daemon.core.tokens import Tokens
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane

TOKEN = "0123456789abcdef0123456789abcdef"
PER_S = 10
LIMITS = LoopbackLimits(barriers_per_subscriber=1, barriers_per_s=PER_S)


class Stage:
    """The real cores, one client, and a clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self.hastened = 0
        self.hub = Hub(
            MemoryBackplane(lambda: "0" * 16),
            History(HistoryLimits()),
            HubSettings("node", 500.0),
            framing=Framing(str.encode),
        )
        self.loopback = Loopback(lambda: "nonce", LIMITS)
        self.barriers = Barriers(
            self.hub, self.loopback, Tokens(LIMITS), now_ms=lambda: self.now_ms, hasten=self._hasten
        )
        self.client = self.hub.join(messages.Hello(), [Subscription(1, 1, "c")], now_ms=0.0)
        self.told()

    def _hasten(self) -> None:
        self.hastened += 1

    def told(self) -> list[Any]:  # JSON
        return [json.loads(frame) for frame in self.client.drain()]

    def ask(self, identity: int, token: str | None = None) -> None:
        self.barriers.ask(self.client, BarrierRequested(identity, token))

    def loop_back(self) -> None:
        result = self.loopback.returned(self.loopback.start(now_ms=self.now_ms))
        assert isinstance(result, LoopbackResult)
        self.barriers.looped_back(result)


@pytest.mark.rule("W-BARRIER-1")
def test_a_barrier_without_a_token_waits_for_a_loopback_and_hastens_it() -> None:
    stage = Stage()
    stage.ask(5)
    assert (stage.told(), stage.hastened) == ([], 1)
    stage.loop_back()
    assert [(each["t"], each["id"]) for each in stage.told()] == [("barrierok", 5)]


@pytest.mark.rule("W-BARRIER-2")
def test_a_token_is_answered_behind_the_events_of_its_transaction() -> None:
    stage = Stage()
    stage.barriers.source_up()
    stage.barriers.token_notified(TOKEN)
    assert stage.hastened == 0, "nobody waits for it"
    stage.ask(5, TOKEN)
    assert stage.hastened == 1
    stage.hub.publish(Gap(Scope("c"), "unreadable"), channel="c", payload="", now_s=0.0)
    assert stage.barriers.tokens_settled()
    stage.ask(6, TOKEN)
    assert [each["t"] for each in stage.told()] == ["ev", "barrierok", "barrierok"]
    assert not stage.barriers.tokens_settled()


@pytest.mark.rule("W-BARRIER-2")
def test_a_token_that_comes_while_somebody_waits_hastens_a_loopback_that_settles_it() -> None:
    stage = Stage()
    stage.barriers.source_up()
    stage.now_ms = 1e6
    stage.ask(5, TOKEN)
    assert stage.hastened == 0, "a loopback can not make it commit"
    stage.barriers.token_notified(TOKEN)
    assert stage.hastened == 1


@pytest.mark.rule("W-BARRIER-2")
def test_a_token_is_lost_with_the_source_and_by_nothing_else() -> None:
    stage = Stage()
    stage.ask(1, TOKEN)
    stage.barriers.source_up()
    stage.ask(2, TOKEN)
    stage.now_ms = 5.0
    stage.loop_back()
    assert [(each["id"], each["code"]) for each in stage.told()] == [(1, "token_lost")]
    stage.barriers.source_lost()
    assert [(each["id"], each["code"]) for each in stage.told()] == [(2, "token_lost")]


def test_one_barrier_more_than_the_limit_is_refused_on_either_way() -> None:
    stage = Stage()
    stage.barriers.source_up()
    stage.ask(1)
    stage.ask(2)
    stage.ask(3, TOKEN)
    stage.ask(4, TOKEN)
    assert [(each["id"], each["code"]) for each in stage.told()] == [(n, "too_many_barriers") for n in (2, 4)]
    stage.barriers.drop(stage.client)
    stage.ask(5)
    stage.ask(6, TOKEN)
    assert stage.told() == []


@pytest.mark.rule("W-LIMIT-7")
def test_who_asks_too_often_is_told_when_to_ask_again_and_others_are_answered() -> None:
    stage = Stage()
    other = stage.hub.join(messages.Hello(), [Subscription(1, 1, "c")], now_ms=0.0)
    for identity in range(PER_S):
        stage.ask(identity)
        stage.loop_back()
    stage.told()
    stage.ask(99)
    (refused,) = stage.told()
    assert (refused["id"], refused["code"], refused["retry"]) == (99, "too_many_barriers", True)
    assert refused["after_ms"] == pytest.approx(1_000 / PER_S)
    other.drain()
    stage.barriers.ask(other, BarrierRequested(1))
    stage.loop_back()
    assert "barrierok" in {json.loads(frame)["t"] for frame in other.drain()}
    stage.now_ms += refused["after_ms"] + 0.001
    stage.ask(99)
    stage.loop_back()
    assert "barrierok" in {message["t"] for message in stage.told()}


def test_what_is_counted_of_a_client_goes_with_it() -> None:
    stage = Stage()
    stage.ask(1)
    stage.barriers.drop(stage.client)
    assert not stage.barriers._allowances
