"""A socket is read while there is no reason not to, and who costs much gives others their turn."""

from __future__ import annotations

import asyncio

from pgcachewatch_daemon.io.websocket.pauses import ASKED, COSTLY_S, FULL, MEASURED_BYTES, RESTING, PausedReading
from pgcachewatch_daemon.io.websocket.shared import Shared
from pgcachewatch_daemon.io.websocket.wire import SocketLimits, SocketStats
from tests.daemon.io.websocket.site import Echo, Site, v1
from tests.waiting import eventually


class Transport(asyncio.Transport):
    """Only what matters here."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = True

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        assert self.is_read, "a pause of a pause is a mistake with some loops"
        self.is_read = False

    def resume_reading(self) -> None:
        assert not self.is_read
        self.is_read = True


class Paused(PausedReading):
    """Made public."""

    def __init__(self, shared: Shared) -> None:
        super().__init__(shared)
        self.transport = self._transport = Transport()
        self.pause, self.resume, self.spread, self.rested = self._pause, self._resume, self._spread, self._rested


def shared() -> Shared:
    return Shared(Echo(lambda: 0.0), SocketLimits(), lambda: 0.0, SocketStats())


def test_it_is_read_again_when_the_last_reason_has_ended() -> None:
    paused = Paused(shared())
    paused.pause(FULL)
    paused.pause(ASKED)
    paused.pause(FULL)
    paused.resume(FULL)
    assert not paused.transport.is_read
    paused.resume(FULL)
    paused.resume(ASKED)
    assert paused.transport.is_read


async def test_those_who_cost_much_are_counted_while_they_pause() -> None:
    common = shared()
    first, second = Paused(common), Paused(common)
    first.spread(COSTLY_S / 2)
    assert first.transport.is_read
    for each in (first, second):
        each.spread(COSTLY_S)
        assert not each.transport.is_read
    assert common.costly == 2
    for each in (first, first, second):
        each.rested()
    assert common.costly == 0
    assert first.transport.is_read


async def test_who_costs_much_is_not_read_for_a_while_and_others_are(site: Site) -> None:
    worked_s = iter(range(1_000))
    async with v1(site.url) as costly, v1(site.url) as other:
        site.server._shared.work_clock = lambda: next(worked_s)
        await costly.send("x" * MEASURED_BYTES)
        assert await costly.recv() == "x" * MEASURED_BYTES
        await costly.send("more")
        for number in range(20):
            await other.send(str(number))
            assert await other.recv() == str(number)
        assert "more" not in site.application.received_frames
        await site.server.close()


async def test_who_rests_is_not_read_and_goes_on_behind_it_also_when_it_closes_meanwhile() -> None:
    common = shared()
    resting, closing = Paused(common), Paused(common)
    ended: list[bool] = []
    resting.rest(0.0, lambda: ended.append(resting.transport.is_read))
    closing.rest(0.0, lambda: ended.append(closing.transport.is_read))
    closing.resume(RESTING)
    assert (resting.transport.is_read, closing.transport.is_read, common.costly) == (False, True, 2)
    await eventually(lambda: len(ended) == 2)
    assert (ended, common.costly) == ([True, True], 0)
