"""Caches with row dependencies and the options of what is stored, on a relay in memory."""

from __future__ import annotations

import asyncio
import copy
import datetime
from collections.abc import Callable
from typing import Annotated, Any

import pytest

import pgcachewatch
from pgcachewatch import Ignore, Result, Row, Table, Tag
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol import codec, messages
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.aio.source import Source, settle

__all__ = ["fake_relay"]  # a fixture, for the tests below


async def test_a_change_of_one_row_drops_its_entry_and_no_other(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, rows=Row("users", id="key"))
        await client.wait_live()
        await read(1), await read(2)

        fake_relay.emit("users", id=1)

        assert [read.cache_contains(1), read.cache_contains(2)] == [False, True]
        fake_relay.emit("users")
        assert not read.cache_contains(2)


async def test_that_there_is_no_such_row_depends_on_the_row(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        find = client.cache(lambda key: None, rows=Row("users", id="key"))
        await client.wait_live()
        assert find(5) is None

        fake_relay.emit("users", "insert", id=4)
        assert find.cache_contains(5)
        fake_relay.emit("users", "insert", id=5)

        assert not find.cache_contains(5)


async def test_old_and_new_value_of_a_carried_column_are_met(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        orders_of = client.cache(source.read, rows=Row("orders", tenant_id="key"))
        await client.wait_live()
        for tenant in (1, 2, 3):
            await orders_of(tenant)

        fake_relay.emit("orders", id=77, tenant_id=[1, 2])

        assert [orders_of.cache_contains(tenant) for tenant in (1, 2, 3)] == [False, False, True]
        fake_relay.emit("orders", id=78)  # which tenant's is not said
        assert not orders_of.cache_contains(3)


async def test_rows_and_tables_add_up(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, rows=[Row("users", id="key")], tables=[Table("prices")])
        await client.wait_live()
        await read(1)
        fake_relay.emit("orders")
        assert read.cache_contains(1)
        fake_relay.emit("prices", id=9)
        assert not read.cache_contains(1)
        await read(1)
        fake_relay.emit("users", id=1)
        assert not read.cache_contains(1)


async def test_rows_that_the_result_tells_are_followed(fake_relay: FakeRelay) -> None:
    found = [1, 2]
    async with fake_relay.connect() as client:

        @client.cache(rows=Row("orders", id=Result(lambda orders: orders)))
        async def newest() -> list[int]:
            return list(found)

        await client.wait_live()
        await newest()
        fake_relay.emit("orders", id=3)
        assert newest.cache_contains()
        fake_relay.emit("orders", id=2)
        assert not newest.cache_contains()


async def test_a_change_while_the_function_runs_keeps_its_result_out(fake_relay: FakeRelay) -> None:
    started, go = asyncio.Event(), asyncio.Event()
    async with fake_relay.connect() as client:

        @client.cache(rows=Row("users", id="key"))
        async def read(key: int) -> int:
            started.set()
            await go.wait()
            return key

        await client.wait_live()
        call = asyncio.create_task(read(1))
        await started.wait()
        fake_relay.emit("users", id=1)
        go.set()
        await call
        assert not read.cache_contains(1)
        assert read.cache_info().discards == 1


async def test_a_value_its_column_can_not_hold_runs_the_function_for_each_call(
    fake_relay: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[object] = []
    async with fake_relay.connect() as client:
        read = client.cache(runs.append, rows=Row("users", id=lambda key: key))
        await client.wait_live()

        read(object), read(object)

        assert len(runs) == 2
        assert not read.cache_contains(object)
    assert caplog.text.count("this is logged once") == 1


@pytest.mark.parametrize("code", ["unknown_table", "unknown_column", "unusable_column"])
@pytest.mark.rule("W-ROW-3")
async def test_rows_that_do_not_exist_are_an_error_at_first_use(fake_relay: FakeRelay, code: str) -> None:
    async with fake_relay.connect() as client:
        read = client.cache(lambda key: key, rows=Row("usres", id="key"))
        other = client.cache(lambda key: key, tables=["users"])
        await client.wait_live()

        refusal = messages.Err(id=1, code=code, message="there is no table 'usres'; did you mean users?")
        fake_relay.send(codec.encode(refusal))

        with pytest.raises(ConfigurationError, match="did you mean users"):
            read(1)
        assert [other(1), other.cache_contains(1)] == [1, True]
        assert any("usres" in text for text in client.status.refusals)


async def test_rows_are_asked_for_again_while_the_relay_does_not_know_the_tables(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        read = client.cache(lambda key: key, rows=Row("users", id="key"))
        await client.wait_live()
        refusal = messages.Err(id=1, code="not_ready", message="wait", retry=True, after_ms=1)
        fake_relay.send(codec.encode(refusal))
        assert [read(1), read.cache_contains(1)] == [1, False]

        await client.wait_live()

        assert [read(1), read.cache_contains(1)] == [1, True]


async def test_what_is_odd_about_a_subscription_is_logged_and_in_the_status(
    fake_relay: FakeRelay, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_relay.connect() as client:
        odd = client.cache(lambda key: key, tables=["usres"])
        await client.wait_live()
        for sid in (8, 9):
            answer = messages.Subok(id=1, sid=sid, s=0, notice="there is no table 'usres'")
            fake_relay.send(codec.encode(answer))
        assert client.status.notices == ("there is no table 'usres'",)
        assert odd(1) == 1
    assert caplog.text.count("there is no table 'usres'") == 1


async def test_a_strategy_and_rows_exclude_each_other(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match="tables="):
            client.cache(lambda key: key, rows=Row("users", id="key"), strategy=pgcachewatch.Greedy())


async def test_tags_are_dropped_by_the_program_itself(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        tagged = client.cache(lambda key: key, tables=["users"], tags=["menu", Tag("front")])
        also = client.cache(lambda key: key, tables=["tag:menu", "users"])
        other = client.cache(lambda key: key, tables=["users"])
        await client.wait_live()
        tagged(1), also(1), other(1)

        assert client.invalidate(Tag("menu"), "front") == 2

        assert [tagged.cache_contains(1), also.cache_contains(1), other.cache_contains(1)] == [False, False, True]
        assert client.invalidate("nobody") == 0


@pytest.mark.parametrize("ttl", [10, "10s", datetime.timedelta(seconds=10)])
@pytest.mark.parametrize("is_async", [False, True])
async def test_an_entry_does_not_outlive_its_time(fake_relay: FakeRelay, ttl: Any, is_async: bool) -> None:
    runs: list[int] = []

    async def later(key: int) -> None:
        runs.append(key)

    async with fake_relay.connect() as client:
        function: Any = later if is_async else runs.append
        cached: Any = client.cache(function, tables=["users"], ttl=ttl, key=lambda key: key)
        await client.wait_live()

        async def call() -> None:
            answer = cached(1)
            if is_async:
                await answer

        await call()
        await call()
        fake_relay.advance(9.9)
        await call()
        assert runs == [1]
        fake_relay.advance(0.2)
        assert not cached.cache_contains(1)
        await call()
        assert runs == [1, 1]


@pytest.mark.parametrize("ttl", [0, -1, "10", "soon", "0s"])
async def test_a_time_to_live_that_is_none_is_refused(fake_relay: FakeRelay, ttl: Any) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match="ttl"):
            client.cache(lambda: 1, ttl=ttl)


@pytest.mark.parametrize(
    ("options", "filled_at", "gone_at"),
    [
        ({"ttl": 10, "stale": 5}, 10, 15),
        ({"ttl": 10, "refresh": 4}, 6, 10),
        ({"ttl": 10, "refresh": 4, "stale": 5}, 6, 15),
    ],
)
async def test_an_entry_near_its_end_is_served_while_one_run_fills_it_anew(
    fake_relay: FakeRelay, options: dict[str, Any], filled_at: float, gone_at: float
) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, tables=["users"], **options)
        await client.wait_live()
        assert await read(1) == 1
        fake_relay.advance(filled_at - 0.1)
        assert [await read(1), source.runs] == [1, 1]
        fake_relay.advance(0.2)
        source.gate.clear()
        assert [await read(1), await read(1)] == [1, 1]
        await settle()
        assert source.runs == 2, "one run for all"
        source.gate.set()
        await settle()
        assert [await read(1), source.runs] == [2, 2]
        fake_relay.advance(gone_at + 0.1)
        assert not read.cache_contains(1)
        assert await read(1) == 3


async def test_a_change_drops_an_entry_that_is_being_filled_anew(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, rows=Row("users", id="key"), ttl=10, stale=50)
        await client.wait_live()
        await read(1)
        fake_relay.advance(11)
        source.gate.clear()
        assert await read(1) == 1
        fake_relay.emit("users", id=1)
        source.gate.set()
        assert await read(1) == 3


async def test_a_refresh_that_fails_leaves_the_entry_and_is_tried_again(fake_relay: FakeRelay) -> None:
    outcomes = iter([1, 0, 3])

    async def read() -> int:
        outcome = next(outcomes)
        if not outcome:
            raise OSError("away")
        return outcome

    async with fake_relay.connect() as client:
        cached = client.cache(read, ttl=10, stale=50)
        await client.wait_live()
        assert await cached() == 1
        fake_relay.advance(11)
        for value in (1, 1, 3):
            assert await cached() == value
            await settle()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stale": 5}, "ttl"),
        ({"refresh": 5}, "ttl"),
        ({"ttl": 5, "refresh": 5}, "less than ttl"),
        ({"ttl": 5, "stale": "x"}, "stale"),
        ({"typed": False}, "typed"),
    ],
)
async def test_lengths_of_time_that_can_not_work_together_are_refused(
    fake_relay: FakeRelay, options: dict[str, Any], says: str
) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match=says):
            client.cache(Source().read, **options)


async def test_a_plain_function_can_not_be_filled_anew_beside_its_caller(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        with pytest.raises(ConfigurationError, match="no async def"):
            client.cache(lambda: 1, ttl=5, stale=5)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, [None, 0, 5]),
        ({"store_none": False}, [0, 5]),
        ({"store_if": bool}, [5]),
        ({"store_if": lambda value: value > 1, "store_none": True}, [5]),  # it raises for None
    ],
)
async def test_what_is_not_to_be_stored_is_returned_and_not_stored(
    fake_relay: FakeRelay, options: dict[str, Any], kept: list[object]
) -> None:
    async with fake_relay.connect() as client:
        cached = client.cache(lambda value: value, **options)
        await client.wait_live()
        values = [None, 0, 5]
        assert [cached(value) for value in values] == values
        assert [value for value in values if cached.cache_contains(value)] == kept


