"""The table of a client's metrics, its document, and what a scrape shows of both kinds of client."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pgcachewatch.contrib import prometheus as contrib
from pgcachewatch.contrib.prometheus import METRICS, read, register, render_table
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.promtool import needs_promtool, promtool

__all__ = ["fake_relay"]  # a fixture, for the tests below

# Where the library has no types.
OPENMETRICS: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest
READ_OPENMETRICS: Callable[[str], Iterator[Metric]] = text_string_to_metric_families
DOCUMENT = Path(contrib.__file__).parent / "METRICS.md"


async def price(number: int) -> int:
    return number


def samples(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    parts = [line.rpartition(" ") for line in lines if line and line[0] != "#"]
    return {name: float(value) for name, _, value in parts}


def test_the_document_is_what_the_table_says() -> None:
    assert DOCUMENT.read_text() == render_table(), "run python -m pgcachewatch.contrib.prometheus > .../METRICS.md"


def test_names_are_unique_and_say_whose_they_are() -> None:
    assert len({row.name for row in METRICS}) == len(METRICS)
    assert all(row.name.startswith(("client_", "cache_")) for row in METRICS)
    assert all(row.labels == ("function",) for row in METRICS if row.name.startswith("cache_"))


async def test_a_scrape_shows_what_the_caches_count(fake_relay: FakeRelay) -> None:
    registry = CollectorRegistry()
    async with fake_relay.connect() as client:
        register(client, registry=registry)
        cached = client.cache(price, tables=["prices"])
        await client.wait_live()
        await cached(1), await cached(1), await cached(2)
        fake_relay.emit("prices")
        await client.barrier()

        shown = samples(registry)
        assert shown['pgcachewatch_cache_hits_total{client="",function="price"}'] == 1
        assert shown['pgcachewatch_cache_misses_total{client="",function="price"}'] == 2
        assert shown['pgcachewatch_cache_entries{client="",function="price"}'] == 0
        assert shown['pgcachewatch_cache_flushes_total{client="",function="price"}'] >= 1
        assert shown['pgcachewatch_client_state{client="",state="live"}'] == 1
        assert shown['pgcachewatch_client_state{client="",state="cold"}'] == 0
        assert shown['pgcachewatch_client_connected{client=""}'] == 1
        assert shown['pgcachewatch_client_lease_left_seconds{client=""}'] > 0


async def test_each_row_has_a_reading_and_none_is_left_over(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        assert set(read(client)) == {row.name for row in METRICS}


async def test_functions_of_one_name_are_added_up(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect() as client:
        one, other = (client.cache(price, tables=["prices"], name="price") for _ in range(2))
        await client.wait_live()
        await one(1), await other(1), await other(2)
        readings = read(client)
        assert readings["cache_misses"] == {("price",): 3.0}
        assert readings["cache_entries"] == {("price",): 3.0}


def test_a_client_for_threads_is_shown_in_the_same_way(fake_relay: FakeRelay) -> None:
    registry = CollectorRegistry()
    with fake_relay.connect_sync() as client:
        register({"shop": client}, registry=registry)
        cached = client.cache(lambda: 1, tables=["prices"], name="one")
        client.wait_live(5.0)
        cached(), cached()
        assert samples(registry)['pgcachewatch_cache_hits_total{client="shop",function="one"}'] == 1


async def test_a_client_that_is_gone_shows_nothing_and_is_not_kept_alive(fake_relay: FakeRelay) -> None:
    registry = CollectorRegistry()
    client = await fake_relay.connect()
    register(client, registry=registry)
    await client.aclose()
    del client
    gc.collect()
    assert samples(registry) == {}


async def test_a_second_registration_is_refused_by_the_registry(fake_relay: FakeRelay) -> None:
    registry = CollectorRegistry()
    async with fake_relay.connect() as client:
        registry.unregister(register(client, registry=registry))
        register(client, registry=registry)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            register(client, registry=registry)


@needs_promtool
async def test_prometheus_finds_no_fault_with_it(fake_relay: FakeRelay) -> None:
    registry = CollectorRegistry()
    async with fake_relay.connect() as client:
        register(client, registry=registry)
        client.cache(price, tables=["prices"])
        assert promtool("check", "metrics", given=generate_latest(registry)) == ""


async def test_openmetrics_has_the_units(fake_relay: FakeRelay) -> None:
    registry = CollectorRegistry()
    async with fake_relay.connect() as client:
        register(client, registry=registry)
        client.cache(price, tables=["prices"])
        text = OPENMETRICS(registry).decode()
    units = {family.name: family.unit for family in READ_OPENMETRICS(text)}
    assert {name: unit for name, unit in units.items() if unit} == {"pgcachewatch_client_lease_left_seconds": "seconds"}
    assert units.keys() == {f"pgcachewatch_{row.name}" for row in METRICS}


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: dict[str, Any] = dict.fromkeys(("prometheus_client", "prometheus_client.core"))
    for name, module in hidden.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "pgcachewatch.contrib.prometheus")
    with pytest.raises(ImportError, match="pip install prometheus-client"):
        importlib.import_module("pgcachewatch.contrib.prometheus")
