"""The decisions of the slow path, without a loop or a thread: serve, join, start, await, run alone, or refuse."""

from __future__ import annotations

import contextvars
from typing import Any

import pytest

from pgcachewatch.aio.fills import RUN_ALONE, Await, Lead, OnUnfresh
from pgcachewatch.aio.flight import CURRENT, Abandoned, Flight
from pgcachewatch.core.store import Entry, Fill
from pgcachewatch.errors import NotFresh
from tests.client.aio.desk import NOW_S, STALENESS_S, Desk, joined

MODES: tuple[OnUnfresh, ...] = ("call", "share", "bypass", "stale", "raise")
every_mode = pytest.mark.parametrize("mode", MODES)


# --- while fresh


@every_mode
def test_the_first_call_leads_and_those_that_overlap_join_it(mode: OnUnfresh) -> None:
    desk = Desk(on_unfresh=mode)

    fill = desk.lead()

    assert joined(desk, fill)
    assert joined(desk, fill)
    info = desk.store.info()
    assert (info.misses, info.joins, info.bypasses) == (1, 2, 0)


@every_mode
def test_what_was_stored_is_served(mode: OnUnfresh) -> None:
    desk = Desk(on_unfresh=mode)
    desk.store_result()

    decision = desk.ask()

    assert isinstance(decision, Entry)
    assert decision.value == "stored"
    assert desk.store.info().hits == 1


def test_a_run_of_any_age_is_joined_while_fresh() -> None:
    desk = Desk()
    fill = desk.lead()

    desk.now_s += 1_000

    assert joined(desk, fill)


def test_a_run_from_before_an_invalidation_is_not_joined() -> None:
    desk = Desk()
    old = desk.lead()

    desk.store.flush()
    new = desk.lead()

    assert new.run is not old.run
    assert joined(desk, new)


def test_a_flush_that_fell_due_is_made_good_before_anything_is_decided() -> None:
    desk = Desk()
    desk.store_result()
    running = desk.lead("other")
    desk.store.flush_at(NOW_S + 5)
    desk.now_s += 5

    assert isinstance(desk.ask(), Lead)
    decision = desk.ask("other")

    assert isinstance(decision, Lead)
    assert decision.fill is not running


def test_a_failed_run_is_neither_stored_nor_joined() -> None:
    desk = Desk()
    fill = desk.lead()

    desk.fail(fill, ValueError("a"), is_outcome=True)

    assert isinstance(desk.ask(), Lead)
    with pytest.raises(ValueError, match="a"):
        fill.run.result()


def test_who_waited_for_a_run_that_was_stopped_starts_over() -> None:
    desk = Desk()
    fill = desk.lead()

    desk.fail(fill, KeyboardInterrupt(), is_outcome=False)

    with pytest.raises(Abandoned):
        fill.run.result()


def test_a_run_that_was_given_up_is_not_joined_and_not_stored() -> None:
    desk = Desk()
    fill = desk.lead()

    desk.give_up(fill)

    assert isinstance(desk.ask(), Lead)
    desk.finish(fill, "late")
    assert desk.store.lookup("key") is None


# --- while freshness is not proven


@pytest.mark.parametrize("mode", ["call", "bypass"])
def test_each_caller_runs_the_function_itself(mode: OnUnfresh) -> None:
    desk = Desk(on_unfresh=mode)
    desk.store_result()
    desk.become_unfresh()

    assert [desk.ask(), desk.ask()] == [RUN_ALONE, RUN_ALONE]
    assert desk.store.info().bypasses == 2


def test_no_call_is_made_when_that_was_asked_for() -> None:
    desk = Desk(on_unfresh="raise")
    desk.store_result()
    desk.become_unfresh()

    with pytest.raises(NotFresh, match=r"Desk.*function.*on_disconnect"):
        desk.ask()


@pytest.mark.parametrize("mode", ["share", "stale"])
def test_one_run_is_shared_and_not_stored(mode: OnUnfresh) -> None:
    desk = Desk(on_unfresh=mode)
    desk.become_unfresh()

    fill = desk.lead()
    assert joined(desk, fill)
    desk.finish(fill, "value")

    assert fill.run.result() == "value"
    assert isinstance(desk.ask(), Lead)
    info = desk.store.info()
    assert (info.misses, info.joins, info.bypasses, info.discards) == (0, 0, 3, 0)


@pytest.mark.parametrize(("age_s", "is_joined"), [(0.0, True), (STALENESS_S, True), (STALENESS_S + 0.01, False)])
def test_a_run_is_shared_for_as_long_as_a_hit_could_be_old(age_s: float, is_joined: bool) -> None:
    desk = Desk(on_unfresh="share")
    desk.become_unfresh()
    fill = desk.lead()

    desk.now_s += age_s

    assert joined(desk, fill) is is_joined


def test_an_entry_is_served_stale_only_when_that_was_asked_for() -> None:
    stale, share = Desk(on_unfresh="stale"), Desk(on_unfresh="share")
    for desk in (stale, share):
        desk.store_result()
        desk.become_unfresh()

    assert isinstance(stale.ask(), Entry)
    assert isinstance(share.ask(), Lead)


def test_what_was_invalidated_is_not_served_stale() -> None:
    desk = Desk(on_unfresh="stale")
    desk.store_result()
    desk.become_unfresh()

    desk.store.flush()

    assert isinstance(desk.ask(), Lead)


