"""The client for threads, on a relay in memory: hits on the calling thread, the end, and forks."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

import pgcachewatch
from pgcachewatch import threads
from pgcachewatch.errors import BarrierTimeout, Closed, ConfigurationError, ConnectionFailed
from pgcachewatch.models import Event
from pgcachewatch.testing import FakeRelay, fake_relay

__all__ = ["fake_relay"]  # a fixture, for the tests below


class Source:
    """A function to cache, and how often it ran, and where."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)

    def read(self, key: int = 0) -> int:
        self.threads.append(threading.get_ident())
        number = len(self.threads)
        self.started.release()
        assert self.gate.wait(10)
        return number


def test_the_package_names_it_sync() -> None:
    assert pgcachewatch.sync is threads


def test_hits_and_runs_happen_on_the_calling_thread(fake_relay: FakeRelay) -> None:
    source = Source()
    with fake_relay.connect_sync() as client:
        read = client.cache(source.read, tables=["users"])
        client.wait_live(5)
        assert [read(1), read(1)] == [1, 1]
        assert source.threads == [threading.get_ident()]


def test_an_event_has_dropped_the_entry_when_emit_returns(fake_relay: FakeRelay) -> None:
    source = Source()
    with fake_relay.connect_sync() as client:
        read = client.cache(tables=["users"])(source.read)
        client.wait_live(5)
        read(1)
        fake_relay.emit("users")
        assert not read.cache_contains(1)
        assert read(1) == 2


def test_a_hit_does_not_need_the_loop(fake_relay: FakeRelay) -> None:
    source = Source()
    with fake_relay.connect_sync() as client:
        read = client.cache(source.read, tables=["users"])
        client.wait_live(5)
        read(1)
        is_blocked, go_on = threading.Event(), threading.Event()

        def block() -> None:
            is_blocked.set()
            go_on.wait(10)

        client._home.call(block)
        assert is_blocked.wait(10)
        assert read(1) == 1
        go_on.set()


def test_many_threads_share_one_run(fake_relay: FakeRelay) -> None:
    source = Source()
    with fake_relay.connect_sync() as client, ThreadPoolExecutor(8) as pool:
        read = client.cache(source.read, tables=["users"])
        client.wait_live(5)
        source.gate.clear()
        first = pool.submit(read, 1)
        assert source.started.acquire(timeout=10)
        others = [pool.submit(read, 1) for _ in range(7)]
        while read.cache_info().joins < 7:
            pass  # until each of them waits for the first
        source.gate.set()
        assert {future.result(10) for future in [first, *others]} == {1}


def test_coroutine_functions_can_be_cached_too(fake_relay: FakeRelay) -> None:
    with fake_relay.connect_sync() as client:

        @client.cache(tables=["users"])
        async def read() -> list[int]:
            return []

        client.wait_live(5)

        async def twice() -> bool:
            return await read() is await read()

        assert asyncio.run(twice())


def test_fresh_holds_for_the_thread_that_asks(fake_relay: FakeRelay) -> None:
    source = Source()
    with fake_relay.connect_sync() as client, ThreadPoolExecutor(1) as pool:
        read = client.cache(source.read, tables=["users"])
        client.wait_live(5)
        assert [read(1), read(2)] == [1, 2]
        with client.fresh():
            assert read(1) == 3
            assert pool.submit(read, 2).result(10) == 2


def test_events_can_be_iterated(fake_relay: FakeRelay) -> None:
    with fake_relay.connect_sync() as client, client.events("users", operations={"insert"}) as events:
        fake_relay.emit("users", "update")
        fake_relay.emit("users", "insert", key="7")
        event = next(events)
        assert isinstance(event, Event)
        assert event.keys == ("7",)


def test_closing_ends_an_iteration_that_waits(fake_relay: FakeRelay) -> None:
    client = fake_relay.connect_sync()
    events = client.events("users")
    with ThreadPoolExecutor(1) as pool:
        consumer = pool.submit(list, events)
        fake_relay.emit("users")
        client.close()
        assert len(consumer.result(10)) == 1


def test_a_barrier_passes_or_says_what_is_missing(fake_relay: FakeRelay) -> None:
    with fake_relay.connect_sync() as client:
        client.barrier()
        fake_relay.lose_source()
        with pytest.raises(BarrierTimeout, match="source"):
            client.barrier(timeout=0.05)


def test_a_relay_that_is_not_there_raises_and_leaves_no_thread(fake_relay: FakeRelay) -> None:
    before = threading.active_count()
    fake_relay.drop()
    with pytest.raises(ConnectionFailed):
        fake_relay.connect_sync(open_timeout=0.05)
    assert threading.active_count() == before


def test_arguments_that_can_not_work_leave_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(ConfigurationError):
        threads.connect("http://wrong")
    assert threading.active_count() == before


def test_after_closing_functions_run_and_the_rest_raises(fake_relay: FakeRelay) -> None:
    source = Source()
    before = threading.active_count()
    client = fake_relay.connect_sync()
    read = client.cache(source.read, on_disconnect="stale")
    client.wait_live(5)
    read(1)
    client.close()
    client.close()
    assert threading.active_count() == before
    assert [read(1), read(1)] == [2, 3]
    calls: list[Callable[[], object]] = [client.barrier, client.wait_live, client.events, lambda: client.cache(len)]
    for call in calls:
        with pytest.raises(Closed):
            call()
    assert client.status.is_closed


def test_a_client_nobody_closed_is_closed_when_it_is_garbage(fake_relay: FakeRelay) -> None:
    before = threading.active_count()
    client = fake_relay.connect_sync()
    del client
    gc.collect()
    assert threading.active_count() == before


def test_a_blocking_call_on_the_clients_own_thread_is_refused(fake_relay: FakeRelay) -> None:
    with fake_relay.connect_sync() as client:
        outcome: list[BaseException] = []
        is_done = threading.Event()

        def ask() -> None:
            try:
                client.barrier()
            except ConfigurationError as error:
                outcome.append(error)
            is_done.set()

        client._home.call(ask)
        assert is_done.wait(10)
        assert "own thread" in str(outcome[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_in_a_forked_child_functions_run_and_the_rest_names_the_remedy() -> None:
    program = """
        import os, sys
        from pgcachewatch.testing import FakeRelay
        from pgcachewatch.errors import ConfigurationError
        client = FakeRelay().connect_sync()
        runs = []
        read = client.cache(lambda: runs.append(1) or len(runs), on_disconnect="raise")
        client.wait_live(5)
        assert [read(), read()] == [1, 1]
        if os.fork() == 0:
            try:
                client.barrier()
            except ConfigurationError as error:
                assert "fork" in str(error)
                assert [read(), read()] == [2, 3]
                assert not client.connection_healthy()
                client.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 7
        assert read() == 1
        client.close()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def test_a_program_that_forgets_to_close_ends_quietly() -> None:
    program = """
        from pgcachewatch.testing import FakeRelay
        client = FakeRelay().connect_sync()
        events = client.events("users")
    """
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert ended.stderr == ""
