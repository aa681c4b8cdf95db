"""The socket loop: silence, reconnecting, refusals, failing over. Time is virtual."""

from __future__ import annotations

import asyncio

import pytest

from pgcachewatch import testing
from pgcachewatch.aio.connection import HEARTBEAT_MOST_S, Link, LinkLost, LinkRefused, Receiver
from pgcachewatch.errors import NotFresh, Refused
from pgcachewatch.protocol import codec
from pgcachewatch.protocol.transitions import Trust
from pgcachewatch.testing import HEARTBEAT_S, FakeRelay
from tests.client.aio.rig import ATTEMPT_TIMEOUT_S, STALENESS_S, Rig
from tests.client.virtual_time import VirtualTimeLoop, until, virtual_time


class SilentLink:
    """Takes everything and says nothing, as a half-open socket does."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.is_aborted = False

    def send(self, text: str) -> None:
        self.sent.append(text)

    def abort(self) -> None:
        self.is_aborted = True

    async def close(self, code: int, reason: str) -> None:
        await asyncio.sleep(3600)  # nobody answers the close frame


@virtual_time
async def test_a_relay_that_never_welcomes_is_given_up_and_tried_again() -> None:
    links: list[SilentLink] = []

    async def open_link(url: str, receiver: Receiver) -> Link:
        links.append(SilentLink())
        return links[-1]

    loop = asyncio.get_running_loop()
    started_s = loop.time()
    async with Rig(FakeRelay(), open_link=open_link, has_loop_time=True, waits=False):
        await until(lambda: len(links) == 2)
        assert links[0].is_aborted
        assert loop.time() - started_s < ATTEMPT_TIMEOUT_S * 2


@virtual_time
async def test_a_half_open_link_is_dropped_after_the_silence_limit() -> None:
    relay = FakeRelay()
    async with Rig(relay, has_loop_time=True) as rig:
        await rig.live()
        relay.mute()
        loop = asyncio.get_running_loop()
        muted_s = loop.time()
        await until(lambda: rig.connection.stage != "open")
        limit_s = max(3 * HEARTBEAT_S, STALENESS_S)
        assert limit_s <= loop.time() - muted_s <= limit_s * 1.5


@virtual_time
async def test_a_relay_that_announces_no_heartbeat_for_days_is_found_dead_all_the_same() -> None:
    relay = FakeRelay()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testing, "HEARTBEAT_S", 1e6)
        async with Rig(relay, has_loop_time=True) as rig:
            await rig.live()
            relay.mute()
            loop = asyncio.get_running_loop()
            muted_s = loop.time()
            await until(lambda: rig.connection.stage != "open")
            assert loop.time() - muted_s <= 3 * HEARTBEAT_MOST_S * 1.5


@virtual_time
async def test_a_loop_that_was_blocked_does_not_cost_the_link() -> None:
    relay = FakeRelay()
    async with Rig(relay, has_loop_time=True) as rig:
        await rig.live()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        for _ in range(5):
            loop.block(STALENESS_S * 10)
            await asyncio.sleep(STALENESS_S)
        assert relay.connects == 1


@virtual_time
async def test_a_relay_without_a_source_that_answers_pings_is_kept() -> None:
    relay = FakeRelay()
    async with Rig(relay, has_loop_time=True) as rig:
        await rig.live()
        relay.lose_source()  # no marks from here on, only pongs
        await asyncio.sleep(60)
        assert relay.connects == 1
        assert rig.connection.stage == "open"


@virtual_time
async def test_a_clock_sample_is_taken_after_connecting_and_about_once_a_minute() -> None:
    asked: list[float] = []
    relay = FakeRelay()
    loop = asyncio.get_running_loop()

    async def open_link(url: str, receiver: Receiver) -> Link:
        link = await relay.open_link(url, receiver)
        send = link.send

        def spy(text: str) -> None:
            if '"ping"' in text:
                asked.append(loop.time())
            send(text)

        link.send = spy  # type: ignore[method-assign]  # a spy around the real one
        return link

    async with Rig(relay, open_link=open_link, has_loop_time=True):
        started_s = loop.time()
        while loop.time() - started_s < 130:
            relay.advance(0)  # a mark, so that no ping is needed to break a silence
            await asyncio.sleep(HEARTBEAT_S)
    assert [round(at - started_s) for at in asked] == [0, 60, 120]


@virtual_time
async def test_a_cut_link_is_open_again_within_the_first_delay() -> None:
    relay = FakeRelay()
    async with Rig(relay, chance=0.99) as rig:
        await rig.live()
        loop = asyncio.get_running_loop()
        cut_s = loop.time()
        relay.close(1006)
        assert rig.watch.freshness.trust is Trust.SUSPECT
        await rig.live()
        assert loop.time() - cut_s <= 0.051


@virtual_time
async def test_a_code_for_good_stops_and_tells_who_waits() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        relay.lose_source()
        barrier = asyncio.create_task(rig.watch.barriers.wait(timeout_s=60))
        await asyncio.sleep(0)
        relay.close(4303, "forbidden")
        with pytest.raises(Refused, match="forbidden") as caught:
            await barrier
        assert caught.value.code == 4303
        with pytest.raises(Refused):
            await rig.watch.until(lambda: rig.watch.is_live, timeout_s=1)
        assert rig.task is not None
        await rig.task  # it ended by itself


@virtual_time
async def test_an_unauthorized_upgrade_stops() -> None:
    relay = FakeRelay()
    relay.refuse(401)
    async with Rig(relay, waits=False) as rig:
        with pytest.raises(Refused, match="401"):
            await rig.watch.until(lambda: rig.watch.is_live, timeout_s=60)


@virtual_time
async def test_a_busy_relay_is_tried_again_after_the_time_it_asks_for() -> None:
    relay = FakeRelay()
    relay.refuse(503, retry_after_s=7.0)
    async with Rig(relay, waits=False) as rig:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        await asyncio.sleep(1.0)
        relay.refuse(0)
        await rig.live()
        assert 7.0 <= loop.time() - started_s < 8.0


@virtual_time
async def test_another_relay_is_tried_when_one_can_not_be_reached() -> None:
    relay = FakeRelay()
    tried: list[str] = []

    async def open_link(url: str, receiver: Receiver) -> Link:
        tried.append(url)
        if url == "ws://one":
            raise ConnectionRefusedError("nobody listens")
        return await relay.open_link(url, receiver)

    async with Rig(relay, urls=["ws://one", "ws://two"], open_link=open_link) as rig:
        await rig.live()
        relay.close(1006)
        await rig.live()
        assert tried == ["ws://one", "ws://two", "ws://two"]
        assert rig.watch.resumes == 1


@virtual_time
async def test_a_relay_with_another_epoch_flushes() -> None:
    first, second = FakeRelay(), FakeRelay()
    first.gap()  # so that the epochs differ

    async def open_link(url: str, receiver: Receiver) -> Link:
        return await (first if url == "ws://one" else second).open_link(url, receiver)

    async with Rig(first, urls=["ws://one", "ws://two"], open_link=open_link) as rig:
        cache, reader = rig.cache("users")
        await rig.live()
        before = cache.flushes
        first.refuse(503)
        first.close(4000, "drain")
        await rig.live()
        assert second.connects == 1
        assert cache.flushes > before
        assert reader.is_live


@virtual_time
async def test_bye_is_waited_out() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        loop = asyncio.get_running_loop()
        relay.send('{"t":"bye","code":4000,"after_ms":3000,"jitter_ms":0}')
        relay.close(4000)
        left_s = loop.time()
        await rig.live()
        assert 3.0 <= loop.time() - left_s < 4.0


@virtual_time
async def test_a_transport_that_surprises_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    relay = FakeRelay()
    attempts = 0

    async def open_link(url: str, receiver: Receiver) -> Link:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ZeroDivisionError("a surprise")
        return await relay.open_link(url, receiver)

    async with Rig(relay, open_link=open_link) as rig:
        await rig.live()
        assert "unexpected" in caplog.text


@virtual_time
async def test_an_attempt_that_hangs_is_given_up() -> None:
    relay = FakeRelay()
    attempts = 0

    async def open_link(url: str, receiver: Receiver) -> Link:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.sleep(3600)
        return await relay.open_link(url, receiver)

    async with Rig(relay, open_link=open_link) as rig:
        await rig.live()
        assert attempts == 2


@virtual_time
async def test_a_link_that_is_lost_while_it_opens_counts_as_lost() -> None:
    relay = FakeRelay()
    attempts = 0

    async def open_link(url: str, receiver: Receiver) -> Link:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            receiver.lost(LinkLost(None, "gone already"))
        return await relay.open_link(url, receiver)

    async with Rig(relay, open_link=open_link) as rig:
        await rig.live()
        assert attempts == 2


@virtual_time
async def test_trying_again_never_ends_while_the_relay_is_down() -> None:
    attempts = 0

    async def open_link(url: str, receiver: Receiver) -> Link:
        nonlocal attempts
        attempts += 1
        raise LinkRefused(503)

    async with Rig(FakeRelay(), open_link=open_link, chance=0.5, waits=False) as rig:
        with pytest.raises(NotFresh, match="503"):
            await rig.watch.until(lambda: rig.watch.is_live, timeout_s=3600)
    assert 100 < attempts < 1_000  # about one each five seconds


async def test_frames_that_came_at_once_are_applied_in_one_step() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        life, session, flushes = rig.connection._life, rig.connection.session, cache.flushes
        assert life is not None
        assert session is not None
        _, seq = relay.head
        (sid,) = session._id_of

        life.receive_many([codec.encode_ev(seq + past, seq + past + 1, [(sid, "u", None)]) for past in range(1_000)])

        assert cache.flushes == flushes + 1
        assert rig.watch.position == rig.connection.cursor == session.cursor
        assert rig.watch.position is not None
        assert rig.watch.position.seq == seq + 1_000


async def test_nothing_behind_a_frame_that_breaks_the_chain_is_applied() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        life, session, flushes = rig.connection._life, rig.connection.session, cache.flushes
        assert life is not None
        assert session is not None
        _, seq = relay.head
        (sid,) = session._id_of
        events = [codec.encode_ev(seq + past, seq + past + 1, [(sid, "u", None)]) for past in (0, 2, 1)]

        life.receive_many([*events, codec.encode_mark(seq + 1, seq + 1, relay.relay_ms() + 60_000)])

        assert cache.flushes == flushes + 2, "one by the first event, one by the gap"
        assert rig.watch.freshness.trust is not Trust.LIVE
        assert rig.connection.cursor is None
