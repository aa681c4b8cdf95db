"""`Cache`: functions declared before there is a client, and what binding and unbinding does to them."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import sys
import threading
import weakref
from collections.abc import Coroutine
from typing import Any, assert_type

import fastapi
import httpx
import pytest

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.aio.binding import Cache
from pgcachewatch.core.store import DEFAULT_MAXSIZE
from pgcachewatch.errors import Closed, ConfigurationError
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.aio.source import Source

__all__ = ["fake_relay"]  # a fixture, for the tests below


class Shelf:
    """A function of each kind, declared before there is a client."""

    def __init__(self, cache: Cache) -> None:
        self.runs = runs = [0]

        @cache(tables=["prices"])
        async def price(book: str) -> int:
            """What it costs."""
            runs[0] += 1
            return runs[0]

        @cache(tables=["prices"])
        def price_plain(book: str) -> int:
            runs[0] += 1
            return runs[0]

        self.price, self.price_plain = price, price_plain


def test_the_package_names_it() -> None:
    assert pgcachewatch.Cache is Cache


# --- unbound


async def test_unbound_each_call_runs_the_function_and_nothing_is_stored() -> None:
    shelf = Shelf(Cache())

    assert [await shelf.price("Emma"), await shelf.price("Emma")] == [1, 2]
    assert [shelf.price_plain("Emma"), shelf.price_plain("Emma")] == [3, 4]
    for function in (shelf.price, shelf.price_plain):
        info = function.cache_info()
        assert (info.hits, info.misses, info.currsize, info.maxsize) == (0, 0, 0, DEFAULT_MAXSIZE)
        assert not function.cache_contains("Emma")
        assert not function.cache_invalidate("Emma")
        assert function.cache_parameters()["tables"] == ["prices"]
        function.cache_clear()


def test_it_looks_like_the_function() -> None:
    async def price(book: str, *, currency: str = "EUR") -> int:
        """What it costs."""
        return 1

    declared: Any = Cache()(price)  # Any: the attributes of a function

    assert (declared.__name__, declared.__doc__, declared.__wrapped__) == ("price", "What it costs.", price)
    assert inspect.signature(declared) == inspect.signature(price)
    assert inspect.isfunction(declared)


async def test_only_an_asynchronous_function_is_taken_for_one() -> None:
    shelf = Shelf(Cache())

    # Python 3.11 has no mark that inspect would see, and newer ones are about to lose asyncio's question.
    ask = inspect.iscoroutinefunction if sys.version_info >= (3, 12) else asyncio.iscoroutinefunction
    assert ask(shelf.price)
    assert not ask(shelf.price_plain)


async def read_async(key: int) -> str:
    return f"{key}"


def read_plain(key: int) -> str:
    return f"{key}"


async def test_it_is_typed_as_the_function_is() -> None:
    cache = Cache(maxsize=10)

    assert_type(await cache(read_async)(5), str)
    assert_type(cache(tables=["users"])(read_async)(key=5), Coroutine[Any, Any, str]).close()
    assert_type(cache(read_plain)(5), str)
    with pytest.raises(TypeError):
        cache(read_plain)("5", "6")  # type: ignore[call-arg, arg-type]  # wrong on purpose


# --- bound


async def test_bound_to_a_client_its_functions_are_cached_until_their_table_changes(fake_relay: FakeRelay) -> None:
    cache = Cache()
    shelf = Shelf(cache)
    async with fake_relay.connect() as client:
        with cache.bound(client):
            await client.wait_live()
            assert [await shelf.price("Emma"), await shelf.price(book="Emma")] == [1, 1]
            assert [shelf.price_plain("Emma"), shelf.price_plain("Emma")] == [2, 2]
            assert shelf.price.cache_contains("Emma")
            assert shelf.price.cache_info().hits == 1
            assert shelf.price.cache_parameters()["tables"] == ["prices"]

            fake_relay.emit("prices")

            assert not shelf.price.cache_contains("Emma")
            assert await shelf.price("Emma") == 3


def test_a_client_for_threads_can_be_bound_too(fake_relay: FakeRelay) -> None:
    cache = Cache()
    shelf = Shelf(cache)
    with fake_relay.connect_sync() as client, cache.bound(client):
        client.wait_live(5)
        assert [shelf.price_plain("Emma"), shelf.price_plain("Emma")] == [1, 1]
        assert shelf.price_plain.cache_invalidate("Emma")
        assert shelf.price_plain("Emma") == 2


async def test_a_function_that_is_declared_later_is_cached_at_once(fake_relay: FakeRelay) -> None:
    cache = Cache()
    async with fake_relay.connect() as client:
        with cache.bound(client):
            shelf = Shelf(cache)
            await client.wait_live()
            assert [await shelf.price("Emma"), await shelf.price("Emma")] == [1, 1]


class Repository:
    """Its methods were declared when its module was imported."""

    cache = Cache(tables=["users"])

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = 0

    @cache
    async def read(self, key: int) -> str:
        self.runs += 1
        return f"{self.name} {key}"


async def test_a_method_has_entries_for_each_instance(fake_relay: FakeRelay) -> None:
    one, other = Repository("one"), Repository("other")
    async with fake_relay.connect() as client:
        with Repository.cache.bound(client):
            await client.wait_live()

            assert [await one.read(1), await one.read(1), await other.read(1)] == ["one 1", "one 1", "other 1"]
            assert (one.runs, other.runs) == (1, 1)
            assert Repository.read.cache_invalidate(one, 1)
            assert not Repository.read.cache_contains(one, 1)


async def test_options_of_a_function_go_before_those_of_the_cache(fake_relay: FakeRelay) -> None:
    cache = Cache(maxsize=7, ignore=["language"])

    @cache(maxsize=3)
    def first(key: int, language: str) -> str:
        return language

    @cache
    def second(key: int, language: str) -> str:
        return language

    assert (first.cache_info().maxsize, second.cache_info().maxsize) == (3, 7)
    async with fake_relay.connect() as client:
        with cache.bound(client):
            await client.wait_live()
            assert (first.cache_info().maxsize, second.cache_info().maxsize) == (3, 7)
            assert [first(1, "en"), first(1, "de")] == ["en", "en"]


async def test_one_client_may_have_many_of_them(fake_relay: FakeRelay) -> None:
    caches = [Cache(), Cache()]
    shelves = [Shelf(cache) for cache in caches]
    async with fake_relay.connect() as client:
        for cache in caches:
            cache.bind(client)
        await client.wait_live()
        assert [[await shelf.price("Emma"), await shelf.price("Emma")] for shelf in shelves] == [[1, 1], [1, 1]]


async def test_it_can_not_be_bound_to_two_clients(fake_relay: FakeRelay) -> None:
    cache = Cache()
    async with fake_relay.connect() as one, fake_relay.connect() as other:
        cache.bind(one)
        with pytest.raises(ConfigurationError, match="unbind it first"):
            cache.bind(other)
        with pytest.raises(ConfigurationError, match="unbind it first"), cache.bound(other):
            pass
        assert cache.is_bound


async def test_binding_to_the_same_client_again_keeps_what_is_stored(fake_relay: FakeRelay) -> None:
    cache = Cache()
    shelf = Shelf(cache)
    async with fake_relay.connect() as client:
        with cache.bound(client):
            await client.wait_live()
            await shelf.price("Emma")

            with cache.bound(client):
                cache.bind(client)

            assert shelf.price.cache_contains("Emma")


# --- unbinding


async def test_unbinding_drops_what_was_stored_and_what_still_runs(fake_relay: FakeRelay) -> None:
    cache, source = Cache(), Source()
    read = cache(tables=["users"])(source.read)
    async with fake_relay.connect() as client:
        with cache.bound(client):
            await client.wait_live()
            assert await read(1) == 1
            running = await source.running(read(2))
        assert not cache.is_bound
        source.gate.set()
        assert await running == 2

        assert [await read(1), await read(2)] == [3, 4]
        with cache.bound(client):
            await client.wait_live()
            assert not read.cache_contains(1)
            assert not read.cache_contains(2)


async def test_a_call_that_was_made_before_and_is_awaited_after_unbinding_finds_nothing(fake_relay: FakeRelay) -> None:
    cache, source = Cache(), Source()
    read = cache(tables=["users"])(source.read)
    async with fake_relay.connect() as client:
        with cache.bound(client):
            await client.wait_live()
            await read(1)
            late = read(1)
        fake_relay.emit("users")

        assert await late == 2


async def test_after_unbinding_the_relay_is_asked_for_nothing_any_more(fake_relay: FakeRelay) -> None:
    cache = Cache()
    shelf = Shelf(cache)
    async with fake_relay.connect() as client:
        with cache.bound(client):
            await client.wait_live()
            assert await shelf.price("Emma") == 1
            assert client._watch.subscriptions.wanted() != []
        await asyncio.sleep(0)
        assert client._watch.subscriptions.wanted() == []


async def test_it_can_be_bound_to_the_next_client_after_the_last_was_closed(fake_relay: FakeRelay) -> None:
    cache = Cache()
    shelf = Shelf(cache)
    for run in (1, 2):
        async with fake_relay.connect() as client:
            with cache.bound(client):
                await client.wait_live()
                assert [await shelf.price("Emma"), await shelf.price("Emma")] == [run, run]


async def test_unbinding_what_is_not_bound_does_nothing() -> None:
    cache = Cache()
    shelf = Shelf(cache)

    cache.unbind()

    assert shelf.price_plain("Emma") == 1


# --- what can not work


def test_an_option_there_is_none_of_is_refused_where_it_is_written() -> None:
    wrong: Any = {"maxsiz": 5}

    with pytest.raises(ConfigurationError, match=r"no option 'maxsiz'.*maxsize"):
        Cache(**wrong)
    with pytest.raises(ConfigurationError, match="no option 'maxsiz'"):
        Cache()(**wrong)


def test_what_no_client_can_cache_is_refused_where_it_is_declared() -> None:
    with pytest.raises(ConfigurationError, match="no parameter 'session' to ignore"):
        Cache(ignore=["session"])(read_plain)
    with pytest.raises(ConfigurationError, match="below @staticmethod"):
        Cache()(staticmethod(read_plain))
    with pytest.raises(ConfigurationError, match="user_id"):
        Cache(rows=Row("users", id="user_id"))(read_plain)


async def test_when_one_function_can_not_be_bound_none_is(fake_relay: FakeRelay) -> None:
    cache, source = Cache(), Source()
    read = cache(source.read)
    wrong = cache(tables=["a.b.c"])(read_plain)
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match=r"a\.b\.c"):
            cache.bind(client)

        assert not cache.is_bound
        assert [await read(1), await read(1)] == [1, 2]
        assert wrong(1) == "1"


async def test_a_closed_client_can_not_be_bound(fake_relay: FakeRelay) -> None:
    cache, source = Cache(), Source()
    read = cache(source.read)
    client = await fake_relay.connect()
    await client.aclose()

    with pytest.raises(Closed):
        cache.bind(client)

    assert await read(1) == 1


# --- for as long as it is used


def test_a_declaration_ends_with_its_function(fake_relay: FakeRelay) -> None:
    cache = Cache(tables=["users"])
    with fake_relay.connect_sync() as client, cache.bound(client):
        declared = cache(functools.partial(read_plain, 5))
        function = weakref.ref(declared.__wrapped__)

        del declared
        gc.collect()

        assert function() is None
        assert len(cache._declared) == 0


def test_calls_go_on_while_it_is_bound_and_unbound(fake_relay: FakeRelay) -> None:
    cache = Cache()
    read = cache(tables=["users"])(read_plain)
    is_over = threading.Event()
    wrong: list[object] = []

    def call() -> None:
        while not is_over.is_set():
            try:
                wrong.extend(answer for answer in (read(1), read(2)) if answer not in ("1", "2"))
                read.cache_info()
            except BaseException as error:
                wrong.append(error)

    with fake_relay.connect_sync() as client:
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(30):
            with cache.bound(client):
                cache(read_plain)
        is_over.set()
        for thread in threads:
            thread.join()

    assert wrong == []
    assert not cache.is_bound


async def test_fastapi_awaits_an_endpoint_that_was_declared_early(fake_relay: FakeRelay) -> None:
    cache, app = Cache(tables=["prices"]), fastapi.FastAPI()
    runs = 0

    @app.get("/prices/{book}")
    @cache
    async def price(book: str, currency: str = "EUR") -> dict[str, str]:
        nonlocal runs
        runs += 1
        return {"book": book, "currency": currency}

    async with (
        fake_relay.connect() as client,
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as browser,
    ):
        assert (await browser.get("/prices/Emma")).json() == {"book": "Emma", "currency": "EUR"}
        with cache.bound(client):
            await client.wait_live()
            for _ in range(3):
                assert (await browser.get("/prices/Emma")).json() == {"book": "Emma", "currency": "EUR"}

    assert runs == 2


async def test_a_client_caches_a_function_that_was_declared_early_as_the_kind_it_is(fake_relay: FakeRelay) -> None:
    shelf = Shelf(Cache())
    async with fake_relay.connect() as client:
        price, plain = client.cache(shelf.price), client.cache(shelf.price_plain)
        await client.wait_live()

        assert [await price("Emma"), await price("Emma"), plain("Emma"), plain("Emma")] == [1, 1, 2, 2]
