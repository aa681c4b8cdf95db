"""What goes into the slow path and what comes out of it: keys, values, what is served, and who is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Literal

import pytest

from pgcachewatch.aio.fills import RUN_ALONE
from pgcachewatch.core.store import Entry
from pgcachewatch.errors import ConfigurationError
from tests.client.aio.desk import NOW_S, Desk

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