def test_a_run_that_began_while_fresh_is_not_stored_after_a_gap() -> None:
    desk = Desk()
    fill = desk.lead()

    desk.trust.gap()
    desk.finish(fill, "value")

    assert desk.store.lookup("key") is None


def test_the_instant_at_which_the_lease_ends_is_no_longer_fresh() -> None:
    desk = Desk(on_unfresh="bypass")
    desk.trust.renew(NOW_S)
    assert desk.ask() == RUN_ALONE

    desk.trust.renew(NOW_S + 0.01)
    assert isinstance(desk.ask(), Lead)


def test_hits_that_are_held_back_are_served_to_those_who_do_not_mind() -> None:
    desk = Desk(on_unfresh="raise")
    desk.store_result()

    desk.trust.hold()

    assert isinstance(desk.ask(), Entry)


# --- an owner that is gone


@pytest.mark.parametrize("is_fresh", [True, False])
def test_a_run_whose_owner_is_gone_is_abandoned_and_started_anew(is_fresh: bool) -> None:
    desk = Desk()
    if not is_fresh:
        desk.become_unfresh()
    fill = desk.lead()
    desk.gone.append(fill.run)

    new = desk.lead()

    assert fill.run.is_abandoned
    assert joined(desk, new)


def test_an_overtaken_run_whose_owner_is_gone_is_waited_for_by_nobody() -> None:
    desk = Desk()
    fill = desk.lead()
    desk.ran_alone(("key",), {})
    desk.gone.append(fill.run)

    assert isinstance(desk.ask(), Lead)


# --- overtaken


def test_a_run_that_passed_the_cache_by_takes_the_entry_along() -> None:
    desk = Desk()
    desk.store_result()

    desk.ran_alone(("key",), {})

    assert isinstance(desk.ask(), Lead)


def test_a_run_that_passed_the_cache_by_is_known_by_any_spelling() -> None:
    desk = Desk()
    desk.store_result()

    desk.ran_alone((), {"key": "key"})

    assert isinstance(desk.ask(), Lead)


def test_later_calls_wait_for_the_end_of_an_overtaken_run_and_take_nothing_from_it() -> None:
    desk = Desk()
    fill = desk.lead()
    desk.ran_alone(("key",), {})

    decision = desk.ask()

    assert decision == Await(fill.run)
    info = desk.store.info()
    assert (info.misses, info.joins) == (1, 0)


def test_after_an_overtaken_run_the_next_call_leads_and_is_stored() -> None:
    desk = Desk()
    overtaken = desk.lead()
    desk.ran_alone(("key",), {})
    desk.finish(overtaken, "maybe older")
    assert overtaken.run.result() == "maybe older"  # for those who joined before

    desk.store_result("newest")

    decision = desk.ask()
    assert isinstance(decision, Entry)
    assert decision.value == "newest"


def test_an_overtaken_run_is_awaited_however_old_it_is() -> None:
    desk = Desk(on_unfresh="share")
    desk.become_unfresh()
    fill = desk.lead()
    desk.ran_alone(("key",), {})

    desk.now_s += 1_000

    assert desk.ask() == Await(fill.run)


def test_a_detached_run_that_ends_overtakes_the_one_that_took_its_place() -> None:
    desk = Desk()
    detached = desk.lead()
    desk.store.flush()
    current = desk.lead()

    desk.finish(detached, "maybe newer")

    assert desk.ask() == Await(current.run)


@pytest.mark.parametrize("callers", [1, 2, 5])
def test_calls_that_wait_for_an_overtaken_run_can_not_wait_for_ever(callers: int) -> None:
    """However often runs are overtaken: each run that ends answers one caller at least."""
    desk = Desk()
    fill = desk.lead()
    desk.ran_alone(("key",), {})
    waiting = callers
    assert all(isinstance(desk.ask(), Await) for _ in range(waiting))

    rounds = 0
    while waiting:
        rounds += 1
        desk.finish(fill, "value")
        decisions = []
        for _ in range(waiting):
            decisions.append(desk.ask())
            desk.ran_alone(("key",), {})  # the worst that can happen: each one finds the run overtaken again
        (lead,) = [one for one in decisions if isinstance(one, Lead)]
        fill = lead.fill
        waiting -= 1

    assert rounds == callers


def test_a_run_without_a_key_overtakes_nothing() -> None:
    desk = Desk()
    desk.store_result()

    desk.ran_alone(("key", "too many"), {})
    desk.ran_alone((memoryview(bytearray(1)),), {})

    assert isinstance(desk.ask(), Entry)


# --- circles


@pytest.mark.parametrize("is_overtaken", [False, True])
def test_a_function_that_calls_itself_is_run_and_waits_for_nobody(is_overtaken: bool) -> None:
    desk = Desk()
    fill = desk.lead()
    if is_overtaken:
        desk.ran_alone(("key",), {})

    def inside() -> object:
        CURRENT.set(fill.run.node)
        return desk.ask()

    assert contextvars.copy_context().run(inside) == RUN_ALONE


def test_a_function_that_leads_another_run_is_noted_as_waiting_for_it() -> None:
    desk, other = Desk(), Desk()
    fill = desk.lead()

    def inside() -> Fill[Flight[Any]]:
        CURRENT.set(fill.run.node)
        return other.lead()

    inner = contextvars.copy_context().run(inside)

    def further_inside() -> object:
        CURRENT.set(inner.run.node)
        return desk.ask()

    assert contextvars.copy_context().run(further_inside) == RUN_ALONE
