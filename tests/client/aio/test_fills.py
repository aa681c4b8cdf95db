"""The decisions of the slow path, without a loop or a thread: serve, join, start, await, run alone, or refuse."""

from __future__ import annotations

import contextvars
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal

import pytest

from pgcachewatch.aio.cache import new_store
from pgcachewatch.aio.fills import RUN_ALONE, Await, CacheOptions, Fills, Join, Lead, OnUnfresh, RunAlone
from pgcachewatch.aio.flight import CURRENT, Abandoned, Flight
from pgcachewatch.core.keys import Keys
from pgcachewatch.core.store import Entry, Fill
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.errors import ConfigurationError, NotFresh

NOW_S = 100.0
STALENESS_S = 2.0

MODES: tuple[OnUnfresh, ...] = ("call", "share", "bypass", "stale", "raise")
every_mode = pytest.mark.parametrize("mode", MODES)


class Desk(Fills[Flight[Any]]):
    """The slow path of a function nobody runs. `gone` holds flights whose owner can not go on."""

    def __init__(self, **options: Any) -> None:
        def function(key: object) -> None: ...

        self.trust = Trust(FOREVER)
        self.now_s = NOW_S
        self.gone: list[Flight[Any]] = []
        defaults: dict[str, Any] = {"clock": lambda: self.now_s, "staleness_s": STALENESS_S}
        settings = CacheOptions(**defaults | options)
        super().__init__(function, Keys(function, ignore=settings.ignore), new_store(self.trust), settings)

    def new_flight(self) -> Flight[Any]:
        return Flight()

    def is_gone(self, flight: Flight[Any]) -> bool:
        return flight in self.gone

    def ask(self, key: object = "key") -> Entry[Any] | Join[Any] | Lead[Any] | Await[Any] | RunAlone:
        return self.decide(key, self.now_s)

    def lead(self, key: object = "key") -> Fill[Flight[Any]]:
        """A run of this key, which is there to be started."""
        decision = self.ask(key)
        assert isinstance(decision, Lead)
        return decision.fill

    def store_result(self, value: object = "stored") -> None:
        self.finish(self.lead(), value)

    def become_unfresh(self) -> None:
        self.trust.renew(self.now_s)


def joined(desk: Desk, fill: Fill[Flight[Any]]) -> bool:
    """Whether the next call waits for the value of this run."""
    decision = desk.ask()
    return isinstance(decision, Join) and decision.flight is fill.run


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


# --- values


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


class Awaitable:
    """Something to await, once."""

    def __await__(self) -> Iterator[None]:
        yield


@pytest.mark.parametrize("make", [generator, async_generator, coroutine, Awaitable])
def test_a_value_that_can_be_read_only_once_is_refused_with_its_type(make: Callable[[], object]) -> None:
    desk = Desk()
    fill = desk.lead()
    value = make()

    with pytest.raises(ConfigurationError, match=f"returned an? {type(value).__name__}.*return what it"):
        desk.finish(fill, value)

    assert desk.store.lookup("key") is None


@pytest.mark.parametrize("value", [iter([1]), range(3), [1], None, generator])
def test_other_values_are_stored(value: object) -> None:
    desk = Desk()

    desk.store_result(value)

    entry = desk.store.lookup("key")
    assert entry is not None
    assert entry.value is value


# --- which call it is


def test_a_call_that_wants_to_pass_the_cache_by_runs_alone() -> None:
    wants = True
    desk = Desk(bypass=lambda: wants)

    assert desk.key_of(("key",), {}) == RUN_ALONE
    wants = False
    assert desk.key_of(("key",), {}) == "key"


def test_a_call_that_does_not_fit_the_signature_is_run_to_say_so() -> None:
    assert Desk().key_of((), {"unknown": 1}) == RUN_ALONE


def test_an_argument_no_key_can_be_made_of_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="key"):
        Desk().key_of((memoryview(bytearray(1)),), {})


def test_ignored_arguments_leave_one_key() -> None:
    desk = Desk(ignore=("key",))

    assert desk.key_of(("one",), {}) == desk.key_of(("other",), {})


# --- what the slow path serves without the lock


def test_a_servable_entry_is_served_and_counted() -> None:
    desk = Desk()
    desk.store_result()

    entry = desk.served("key")

    assert entry is not None
    assert entry.value == "stored"
    assert desk.store.info().hits == 1


@pytest.mark.parametrize("reason", ["lease", "horizon", "generation", "gap", "hold", "absent"])
def test_what_the_hit_path_would_not_serve_is_not_served(reason: str) -> None:
    desk = Desk()
    desk.store_result()
    match reason:
        case "lease":
            desk.become_unfresh()
        case "horizon":
            desk.store.flush_at(NOW_S)
        case "generation":
            desk.store.flush()
        case "gap":
            desk.trust.gap()
        case "hold":
            desk.trust.hold()

    assert desk.served("other" if reason == "absent" else "key") is None
    assert desk.store.info().hits == 0


def test_a_trust_that_is_asked_once_per_call_is_not_asked_here() -> None:
    desk = Desk(has_hit_path=False)
    desk.store_result()

    assert desk.served("key") is None
    assert isinstance(desk.ask(), Entry)


# --- what users supply


def test_a_statistics_callback_that_raises_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    def broken(what: str) -> None:
        raise ZeroDivisionError(what)

    desk = Desk(statistics=broken)
    both: tuple[Literal["hit", "miss"], ...] = ("hit", "miss")
    for what in both * 2:
        desk.observe(what)
    assert desk.observe_hit is not None
    desk.observe_hit()

    assert caplog.text.count("statistics callback of") == 1
    assert "Desk" in caplog.text


def test_without_a_statistics_callback_a_hit_calls_nobody() -> None:
    assert Desk().observe_hit is None


def test_each_kind_of_fault_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()

    for what in ("one thing", "another", "one thing"):
        desk.report(what, ValueError("a"))

    assert [caplog.text.count(what) for what in ("one thing of", "another of")] == [1, 1]
