"""The package's logger: silent unless asked, and never a line for each of many."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from pgcachewatch.logconfig import EVERY_S, RateLimited, logger


class Clock:
    """The monotonic clock, at the test's word."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RateLimited:
    return RateLimited(logger, clock=clock)


def test_the_first_of_a_kind_is_logged_and_the_rest_of_the_period_is_not(
    log: RateLimited, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        log.warning("late", "event %d is late", number)
        clock.now_s += EVERY_S / 101

    assert caplog.messages == ["event 0 is late"]
    assert [(record.name, record.levelno) for record in caplog.records] == [("pgcachewatch", logging.WARNING)]


def test_after_the_period_the_next_is_logged_with_how_many_were_not(
    log: RateLimited, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for period in range(3):
        clock.now_s = period * EVERY_S
        for _ in range(3):
            log.warning("late", "period %d", period)

    more = " (2 more like this since the last one logged)"
    assert caplog.messages == ["period 0", f"period 1{more}", f"period 2{more}"]


def test_what_never_stops_is_logged_once_in_each_period(
    log: RateLimited, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(30):
        clock.now_s = number * EVERY_S / 10
        log.warning("late", "event %d", number)

    assert [message.split(" (")[0] for message in caplog.messages] == ["event 0", "event 10", "event 20"]


def test_kinds_do_not_silence_each_other(log: RateLimited, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("late", "late")
    log.warning("unreadable", "unreadable")

    assert caplog.messages == ["late", "unreadable"]


def test_what_is_logged_may_hold_percent_signs(log: RateLimited, caplog: pytest.LogCaptureFixture) -> None:
    log.warning("unreadable", "payload %s", "100 %s")

    assert caplog.messages == ["payload 100 %s"]


def test_a_program_that_does_not_configure_logging_sees_nothing() -> None:
    program = "from pgcachewatch.logconfig import RateLimited, logger; RateLimited(logger).warning('k', 'text')"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert (done.stdout, done.stderr) == (b"", b"")
