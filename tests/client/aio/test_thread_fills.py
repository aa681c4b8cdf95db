"""Single flight of a plain `def`: threads that share a run, and what failure and interruption do to it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from pgcachewatch.aio.flight import CURRENT, Node, ThreadFlight
from pgcachewatch.core.store import Fill
from pgcachewatch.errors import ConfigurationError
from tests.client.aio.source import LIMIT_S, Shop
from tests.waiting import wait_until

CALLERS = 8


class Gated:
    """Returns the number of the run, once `gate` is open."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)

    def read(self, key: int = 0) -> int:
        number = next(self._numbers)
        self.threads.append(threading.get_ident())
        self.started.release()
        assert self.gate.wait(LIMIT_S)
        return number

    def wait_started(self) -> None:
        assert self.started.acquire(timeout=LIMIT_S)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CALLERS) as executor:
        yield executor


def joined(shop: Shop, count: int) -> None:
    wait_until(lambda: shop.ask.cache_info().joins >= count)


def result(future: Future[Any]) -> Any:
    return future.result(LIMIT_S)


# --- one run for all


def test_threads_that_call_at_once_share_one_run(pool: ThreadPoolExecutor) -> None:
    source = Gated()
    shop = Shop(source.read)
    calls = [pool.submit(shop.ask, 5) for _ in range(CALLERS)]

    joined(shop, CALLERS - 1)
    source.gate.set()

    assert [result(call) for call in calls] == [1] * CALLERS
    assert shop.ask(5) == 1
    info = shop.ask.cache_info()
    assert (info.misses, info.joins, info.hits) == (1, CALLERS - 1, 1)


def test_the_function_runs_in_the_thread_of_its_first_caller() -> None:
    source = Gated()
    source.gate.set()

    Shop(source.read).ask(5)

    assert source.threads == [threading.get_ident()]


def test_the_function_runs_in_the_context_of_its_first_caller() -> None:
    """And not in a copy: what it sets stays set, as without a cache."""
    tenant = contextvars.ContextVar("tenant", default="none")

    def read() -> str:
        return tenant.set("acme").var.get()

    assert Shop(read).ask() == "acme"
    assert tenant.get() == "acme"


def test_calls_of_different_keys_run_beside_each_other(pool: ThreadPoolExecutor) -> None:
    source = Gated()
    shop = Shop(source.read)
    calls = [pool.submit(shop.ask, key) for key in (1, 2)]

    source.wait_started()
    source.wait_started()
    source.gate.set()

    assert {result(call) for call in calls} == {1, 2}


def test_an_invalidation_detaches_the_run_from_later_calls(pool: ThreadPoolExecutor) -> None:
    source = Gated()
    shop = Shop(source.read)
    early = pool.submit(shop.ask, 5)
    source.wait_started()

    shop.store.flush()
    late = pool.submit(shop.ask, 5)
    source.wait_started()
    source.gate.set()

    assert [result(early), result(late)] == [1, 2]


def test_statistics_are_told_of_each_call(pool: ThreadPoolExecutor) -> None:
    told: list[str] = []
    source = Gated()
    shop = Shop(source.read, statistics=told.append)
    first = pool.submit(shop.ask, 5)
    source.wait_started()
    second = pool.submit(shop.ask, 5)
    joined(shop, 1)
    source.gate.set()
    result(first)
    result(second)

    shop.ask(5)

    assert told == ["miss", "hit", "hit"]


def test_a_call_without_proof_of_freshness_is_not_stored() -> None:
    source = Gated()
    source.gate.set()
    shop = Shop(source.read)
    shop.trust.renew(shop.now_s)

    assert [shop.ask(5), shop.ask(5)] == [1, 2]


# --- failure and interruption


