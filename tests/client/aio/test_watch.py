"""What deliveries do to caches: grants, changes, gaps, leases and barriers, through the real session and codec."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pgcachewatch.aio import watch as watch_module
from pgcachewatch.aio.watch import CacheReader
from pgcachewatch.core.dependencies import Row, RowKey, Rows
from pgcachewatch.core.subscriptions import Wish
from pgcachewatch.core.trust import NEVER
from pgcachewatch.errors import BarrierTimeout, NotFresh
from pgcachewatch.models import EVERYTHING, Scope
from pgcachewatch.protocol.client_session import Change, Flush, Granted, Opened, Proof, Rejected
from pgcachewatch.protocol.transitions import Trust
from pgcachewatch.testing import FakeRelay
from tests.client.aio.rig import STALENESS_S, Rig, StubCache
from tests.client.virtual_time import virtual_time


@virtual_time
async def test_a_cache_is_dark_until_its_subscription_is_granted() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        cache, reader = rig.cache("users")
        relay.advance(0.1)  # a proof, which must not speak for what was not granted
        assert (reader.is_live, cache.deadline_s) == (False, NEVER)
        await rig.live()
        assert (reader.is_live, cache.deadline_s) == (True, rig.watch.freshness.deadline_s)


@virtual_time
async def test_becoming_live_detaches_what_ran_before() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        assert cache.flushes == 0
        await rig.live()
        assert cache.flushes == 1


@virtual_time
async def test_a_change_has_flushed_the_cache_when_emit_returns() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        users, _ = rig.cache("users")
        orders, _ = rig.cache("orders")
        await rig.live()
        before = users.flushes, orders.flushes
        relay.emit("users")
        assert (users.flushes, orders.flushes) == (before[0] + 1, before[1])


@virtual_time
async def test_lease_is_renewed_by_marks_and_untouched_by_a_lost_link() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        relay.advance(1.0)
        deadline_s = cache.deadline_s
        assert deadline_s == pytest.approx(relay.clock() + STALENESS_S, abs=0.01)
        relay.drop()
        relay.advance(1.0)
        assert cache.deadline_s == deadline_s
        assert rig.watch.freshness.trust is Trust.SUSPECT


@virtual_time
async def test_a_resumed_link_keeps_the_cache_warm() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, reader = rig.cache("users")
        await rig.live()
        before = cache.flushes
        relay.drop()
        relay.restore()
        await rig.live()
        assert (cache.flushes, rig.watch.resumes, rig.watch.gaps) == (before, 1, 0)
        assert reader.is_live


@virtual_time
async def test_what_changed_while_the_link_was_down_is_replayed_before_the_lease_is_renewed() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        users, _ = rig.cache("users")
        orders, _ = rig.cache("orders")
        await rig.live()
        before = users.flushes, orders.flushes
        relay.drop()
        relay.emit("users")
        relay.restore()
        await rig.live()
        assert (users.flushes, orders.flushes) == (before[0] + 1, before[1])


@virtual_time
async def test_a_relay_that_forgot_flushes_everything() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, reader = rig.cache("users")
        await rig.live()
        before = cache.flushes
        relay.drop()
        relay.restore(forget=True)
        await rig.live()
        assert cache.flushes > before
        assert reader.is_live
        assert (rig.watch.resumes, rig.watch.gaps) == (0, 1)


@virtual_time
async def test_without_resume_a_cache_is_dark_from_the_welcome_until_the_grant() -> None:
    # A relay that still has to LISTEN answers the hello first and acknowledges later: between the two no event comes.
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, reader = rig.cache("users")
        await rig.live()
        rig.watch.apply(Opened(resumed=False, node="other", heartbeat_s=0.5))
        rig.watch.apply(Flush(EVERYTHING, "link_lost"))
        rig.watch.apply(Proof(relay.relay_ms()))
        between = (reader.is_live, cache.deadline_s, cache.flushes)
        rig.watch.apply(Granted(1, 0))
        assert between[:2] == (False, NEVER)
        assert (reader.is_live, cache.deadline_s > relay.clock(), cache.flushes) == (True, True, between[2] + 1)


@virtual_time
async def test_a_grant_after_a_resume_leaves_the_cache_warm() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, reader = rig.cache("users")
        await rig.live()
        before = cache.flushes
        rig.watch.apply(Opened(resumed=True, node="same", heartbeat_s=0.5))
        rig.watch.apply(Granted(1, 0))
        assert (reader.is_live, cache.flushes) == (True, before)


@virtual_time
async def test_a_cache_that_was_live_serves_nothing_once_refused() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        rig.watch.apply(Rejected(1, "forbidden", "not any more", may_retry=False, after_ms=None))
        assert cache.deadline_s == NEVER
        relay.advance(1)
        assert cache.deadline_s == NEVER


@virtual_time
async def test_a_subscription_asked_for_while_the_link_is_down_is_granted_by_the_next_hello() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        relay.drop()
        cache, reader = rig.cache("users")
        relay.emit("users")
        relay.restore()
        await rig.live()
        assert reader.is_live
        assert cache.flushes >= 1


@virtual_time
async def test_a_lost_source_is_suspect_until_the_new_epoch_is_proven() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        relay.lose_source()
        deadline_s = cache.deadline_s
        relay.advance(1.0)
        assert rig.watch.freshness.trust is Trust.SUSPECT
        assert cache.deadline_s == deadline_s
        before = cache.flushes
        relay.gap()
        assert cache.flushes == before + 1
        assert rig.watch.is_live


@virtual_time
async def test_a_lost_source_is_one_line_of_the_log_and_its_return_another(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    relay = FakeRelay()
    async with Rig(relay) as rig:
        rig.cache("users")
        await rig.live()
        caplog.clear()
        relay.lose_source()
        relay.advance(STALENESS_S + 3.0)
        relay.gap()
        relay.advance(0.1)
        assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
            ("WARNING", f"the relay lost PostgreSQL (the test said so); hits go on for {STALENESS_S:.1f} s at most"),
            ("INFO", "freshness is proven again; hits paused for 3.0 s"),
        ]


@virtual_time
async def test_garbage_from_the_relay_flushes_and_reconnects_without_resume() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        before = cache.flushes
        relay.send('{"t":"ev","p":99,"s":100,"i":[]}')
        assert cache.flushes == before + 1
        await rig.live()
        assert relay.connects == 2
        assert rig.watch.resumes == 0


@virtual_time
async def test_a_fault_while_applying_flushes_and_reconnects(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, reader = rig.cache("users")
        await rig.live()
        before = cache.flushes
        monkeypatch.setattr(reader, "changed", lambda change, sub: 1 / 0)
        relay.emit("users")
        assert (cache.flushes > before, reader.is_live) == (True, False)
        monkeypatch.undo()
        await rig.live()
        assert reader.is_live
        assert "could not be applied" in caplog.text


@virtual_time
async def test_a_barrier_passes_behind_the_events_before_it() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, _ = rig.cache("users")
        await rig.live()
        before = cache.flushes
        relay.emit("users")
        await rig.watch.barriers.wait(timeout_s=1)
        assert cache.flushes == before + 1


@virtual_time
async def test_a_barrier_detaches_the_runs_of_a_dark_cache() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        _, reader = rig.cache("users")
        cache, reader = rig.cache("orders")
        await rig.live()
        reader.went_dark()
        before = cache.flushes
        await rig.watch.barriers.wait(timeout_s=1)
        assert cache.flushes == before + 1


@virtual_time
async def test_a_barrier_under_way_is_sent_anew_on_the_next_connection() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        relay.lose_source()
        waiting = asyncio.create_task(rig.watch.barriers.wait(timeout_s=60))
        await asyncio.sleep(0.1)
        relay.drop()
        relay.gap()
        relay.restore()
        await waiting
        assert relay.connects == 2


@virtual_time
async def test_a_barrier_says_what_is_missing() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        relay.lose_source()
        with pytest.raises(BarrierTimeout) as source:
            await rig.watch.barriers.wait(timeout_s=0.5)
        relay.drop()
        with pytest.raises(BarrierTimeout) as connection:
            await rig.watch.barriers.wait(timeout_s=0.5)
        relay.restore()
        relay.mute()
        with pytest.raises(BarrierTimeout) as welcome:
            await rig.watch.barriers.wait(timeout_s=0.5)
    assert [caught.value.missing for caught in (source, connection, welcome)] == ["source", "connection", "welcome"]


@virtual_time
async def test_a_relay_that_does_not_answer_a_barrier_is_named() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        relay.mute()
        with pytest.raises(BarrierTimeout, match="barrierok"):
            await rig.watch.barriers.wait(timeout_s=0.5)


@virtual_time
async def test_a_refused_subscription_stays_dark_and_shows(caplog: pytest.LogCaptureFixture) -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        cache, reader = rig.cache("users")
        relay.send('{"t":"err","id":1,"code":"forbidden","message":"not yours","retry":false}')
        assert not reader.is_live
        assert cache.deadline_s == NEVER
        assert rig.watch.refusals == ["the relay refused: forbidden: not yours"]
        assert caplog.text.count("will run for every call") == 1


@virtual_time
async def test_a_subscription_refused_for_now_is_asked_for_again() -> None:
    relay = FakeRelay()
    async with Rig(relay) as rig:
        await rig.live()
        _, reader = rig.cache("users")
        relay.send('{"t":"err","id":1,"code":"busy","message":"later","retry":true}')
        await asyncio.sleep(watch_module.RETRY_REFUSED_S / 2)
        states = [reader.is_live]
        await asyncio.sleep(watch_module.RETRY_REFUSED_S * 1.5)
        assert [*states, reader.is_live] == [False, True]


@virtual_time
async def test_waiting_for_live_says_what_is_missing() -> None:
    relay = FakeRelay()
    relay.drop()
    async with Rig(relay, waits=False) as rig:
        with pytest.raises(NotFresh, match="no connection yet"):
            await rig.watch.until(lambda: rig.watch.is_live, timeout_s=1)


@virtual_time
async def test_a_cache_by_rows_stays_dark_on_a_relay_that_does_not_tell_types() -> None:
    relay = FakeRelay()
    rows = Rows([Row("users", id="key")], lambda key: None)
    async with Rig(relay) as rig:
        await rig.live()
        cache = StubCache()
        reader = CacheReader(cache, cache.trust, watch=rig.watch, label="read", rows=rows)
        (sub,) = rig.watch.subscriptions.add_wishes(reader, [Wish(Scope("c", "users"), columns=("id",))])

        rig.watch.apply(Granted(sub.id, 0))

        assert not reader.is_live
        assert "upgrade" in rows.problem
        rig.watch.apply(Granted(sub.id, 0, ("int8",)))
        assert (reader.is_live, rows.types, rows.problem) == (True, (("int8",),), "")


@virtual_time
async def test_rows_reach_a_live_cache_as_rows_and_a_dark_one_as_a_flush() -> None:
    relay = FakeRelay()
    rows = Rows([Row("users", id="key")], lambda key: None)
    async with Rig(relay) as rig:
        await rig.live()
        cache = StubCache()
        reader = CacheReader(cache, cache.trust, watch=rig.watch, label="read", rows=rows)
        (sub,) = rig.watch.subscriptions.add_wishes(reader, [Wish(Scope("c", "users"), columns=("id",))])
        rig.watch.apply(Granted(sub.id, 0, ("int8",)))
        flushes = cache.flushes

        reader.changed(Change(sub.id, "u", "5"), sub)
        assert (cache.rows, cache.flushes) == ([RowKey(0, "5")], flushes)
        reader.changed(Change(sub.id, "u", None), sub)
        assert cache.flushes == flushes + 1
        reader.went_dark()
        reader.changed(Change(sub.id, "u", "5"), sub)

        assert (len(cache.rows), cache.flushes) == (1, flushes + 2)