@pytest.mark.parametrize("make_copy", ["deep", copy.copy])
async def test_each_caller_of_a_copying_cache_has_a_value_of_his_own(
    fake_relay: FakeRelay, make_copy: Callable[[Any], Any]
) -> None:
    async with fake_relay.connect() as client:
        cached = client.cache(lambda key: [key], copy=make_copy)
        await client.wait_live()
        for _ in range(3):
            mine = cached(1)
            assert mine == [1]
            mine.append(2)
        assert cached.cache_info().hits == 2


async def test_a_parameter_marked_ignore_does_not_tell_calls_apart(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:

        @client.cache(rows=Row("users", id="user_id"))
        async def read(session: Annotated[object, Ignore], user_id: int) -> int:
            return user_id

        await client.wait_live()
        await read(object(), 1), await read(object(), 1)
        assert (read.cache_info().hits, read.cache_info().misses) == (1, 1)


async def test_parameters_of_a_cache_can_be_asked(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        cached = client.cache(lambda key: key, tables=["users"], maxsize=7, ttl="1m")
        assert cached.cache_parameters() == {"maxsize": 7, "typed": True, "tables": ["users"], "ttl": "1m"}


async def test_row_entries_stay_warm_over_a_reconnect_and_lose_what_changed_meanwhile(fake_relay: FakeRelay) -> None:
    source = Source()
    async with fake_relay.connect() as client:
        read = client.cache(source.read, rows=Row("users", id="key"))
        await client.wait_live()
        await read(1), await read(2)
        fake_relay.drop()
        fake_relay.emit("users", id=1)
        fake_relay.restore()
        await client.wait_live()
        await settle()
        assert [read.cache_contains(1), read.cache_contains(2)] == [False, True]
