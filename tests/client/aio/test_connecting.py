"""Connecting, on a relay in memory: what is waited for, what is refused, and who is asked for a token."""

from __future__ import annotations

import pytest

import pgcachewatch
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, Refused
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.client.aio.source import Source

__all__ = ["fake_relay"]  # a fixture, for the tests below


async def test_connect_can_be_awaited(fake_relay: FakeRelay) -> None:
    client = await fake_relay.connect()
    assert client.status.is_connected
    await client.aclose()
    assert not client.status.is_connected


async def test_connect_gives_up_after_open_timeout(fake_relay: FakeRelay) -> None:
    fake_relay.drop()
    with pytest.raises(ConnectionFailed, match="no relay welcomed"):
        await fake_relay.connect(open_timeout=0.05)


async def test_connect_raises_what_a_relay_refused_for_good(fake_relay: FakeRelay) -> None:
    fake_relay.refuse(403)
    with pytest.raises(Refused, match="403") as caught:
        await fake_relay.connect()
    assert (caught.value.code, caught.value.may_retry) == (403, False)


async def test_without_open_timeout_the_client_starts_cold(fake_relay: FakeRelay) -> None:
    fake_relay.drop()
    async with fake_relay.connect(open_timeout=0) as client:
        read = client.cache(Source().read)
        assert client.status.state == "cold"
        assert [await read(1), await read(1)] == [1, 2]
        fake_relay.restore()
        await client.wait_live()
        assert [await read(1), await read(1)] == [3, 3]


async def test_one_connecting_makes_one_client(fake_relay: FakeRelay) -> None:
    connecting = fake_relay.connect()
    async with connecting:
        with pytest.raises(ConfigurationError, match="twice"):
            await connecting


@pytest.mark.parametrize(
    "options",
    [
        {"staleness": 0},
        {"staleness": float("inf")},
        {"on_disconnect": "hope"},
        {"event_buffer": 0},
        {"open_timeout": -1},
        {"channels": ()},
        {"channels": "a"},
        {"name": "x" * 201},
    ],
)
def test_options_that_can_not_work_are_refused_at_once(fake_relay: FakeRelay, options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        fake_relay.connect(**options)


@pytest.mark.parametrize("url", ["http://relay:8420", [], ["ws://a", "b"]])
def test_urls_that_can_not_work_are_refused_at_once(url: str | list[str]) -> None:
    with pytest.raises(ConfigurationError):
        pgcachewatch.connect(url)


async def test_a_token_source_is_asked_before_each_connection(fake_relay: FakeRelay) -> None:
    asked: list[int] = []

    def token() -> str:
        asked.append(1)
        return "secret"

    async with fake_relay.connect(token=token) as client:
        fake_relay.close(4200, "expired")
        await client.wait_live()
    assert len(asked) == 2


async def test_an_expired_token_without_a_source_stops(fake_relay: FakeRelay) -> None:
    async with fake_relay.connect(token="old") as client:
        fake_relay.close(4200, "expired")
        with pytest.raises(Refused, match="expired"):
            await client.wait_live()
        with pytest.raises(Refused, match="expired"):
            await client.barrier()
        assert isinstance(client.status.last_error, Refused)


async def test_a_client_can_be_used_without_a_relay_named_in_the_code(
    fake_relay: FakeRelay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgcachewatch, "connect", fake_relay.connect)
    async with pgcachewatch.connect("ws://production:8420", staleness=1.0) as client:
        assert client.status.is_connected
