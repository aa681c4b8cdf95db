"""The port is held before there is a worker, shared by the workers alone, and refused while somebody else serves it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pgcachewatch_daemon.workers.sockets import can_spread, hold, hold_soon

NEEDS_SPREADING = pytest.mark.skipif(not can_spread(), reason="no SO_REUSEPORT that spreads")
BOTH = [pytest.param(True, marks=NEEDS_SPREADING), False]


@pytest.mark.parametrize("is_spread", BOTH)
def test_a_free_port_is_chosen_and_known(is_spread: bool) -> None:
    held = hold("127.0.0.1", 0, is_spread=is_spread)
    assert held.port == held.sockets[0].getsockname()[1] > 0
    assert held.inherited == (() if is_spread else held.sockets)
    held.close()


@pytest.mark.parametrize("is_spread", BOTH)
def test_a_port_that_somebody_serves_is_refused_even_if_he_would_share_it(is_spread: bool) -> None:
    with socket.socket() as other:
        if is_spread:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            hold("127.0.0.1", other.getsockname()[1], is_spread=is_spread)


async def test_a_port_that_is_left_in_a_moment_is_waited_for() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        holding = asyncio.create_task(hold_soon(*other.getsockname(), is_spread=can_spread()))
        await asyncio.sleep(0)
        assert not holding.done()
    (await holding).close()


@NEEDS_SPREADING
def test_what_holds_the_port_gets_no_connection() -> None:
    held = hold("127.0.0.1", 0, is_spread=True)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", held.port)).close()
    with socket.socket() as worker:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(("127.0.0.1", held.port))
        worker.listen()
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", held.port), timeout=10):
                accepted, _ = worker.accept()
                accepted.close()
    held.close()


def test_sockets_to_inherit_accept_at_once() -> None:
    held = hold("127.0.0.1", 0, is_spread=False)
    socket.create_connection(("127.0.0.1", held.port), timeout=10).close()
    held.close()


def test_all_addresses_of_a_host_have_the_same_port() -> None:
    held = hold("", 0, is_spread=False)
    assert {each.getsockname()[1] for each in held.sockets} == {held.port}
    held.close()


def test_an_address_that_is_not_of_this_machine_is_refused_and_nothing_stays_open() -> None:
    with pytest.raises(OSError, match="assign"):
        hold("192.0.2.1", 0, is_spread=False)


def test_a_kernel_without_the_option_spreads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(socket.socket):
        def setsockopt(self, *values: object) -> None:
            raise OSError(92, "Protocol not available")

    monkeypatch.setattr(socket, "socket", Old)
    assert can_spread() is False
