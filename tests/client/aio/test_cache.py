"""`cached()`: what it takes, what it refuses, and the function it gives back."""

from __future__ import annotations

import functools
import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type

import pytest

from pgcachewatch.aio.cache import CachedFunction, cached, is_async, new_store
from pgcachewatch.aio.fills import CacheOptions
from pgcachewatch.core.store import Store
from pgcachewatch.core.trust import FOREVER, Trust
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Scope
from tests.client.aio.source import Shop


def fresh_store(maxsize: int = 100) -> Store[Any, Any]:
    return new_store(Trust(FOREVER), maxsize=maxsize)


class Counted:
    """Functions that say how often they ran."""

    def __init__(self) -> None:
        self.runs = 0

    def plain(self, key: object = 0, *rest: object, **options: object) -> int:
        self.runs += 1
        return self.runs


# --- the function it gives back


def test_it_looks_like_the_function() -> None:
    def read(user_id: int, *, language: str = "en") -> str:
        """Reads."""
        return f"{user_id} {language}"

    ask: Any = cached(read, fresh_store())  # Any: the attributes of a function

    assert (ask.__name__, ask.__doc__, ask.__wrapped__) == ("read", "Reads.", read)
    assert inspect.signature(ask) == inspect.signature(read)
    assert inspect.isfunction(ask)


async def read_async(key: int) -> str:
    return f"{key}"


def read_plain(key: int) -> str:
    return f"{key}"


async def test_it_is_typed_as_the_function_is() -> None:
    ask_async = cached(read_async, fresh_store())
    ask = cached(read_plain, fresh_store())

    assert_type(await ask_async(5), str)
    assert_type(ask_async(key=5), Coroutine[Any, Any, str]).close()
    assert_type(ask(5), str)
    assert_type(ask.cache_contains(5), bool)
    with pytest.raises(TypeError):
        ask("5", "6")  # type: ignore[call-arg, arg-type]  # wrong on purpose


class Repository:
    """Its methods are cached per instance."""

    store = fresh_store()

    def __init__(self) -> None:
        self.runs = 0

    def _read(self, key: int) -> int:
        self.runs += key
        return self.runs

    read = cached(_read, store)


def test_a_method_is_typed_without_its_instance() -> None:
    repository = Repository()

    assert_type(repository.read(5), int)
    assert_type(Repository.read(repository, 5), int)
    assert repository.runs == 5


async def call_async(function: CachedFunction[[int], Coroutine[Any, Any, str]]) -> str:
    return await function(5)


async def test_it_can_be_handed_on_as_a_cached_function() -> None:
    assert await call_async(cached(read_async, fresh_store())) == "5"


# --- which kind of function


class AsyncCallable:
    """An object that is called as a coroutine function is."""

    async def __call__(self, key: int) -> int:
        return key


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (read_async, True),
        (functools.partial(read_async, 5), True),
        (AsyncCallable(), True),
        (AsyncCallable().__call__, True),
        (read_plain, False),
        (functools.partial(read_plain, 5), False),
        (Counted().plain, False),
        (int, False),
    ],
)
def test_a_function_is_asynchronous_when_calling_it_gives_a_coroutine(
    function: Callable[..., Any], expected: bool
) -> None:
    assert is_async(function) is expected


@pytest.mark.parametrize("function", [functools.partial(read_async, 5), functools.partial(read_async, key=5)])
async def test_a_partial_can_be_cached(function: Callable[..., Any]) -> None:
    ask = Shop(function).ask

    assert [await ask(), await ask()] == ["5", "5"]
    assert ask.cache_info().hits == 1


async def test_an_object_that_is_called_can_be_cached() -> None:
    ask = Shop(AsyncCallable()).ask

    assert [await ask(5), await ask(5)] == [5, 5]


def generate() -> Iterator[int]:
    yield 1


