"""A loop that is kept from running shows in the histogram."""

from __future__ import annotations

import time

from pgcachewatch_daemon.lag import LoopLag


async def test_a_timer_that_runs_late_is_measured_and_armed_anew() -> None:
    measured = LoopLag()
    measured._sample(due_s=time.monotonic() - 0.3)
    assert measured._timer is not None
    assert not measured._timer.cancelled()
    measured.close()
    assert measured._timer.cancelled()
    assert 0.3 <= measured.seconds.total < 60.0
    assert sum(measured.seconds.counts) == 1
    assert sum(measured.seconds.counts[:8]) == 0, "0.3 s is in a bucket above 0.1 s"


async def test_a_loop_that_is_on_time_is_none() -> None:
    measured = LoopLag()
    measured._sample(due_s=time.monotonic() + 5.0)
    measured.close()
    assert measured.seconds.total == 0.0


async def test_closing_what_was_never_started_is_harmless() -> None:
    LoopLag().close()