def test_each_caller_gets_an_error_of_his_own_and_nothing_is_stored(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    runs = 0

    def read(key: int) -> None:
        nonlocal runs
        runs += 1
        assert gate.wait(LIMIT_S)
        raise ValueError(key)

    shop = Shop(read)
    calls = [pool.submit(shop.ask, 5) for _ in range(CALLERS)]
    joined(shop, CALLERS - 1)
    gate.set()

    errors = [call.exception(LIMIT_S) for call in calls]
    assert [repr(error) for error in errors] == ["ValueError(5)"] * CALLERS
    assert len({id(error) for error in errors}) == CALLERS
    assert runs == 1
    with pytest.raises(ValueError, match="5"):
        shop.ask(5)
    assert runs == 2


def test_who_waits_for_a_run_that_was_interrupted_starts_over(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    runs = 0

    def read(key: int) -> int:
        nonlocal runs
        runs += 1
        number = runs
        if number == 1:
            assert gate.wait(LIMIT_S)
            raise KeyboardInterrupt
        return number

    shop = Shop(read)
    first = pool.submit(shop.ask, 5)
    wait_until(lambda: runs == 1)
    others = [pool.submit(shop.ask, 5) for _ in range(3)]
    joined(shop, 3)
    gate.set()

    assert isinstance(first.exception(LIMIT_S), KeyboardInterrupt)
    assert [result(call) for call in others] == [2, 2, 2]


def test_an_exit_is_what_the_function_had_to_say(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    runs = 0

    def read(key: int) -> None:
        nonlocal runs
        runs += 1
        assert gate.wait(LIMIT_S)
        raise SystemExit(3)

    shop = Shop(read)
    calls = [pool.submit(shop.ask, 5) for _ in range(2)]
    joined(shop, 1)
    gate.set()

    assert [repr(call.exception(LIMIT_S)) for call in calls] == ["SystemExit(3)"] * 2
    assert runs == 1


def test_a_statistics_callback_that_stops_a_call_leaves_no_run_to_wait_for(pool: ThreadPoolExecutor) -> None:
    class Stop(BaseException):
        """As test runners and greenlets raise."""

    is_stopping = True

    def statistics(what: str) -> None:
        if is_stopping:
            raise Stop

    source = Gated()
    source.gate.set()
    shop = Shop(source.read, statistics=statistics)
    with pytest.raises(Stop):
        shop.ask(5)

    is_stopping = False

    assert result(pool.submit(shop.ask, 5)) == 1


def test_a_result_that_can_be_read_only_once_is_refused() -> None:
    shop = Shop(lambda: (number for number in range(3)))

    for _ in range(2):
        with pytest.raises(ConfigurationError, match="generator"):
            shop.ask()


def test_a_coroutine_that_a_plain_function_returns_is_refused_and_closed() -> None:
    async def read() -> int:
        return 5

    with pytest.raises(ConfigurationError, match="coroutine"):
        Shop(lambda: read()).ask()


def test_a_call_that_does_not_fit_is_refused_in_the_functions_own_words() -> None:
    with pytest.raises(TypeError, match=r"Gated\.read\(\).*unknown"):
        Shop(Gated().read).ask(unknown=5)


# --- overtaken runs


class Waited(threading.Event):
    """Tells when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_waited_for = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.is_waited_for.set()
        return super().wait(timeout)


class Database:
    """One version. Each run reads it when the test says so, and returns when the test says so."""

    def __init__(self) -> None:
        self.version = 0
        self.runs: list[tuple[threading.Event, threading.Event, threading.Event]] = []

    def read(self) -> int:
        may_read, has_read, may_return = run = (threading.Event(), threading.Event(), threading.Event())
        self.runs.append(run)
        assert may_read.wait(LIMIT_S)
        saw = self.version
        has_read.set()
        assert may_return.wait(LIMIT_S)
        return saw

    def let_read(self, number: int) -> None:
        """Let this run, the first being 0, look at the version."""
        wait_until(lambda: len(self.runs) > number)
        may_read, has_read, _ = self.runs[number]
        may_read.set()
        assert has_read.wait(LIMIT_S)

    def let_end(self, number: int) -> None:
        self.let_read(number)
        self.runs[number][2].set()


def current(shop: Shop) -> Fill[ThreadFlight[Any]]:
    wait_until(lambda: shop.store.current(()) is not None)
    fill = shop.store.current(())
    assert fill is not None
    return fill


def watched(shop: Shop) -> threading.Event:
    """Set when somebody waits for the end of the current run."""
    waited = Waited()
    current(shop).run.landed = waited
    return waited.is_waited_for


def test_no_call_gets_less_than_a_detached_run_has_returned(pool: ThreadPoolExecutor) -> None:
    database = Database()
    shop = Shop(database.read)
    detached = pool.submit(shop.ask)
    wait_until(lambda: len(database.runs) == 1)
    shop.store.flush()
    overtaken = pool.submit(shop.ask)
    database.let_read(1)
    database.version = 1
    database.let_end(0)
    assert result(detached) == 1

    is_waited_for = watched(shop)
    later = pool.submit(shop.ask)
    assert is_waited_for.wait(LIMIT_S)
    assert len(database.runs) == 2
    database.let_end(1)

    assert result(overtaken) == 0  # it overlaps with the detached run
    database.let_end(2)
    assert result(later) == 1
    assert shop.ask() == 1


def test_no_call_gets_less_than_one_that_passed_the_cache_by(pool: ThreadPoolExecutor) -> None:
    is_fresh_wanted = contextvars.ContextVar("is_fresh_wanted", default=False)
    database = Database()
    shop = Shop(database.read, bypass=is_fresh_wanted.get)

    def ask_past_the_cache() -> int:
        is_fresh_wanted.set(True)
        return int(shop.ask())

    overtaken = pool.submit(shop.ask)
    database.let_read(0)
    database.version = 1
    alone = pool.submit(contextvars.copy_context().run, ask_past_the_cache)
    database.let_end(1)
    assert result(alone) == 1

    is_waited_for = watched(shop)
    later = pool.submit(shop.ask)
    assert is_waited_for.wait(LIMIT_S)
    database.let_end(0)
    database.let_end(2)

    assert result(overtaken) == 0
    assert result(later) == 1


def test_who_waits_for_an_overtaken_run_does_not_get_its_error(pool: ThreadPoolExecutor) -> None:
    gate = threading.Event()
    runs = 0

    def read() -> int:
        nonlocal runs
        runs += 1
        number = runs
        if number == 1:
            assert gate.wait(LIMIT_S)
            raise ValueError("a")
        return number

    shop = Shop(read)
    first = pool.submit(shop.ask)
    is_waited_for = watched(shop)
    shop.store.overtake(())
    later = pool.submit(shop.ask)
    assert is_waited_for.wait(LIMIT_S)
    gate.set()

    assert isinstance(first.exception(LIMIT_S), ValueError)
    assert result(later) == 2


# --- functions that call each other


def test_a_function_that_calls_itself_with_the_same_arguments_ends() -> None:
    depth = 0

    def read(key: int) -> int:
        nonlocal depth
        depth += 1
        return int(shop.ask(key)) + 1 if depth < 4 else 0

    shop = Shop(read)

    assert shop.ask(5) == 3


def test_a_function_may_call_itself_with_other_arguments() -> None:
    runs = 0

    def factorial(number: int) -> int:
        nonlocal runs
        runs += 1
        return number * int(shop.ask(number - 1)) if number else 1

    shop = Shop(factorial)

    assert [shop.ask(5), shop.ask(5), shop.ask(4)] == [120, 120, 24]
    assert runs == 6


def test_two_functions_that_call_each_other_from_two_threads_end(pool: ThreadPoolExecutor) -> None:
    both_run = threading.Barrier(2, timeout=LIMIT_S)
    numbers = itertools.count(1)

    def calls(other: Callable[[], Shop]) -> Callable[[int], int]:
        def read(key: int) -> int:
            if next(numbers) > 2:
                return 1
            both_run.wait()
            return int(other().ask(key))

        return read

    first, second = Shop(calls(lambda: second)), Shop(calls(lambda: first))

    futures = [pool.submit(shop.ask, 5) for shop in (first, second)]

    assert [result(future) for future in futures] == [1, 1]


def test_who_waited_for_whom_is_forgotten_when_the_call_is_over(pool: ThreadPoolExecutor) -> None:
    nodes: list[Node | None] = []
    source = Gated()

    def broken(key: int) -> None:
        raise ValueError(key)

    def read_all(key: int) -> int:
        nodes.append(CURRENT.get())
        with contextlib.suppress(ValueError):
            failing.ask(key)
        return int(inner.ask(key)) + int(inner.ask(key))

    failing, inner, outer = Shop(broken), Shop(source.read), Shop(read_all)
    running = pool.submit(inner.ask, 5)
    source.wait_started()
    call = pool.submit(outer.ask, 5)
    joined(inner, 1)
    source.gate.set()

    assert [result(running), result(call)] == [1, 2]
    assert outer.ask(6) == 4  # where it led the run, and did not join
    assert [node.waits_for for node in nodes if node is not None] == [[], []]
    assert CURRENT.get() is None


# --- loops


async def test_a_cached_def_can_be_called_on_a_loop() -> None:
    source = Gated()
    source.gate.set()
    shop = Shop(source.read)

    assert [shop.ask(5), await asyncio.to_thread(shop.ask, 5)] == [1, 1]