async def generate_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (generate, "generate is a generator function.*list"),
        (generate_async, "generate_async is a generator function"),
        (5, "only a function can be cached"),
        (staticmethod(read_plain), "below @staticmethod"),
        (classmethod(lambda cls: 5), "only a function can be cached"),
    ],
)
def test_what_can_not_be_cached_is_refused_with_a_remedy(function: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        cached(function, fresh_store())


# --- what tells two calls apart


def test_ignored_arguments_do_not_tell_calls_apart() -> None:
    source = Counted()
    shop = Shop(source.plain, ignore=["options"])

    assert [shop.ask(1, a=1), shop.ask(1, a=2), shop.ask(2, a=1)] == [1, 1, 2]


def test_a_key_function_tells_calls_apart() -> None:
    source = Counted()
    shop = Shop(source.plain, key=lambda key: key % 10)

    assert [shop.ask(1), shop.ask(11), shop.ask(2)] == [1, 1, 2]


def test_what_a_key_function_gives_is_compared_by_content() -> None:
    source = Counted()
    shop = Shop(source.plain, key=lambda key: [key % 10])

    assert [shop.ask(1), shop.ask(11)] == [1, 1]


def test_what_a_key_function_gives_must_be_fit_for_a_key() -> None:
    shop = Shop(Counted().plain, key=lambda key: memoryview(bytearray(1)))

    with pytest.raises(ConfigurationError, match="key="):
        shop.ask(1)


# --- methods


def test_each_instance_has_entries_of_its_own() -> None:
    one, other = Repository(), Repository()

    assert [one.read(1), one.read(1), other.read(2), other.read(2)] == [1, 1, 2, 2]


class Equal:
    """Its instances are equal, and answer differently."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal)

    def __hash__(self) -> int:
        return 1

    def _read(self) -> str:
        return self.tenant

    read = cached(_read, fresh_store())


def test_equal_instances_are_told_apart() -> None:
    assert [Equal("a").read(), Equal("b").read()] == ["a", "b"]


def test_a_cache_keeps_no_instance_alive() -> None:
    repository = Repository()
    repository.read(1)
    reference = weakref.ref(repository)

    del repository
    gc.collect()

    assert reference() is None


def test_an_address_that_is_used_again_is_not_taken_for_the_instance_that_was_there() -> None:
    seen = []
    for number in range(1, 200):
        repository = Repository()
        repository.runs = number
        seen.append(repository.read(0))
        del repository

    assert seen == list(range(1, 200))


# --- cache_info, cache_clear, cache_invalidate, cache_contains


def test_the_cache_tells_of_itself() -> None:
    source = Counted()
    shop = Shop(source.plain)

    for key in (1, 1, 1, 2):
        shop.ask(key)

    info = shop.ask.cache_info()
    assert (info.hits, info.misses, info.maxsize, info.currsize) == (2, 2, 1_024, 2)


def test_clearing_takes_everything() -> None:
    source = Counted()
    shop = Shop(source.plain)
    shop.ask(1)
    shop.ask(2)

    shop.ask.cache_clear()

    assert shop.ask.cache_info().currsize == 0
    assert [shop.ask(1), shop.ask(2)] == [3, 4]


def test_one_call_can_be_invalidated_however_it_is_spelled() -> None:
    source = Counted()
    shop = Shop(source.plain)
    shop.ask(1)
    shop.ask(2)

    assert shop.ask.cache_invalidate(key=1)
    assert not shop.ask.cache_invalidate(1)

    assert [shop.ask(1), shop.ask(2)] == [3, 2]


def test_one_can_ask_whether_a_call_is_stored() -> None:
    shop = Shop(Counted().plain)
    shop.ask(1)

    assert shop.ask.cache_contains(1)
    assert shop.ask.cache_contains(key=1)
    assert not shop.ask.cache_contains(2)
    assert shop.ask.cache_info().hits == 0

    shop.trust.gap()
    assert not shop.ask.cache_contains(1)


def test_for_a_method_the_instance_comes_first() -> None:
    one, other = Repository(), Repository()
    one.read(1)
    other.read(1)

    assert Repository.read.cache_invalidate(one, 1)

    assert not Repository.read.cache_contains(one, 1)
    assert Repository.read.cache_contains(other, 1)


def test_arguments_that_do_not_fit_are_refused_by_the_questions_about_a_call() -> None:
    shop = Shop(read_plain)

    for question in (shop.ask.cache_contains, shop.ask.cache_invalidate):
        with pytest.raises(TypeError, match="required argument: 'key'"):
            question(unknown=1)


# --- the store of a cache


def test_entries_make_room_for_each_other() -> None:
    source = Counted()
    ask = cached(source.plain, fresh_store(maxsize=2))

    for key in range(10):
        ask(key)

    info = ask.cache_info()
    assert (info.currsize, info.maxsize, info.evictions) == (2, 2, 8)


def test_the_lock_of_a_new_store_keeps_other_threads_out_and_lets_its_owner_in_again() -> None:
    lock: Any = fresh_store().lock
    taken: list[bool] = []

    with lock, lock:
        thread = threading.Thread(target=lambda: taken.append(lock.acquire(blocking=False)))
        thread.start()
        thread.join()

    assert taken == [False]


def test_a_new_store_may_be_used_by_several_threads() -> None:
    store = fresh_store()
    store.maxsize = 10
    source = Counted()
    ask = cached(source.plain, store, CacheOptions(clock=lambda: 0.0))
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def hammer(offset: int) -> None:
        start.wait()
        try:
            for number in range(2_000):
                ask((number + offset) % 30)
                if number % 50 == 0:
                    store.flush()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=hammer, args=(number * 7,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    assert len(store.entries) == len(store._order) == 10


def test_what_a_store_depends_on_is_told_to_it() -> None:
    store = new_store(Trust(FOREVER), scopes=[Scope("c", "users")])
    source = Counted()
    ask = cached(source.plain, store)
    ask(1)

    assert not store.invalidate(Scope("c", "orders"))
    assert ask.cache_contains(1)
    assert store.invalidate(Scope("c", "users"))
    assert not ask.cache_contains(1)
