"""The hit path: what is served at once, and what goes the slow way, for each tuning and both kinds of functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from pgcachewatch.aio.cache import is_async, new_store
from pgcachewatch.aio.fills import CacheOptions, Fills
from pgcachewatch.aio.flight import Flight
from pgcachewatch.aio.hit_path import asynchronous, synchronous
from pgcachewatch.core.keys import Keys
from pgcachewatch.core.store import Entry, Store
from pgcachewatch.core.trust import FOREVER, Lease, PolledTrust, Trust

SLOW = "slow"
Function = Callable[..., Any]  # Any: of every signature


def one(key: object) -> None: ...
async def one_async(key: object) -> None: ...
def several(key: object, other: object = "other") -> None: ...
async def several_async(key: object, other: object = "other") -> None: ...
def rest(*keys: object) -> None: ...
async def rest_async(*keys: object) -> None: ...
def ignoring(connection: object, key: object) -> None: ...
async def ignoring_async(connection: object, key: object) -> None: ...


class Repository:
    """Holds methods."""

    def method(self, key: object) -> None: ...
    async def method_async(self, key: object) -> None: ...


class Front:
    """The hit path of one function. The slow path behind it writes down what it is given."""

    def __init__(
        self, function: Function, *before: object, trust: Lease | None = None, is_method: bool = False, **options: Any
    ) -> None:
        self.now_s = 100.0
        self.slow: list[tuple[tuple[object, ...], dict[str, object]]] = []
        self.trust = trust or Trust(FOREVER)
        self.store: Store[Any, Flight[Any]] = new_store(self.trust)
        self._before = before
        options = {"clock": lambda: self.now_s} | options
        settings = CacheOptions(**options)
        self._keys = Keys(function, ignore=settings.ignore, is_method=is_method)
        fills: Fills[Flight[Any]] = Fills(function, self._keys, self.store, settings)
        self._is_async = is_async(function)
        self.wrapper = asynchronous(fills, self._call_async) if self._is_async else synchronous(fills, self._call)

    def _call(self, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
        self.slow.append((args, kwargs))
        return SLOW

    async def _call_async(self, args: tuple[object, ...], kwargs: dict[str, object]) -> str:
        return self._call(args, kwargs)

    def put(self, *args: object, value: object = "stored") -> Entry[Any]:
        """Store a result, as if this call had run."""
        key = self._keys.of((*self._before, *args), {})
        assert self.store.finish(self.store.begin(key, now=self.now_s, run=Flight()), value)
        return self.store.entries[key]

    def ask(self, *args: object, **kwargs: object) -> object:
        """Call it. A coroutine must end without waiting."""
        answer = self.wrapper(*self._before, *args, **kwargs)
        if not self._is_async:
            return answer
        try:
            answer.send(None)
        except StopIteration as ended:
            return ended.value
        raise AssertionError("it waited")


def front(tuning: str, **options: Any) -> Front:
    """A Front for this tuning; its calls take one argument."""
    functions: dict[str, tuple[Function, tuple[object, ...], dict[str, Any]]] = {
        "one": (one, (), {}),
        "one async": (one_async, (), {}),
        "several": (several, (), {}),
        "several async": (several_async, (), {}),
        "rest": (rest, (), {}),
        "rest async": (rest_async, (), {}),
        "ignoring": (ignoring, ("connection",), {"ignore": ("connection",)}),
        "ignoring async": (ignoring_async, ("connection",), {"ignore": ("connection",)}),
        "method": (Repository.method, (REPOSITORY,), {"is_method": True}),
        "method async": (Repository.method_async, (REPOSITORY,), {"is_method": True}),
    }
    function, before, more = functions[tuning]
    return Front(function, *before, **more, **options)


REPOSITORY = Repository()
TUNINGS = ["one", "several", "rest", "ignoring", "method"]
every_tuning = pytest.mark.parametrize("tuning", TUNINGS + [f"{tuning} async" for tuning in TUNINGS])
both_kinds = pytest.mark.parametrize("tuning", ["one", "one async"])


# --- what a hit looks at


@every_tuning
@pytest.mark.parametrize("value", ["stored", None, 0])
def test_what_is_stored_is_served_and_counted(tuning: str, value: object) -> None:
    shop = front(tuning)
    shop.put(5, value=value)

    assert [shop.ask(5), shop.ask(5)] == [value, value]

    assert shop.slow == []
    assert shop.store.info().hits == 2


@every_tuning
def test_a_call_that_is_not_stored_goes_the_slow_way(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5)

    assert shop.ask(6) == SLOW
    assert len(shop.slow) == 1


@every_tuning
@pytest.mark.parametrize(("left_s", "is_served"), [(0.001, True), (0.0, False), (-1.0, False)])
def test_the_lease_is_looked_at_on_each_hit(tuning: str, left_s: float, is_served: bool) -> None:
    trust = Trust(FOREVER)
    shop = front(tuning, trust=trust)
    shop.put(5)
    assert shop.ask(5) == "stored"

    trust.renew(shop.now_s + left_s)

    assert (shop.ask(5) == "stored") is is_served


@every_tuning
@pytest.mark.parametrize(("left_s", "is_served"), [(0.001, True), (0.0, False), (-1.0, False)])
def test_a_flush_that_is_due_is_looked_at_on_each_hit(tuning: str, left_s: float, is_served: bool) -> None:
    shop = front(tuning)
    shop.put(5)

    shop.store.flush_at(shop.now_s + left_s)

    assert (shop.ask(5) == "stored") is is_served


@every_tuning
def test_an_invalidation_ends_service(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5)

    shop.store.flush()

    assert shop.ask(5) == SLOW


@every_tuning
def test_a_gap_ends_service(tuning: str) -> None:
    trust = Trust(FOREVER)
    shop = front(tuning, trust=trust)
    shop.put(5)

    trust.gap()

    assert shop.ask(5) == SLOW


@every_tuning
def test_an_overtaken_entry_is_not_served(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5)

    for key in shop.store.entries:
        shop.store.overtake(key)

    assert shop.ask(5) == SLOW


@every_tuning
def test_a_gap_that_is_found_by_looking_at_the_lease_counts_for_this_very_call(tuning: str) -> None:
    cleared = False
    shop = front(tuning, trust=PolledTrust(lambda: True, lambda: cleared))
    shop.put(5)
    assert shop.ask(5) == "stored"

    cleared = True

    assert shop.ask(5) == SLOW


@every_tuning
def test_while_hits_are_held_back_each_call_is_asked_what_it_wants(tuning: str) -> None:
    trust = Trust(FOREVER)
    shop = front(tuning, trust=trust)
    shop.put(5)

    trust.hold()
    assert shop.ask(5) == SLOW
    trust.release()

    assert shop.ask(5) == "stored"


@every_tuning
def test_the_value_is_read_last(tuning: str) -> None:
    class Replaced(Entry[str]):
        """Another thread replaces it between the look at its generation and the look at its value."""

        __slots__ = ()

        def __getattribute__(self, name: str) -> object:
            if name == "gap":
                self.value = "new"
            return super().__getattribute__(name)

    shop = front(tuning)
    old = shop.put(5)
    ((key, _),) = shop.store.entries.items()
    replaced = Replaced(key)
    replaced.put("old", 0, old.generation)
    shop.store.entries[key] = replaced

    assert shop.ask(5) == "new"


# --- arguments


@every_tuning
@pytest.mark.parametrize("argument", [True, 1.0, 1 + 0j])
def test_an_equal_argument_of_another_type_is_not_served(tuning: str, argument: object) -> None:
    shop = front(tuning)
    shop.put(1)

    assert shop.ask(argument) == SLOW


@every_tuning
@pytest.mark.parametrize("argument", [[1], {"a": 1}, {1}])
def test_an_argument_that_can_not_be_hashed_goes_the_slow_way_unchanged(tuning: str, argument: object) -> None:
    shop = front(tuning)
    shop.put(argument)

    assert shop.ask(argument) == SLOW
    assert shop.slow[0][0][-1] is argument


@both_kinds
def test_a_tuple_that_spells_out_a_frozen_list_is_not_taken_for_it(tuning: str) -> None:
    shop = front(tuning)
    shop.put([1])

    assert shop.ask((list, 1)) == SLOW


@both_kinds
def test_the_only_parameter_can_be_given_by_name(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5)

    assert shop.ask(key=5) == "stored"


@pytest.mark.parametrize("tuning", ["several", "several async", "rest", "ignoring async", "method"])
def test_keywords_reach_the_slow_path_as_they_were_given(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5)

    assert shop.ask(5, other=6) == SLOW
    ((args, kwargs),) = shop.slow
    assert (args[-1], kwargs) == (5, {"other": 6})


@pytest.mark.parametrize("tuning", ["several", "several async"])
def test_the_shortest_spelling_is_the_one_that_is_looked_up(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5, "other")

    assert shop.ask(5) == "stored"
    assert shop.ask(5, "other") == SLOW  # where it is found as well


def test_what_was_left_out_stays_left_out() -> None:
    def with_default(key: int = 5) -> None: ...

    shop = Front(with_default)

    assert shop.ask() == SLOW
    assert shop.slow == [((), {})]


@pytest.mark.parametrize("tuning", ["ignoring", "ignoring async"])
def test_ignored_arguments_do_not_matter(tuning: str) -> None:
    shop = front(tuning)
    shop.put(5)

    answer = shop.wrapper("another connection", 5)

    assert (asyncio.run(answer) if asyncio.iscoroutine(answer) else answer) == "stored"


def test_another_instance_has_other_entries() -> None:
    shop = front("method")
    shop.put(5)

    assert shop.wrapper(Repository(), 5) == SLOW


# --- the wrapper of a single parameter is called as the function is


def positional_only(key: object, /) -> None: ...
def with_default(key: object = 5) -> None: ...
def named_as_inside(entry: object) -> None: ...
def named_as_around(store: object) -> None: ...


def refusal(function: Function, *args: object, **kwargs: object) -> str:
    """What is said of a call that does not fit; "" when it fits."""
    try:
        function(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("function", [one, positional_only, with_default, named_as_inside, named_as_around])
def test_a_call_that_does_not_fit_is_refused_in_the_functions_own_words(function: Function) -> None:
    wrapper = functools.wraps(function)(Front(function).wrapper)

    assert refusal(wrapper, 1, 2) == refusal(function, 1, 2) != ""
    assert refusal(wrapper, unknown=1) == refusal(function, unknown=1) != ""
    assert refusal(wrapper, 1, key=1) == refusal(function, 1, key=1) != ""
    assert refusal(wrapper) == refusal(function)
    assert refusal(wrapper, key=1) == refusal(function, key=1)


@pytest.mark.parametrize("function", [one, with_default, named_as_inside, named_as_around])
def test_any_name_of_the_parameter_will_do(function: Function) -> None:
    (name,) = inspect.signature(function).parameters
    shop = Front(function)
    shop.put("five")

    assert shop.ask(**{name: "five"}) == "stored"
    assert shop.ask("five") == "stored"


def test_functions_do_not_share_the_name_of_their_parameter() -> None:
    first, second = Front(one), Front(named_as_inside)
    first.put(1)
    second.put(2)

    assert (first.ask(key=1), second.ask(entry=2)) == ("stored", "stored")


def wrapped(function: Function) -> Function:
    @functools.wraps(function)
    def by_name(**kwargs: object) -> object:
        return function(**kwargs)

    return by_name


@pytest.mark.parametrize(
    "function", [wrapped(one), functools.partial(several, other=1), REPOSITORY.method, functools.partial(one)]
)
def test_what_is_no_plain_def_is_called_as_it_was_spelled(function: Function) -> None:
    shop = Front(function)
    shop.put(5)

    assert shop.ask(5) == "stored"
    assert shop.ask(key=5) == SLOW
    assert shop.slow == [((), {"key": 5})]


# --- who else is asked


@every_tuning
def test_each_hit_is_told_to_the_statistics_callback(tuning: str) -> None:
    told: list[str] = []
    shop = front(tuning, statistics=told.append)
    shop.put(5)

    shop.ask(5)
    shop.ask(6)
    shop.ask(5)

    assert told == ["hit", "hit"]


@every_tuning
def test_without_a_hit_path_each_call_goes_the_slow_way(tuning: str) -> None:
    shop = front(tuning, has_hit_path=False)
    shop.put(5)

    assert shop.ask(5) == SLOW


@every_tuning
def test_a_hit_asks_the_clock_once_and_a_miss_not_at_all(tuning: str) -> None:
    asked = 0

    def clock() -> float:
        nonlocal asked
        asked += 1
        return 0.0

    shop = front(tuning, clock=clock)
    shop.put(5)

    shop.ask(5)
    assert asked == 1
    shop.ask(6)

    assert asked == 1


def test_the_kind_of_the_wrapper_is_the_kind_of_the_function() -> None:
    for function in (one_async, several_async, ignoring_async):
        assert inspect.iscoroutinefunction(Front(function).wrapper)
        assert inspect.iscoroutinefunction(Front(function, has_hit_path=False).wrapper)
    assert not inspect.iscoroutinefunction(Front(one).wrapper)
