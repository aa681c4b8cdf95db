"""Each way to be unwell has its own words, and says what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from pgcachewatch_daemon.health import checks, describe
from pgcachewatch_daemon.io.http import Check
from pgcachewatch_daemon.io.postgres import SourceStats


@dataclass
class Source:
    is_up: bool = True
    since_s: float = 90.0
    proof_limit_s: float = 3.5


def found(*, is_up: bool = True, proven_s: float | None = 99.5, draining_s: float | None = None) -> Sequence[Check]:
    return checks(
        Source(is_up=is_up),
        proven_ms=None if proven_s is None else proven_s * 1_000,
        loss="connection_lost",
        began_s=80.0,
        draining_since_s=draining_s,
        now_s=100.0,
    )


def test_a_relay_whose_loopback_came_back_lately_is_ready() -> None:
    assert [check.is_passing for check in found()] == [True, True, True]
    assert describe(found(), SourceStats()).state == "flowing"
    assert describe(found(), SourceStats()).since_s == 10.0


@pytest.mark.parametrize("proven_s", [None, 90.0])
def test_a_loopback_that_does_not_come_back_is_no_proof(proven_s: float | None) -> None:
    assert describe(found(proven_s=proven_s), SourceStats()).state == "unproven"


def test_what_a_failed_attempt_said_is_told_to_people() -> None:
    stats = SourceStats(problem="the server can not be reached; check host and port of the DSN")
    health = describe(found(is_up=False), stats)
    assert (health.state, health.title) == ("starting", "PostgreSQL was not reached yet")
    assert health.advice.startswith("The server can not be reached; check host and port of the DSN. Clients stop")
    stats.losses["connection_lost"] += 1
    assert describe(found(is_up=False), stats).state == "lost"


def test_a_loss_without_an_attempt_yet_is_told_by_its_reason() -> None:
    stats = SourceStats()
    stats.losses["connection_lost"] += 1
    assert "a failover" in describe(found(is_up=False), stats).advice


def test_who_is_told_to_stop_says_so_before_anything_else() -> None:
    health = describe(found(is_up=False, draining_s=98.0), SourceStats())
    assert (health.state, health.since_s) == ("draining", 2.0)
