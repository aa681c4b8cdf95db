"""What PROTOCOL.md asks of a client: how it ends and comes back, how long it serves, and where its token goes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request
from websockets.typing import Subprotocol

import pgcachewatch
from pgcachewatch.errors import ConfigurationError, Refused
from pgcachewatch.protocol import codec, messages
from pgcachewatch.testing import FakeRelay
from tests.client.virtual_time import until, virtual_time

STALENESS_S = 2.0
SECRET = "a-token-nobody-may-see"
SOON_S = 30.0


class Counted:
    """A function that counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    async def read(self) -> int:
        self.runs += 1
        return self.runs


# --- closing


@pytest.mark.rule("W-CLOSE-1")
@pytest.mark.parametrize(
    "code",
    [
        *(4000, 4050, 4099),
        *(4100, 4101, 4102, 4103, 4104, 4105, 4106, 4150, 4199),
        *(1000, 1001, 1006, 1011, 1012, 3000, 4400, 4999),
    ],
)
@virtual_time
async def test_a_client_comes_back_and_resumes_after_a_code_of_40xx_or_41xx_or_no_class(code: int) -> None:
    relay = FakeRelay()
    async with relay.connect() as client:
        await client.wait_live()
        relay.close(code)
        await until(lambda: client.status.resumes == 1)
        assert client.status.gaps == 0


@pytest.mark.rule("W-CLOSE-1")
@pytest.mark.parametrize("code", [4200, 4201, 4250, 4300, 4301, 4303, 4306, 4308, 4350, 4399])
@virtual_time
async def test_a_client_stops_after_a_code_of_43xx_or_a_refused_token_it_can_not_renew(code: int) -> None:
    relay = FakeRelay()
    async with relay.connect(token="old") as client:
        await client.wait_live()
        relay.close(code, "no")
        await until(lambda: client.status.last_error is not None)
        with pytest.raises(Refused) as caught:
            await client.barrier()
        assert caught.value.code == code
        await asyncio.sleep(3600)
        assert relay.connects == 1


@pytest.mark.rule("W-CLOSE-1")
@pytest.mark.parametrize("code", [4200, 4201, 4299])
@virtual_time
async def test_a_client_asks_for_another_token_after_a_code_of_42xx(code: int) -> None:
    relay = FakeRelay()
    tokens = (f"token {number}" for number in itertools.count(1))
    async with relay.connect(token=lambda: next(tokens)) as client:
        await client.wait_live()
        relay.close(code)
        await until(lambda: client.status.resumes == 1)
        assert next(tokens) == "token 3"


@pytest.mark.rule("W-CLOSE-2")
@virtual_time
async def test_a_client_waits_as_long_as_bye_asks() -> None:
    relay = FakeRelay()
    loop = asyncio.get_running_loop()
    async with relay.connect() as client:
        await client.wait_live()
        relay.send('{"t":"bye","code":4000,"after_ms":7000,"jitter_ms":1000}')
        relay.close(4000)
        left_s = loop.time()
        await until(lambda: client.status.resumes == 1)
        assert 7.0 <= loop.time() - left_s <= 8.5


@pytest.mark.rule("W-ERR-1")
@virtual_time
async def test_a_client_takes_an_err_of_any_code_for_a_refusal() -> None:
    relay = FakeRelay()
    async with relay.connect() as client:
        counted = Counted()
        cached = client.cache(counted.read, tables=["users"])
        await client.wait_live()
        relay.send('{"t":"err","id":1,"code":"of_another_year","message":"no","retry":false}')
        assert [await cached(), await cached()] == [1, 2]
        assert "of_another_year" in client.status.refusals[0]


# --- the lease


@pytest.fixture
def jumping_wall_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each look at the wall clock is a day before or after the last one."""
    times = itertools.cycle([0.0, 86_400.0, 4e9])
    monkeypatch.setattr(time, "time", lambda: next(times))
    monkeypatch.setattr(time, "time_ns", lambda: int(next(times) * 1e9))
    yield
    monkeypatch.undo()


@pytest.mark.rule("W-LEASE-1")
@pytest.mark.rule("W-LEASE-2")
@pytest.mark.usefixtures("jumping_wall_clock")
@virtual_time
async def test_an_entry_is_served_to_the_end_of_the_bound_and_not_beyond() -> None:
    relay, counted = FakeRelay(), Counted()
    async with relay.connect(staleness=STALENESS_S) as client:
        cached = client.cache(counted.read, tables=["users"])
        await client.wait_live()
        await cached()
        relay.mute()
        relay.advance(STALENESS_S - 0.01)
        assert await cached() == 1
        relay.advance(0.02)
        assert [await cached(), await cached()] == [2, 3], "freshness is not proven: run, and store nothing"


@pytest.mark.rule("W-LEASE-1")
@virtual_time
async def test_what_clocks_may_drift_apart_since_the_last_sample_is_taken_off_the_bound() -> None:
    relay = FakeRelay()
    async with relay.connect(staleness=STALENESS_S) as client:
        await client.wait_live()
        assert client.status.lease_left_s == pytest.approx(STALENESS_S)
        relay.advance(100.0)  # no ping is answered meanwhile, and a mark proves the end of it
        assert STALENESS_S - 0.1 < client.status.lease_left_s < STALENESS_S - 0.05


@pytest.mark.rule("W-LEASE-3")
@virtual_time
async def test_after_a_lost_link_the_lease_runs_out_and_a_welcome_does_not_renew_it() -> None:
    relay, counted = FakeRelay(), Counted()
    async with relay.connect(staleness=STALENESS_S) as client:
        cached = client.cache(counted.read, tables=["users"])
        await client.wait_live()
        await cached()
        relay.drop()
        relay.advance(1.5)
        assert await cached() == 1
        relay.lose_source()
        relay.restore()
        await until(lambda: client.status.resumes == 1)
        left_s = client.status.lease_left_s
        assert left_s == pytest.approx(0.5)
        relay.advance(left_s + 0.01)
        assert await cached() == 2
        relay.gap()
        await client.wait_live()
        assert client.status.lease_left_s == pytest.approx(STALENESS_S, abs=0.01)


# --- the token


class Recorder:
    """A relay that writes down what it is asked, and welcomes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.hellos: list[dict[str, object]] = []

    async def serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        self.requests.append(connection.request)
        self.hellos.append(json.loads(await connection.recv()))
        await connection.send(
            codec.encode(messages.Welcome(e="0" * 16, s=0, resumed=False, now=1.0, hb_ms=500, node="recorder"))
        )
        await connection.wait_closed()


@pytest.mark.rule("W-TOKEN-1")
@pytest.mark.rule("W-TRANSPORT-1")
async def test_a_client_asks_for_one_path_and_subprotocol_and_says_its_token_in_the_hello() -> None:
    recorder = Recorder()
    async with (
        asyncio.timeout(SOON_S),
        serve(recorder.serve, "127.0.0.1", 0, subprotocols=[Subprotocol(messages.SUBPROTOCOL)]) as server,
    ):
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        async with pgcachewatch.connect(url, token=SECRET) as client:
            assert client.status.is_connected
    (request,), (hello,) = recorder.requests, recorder.hellos
    assert request.path == "/v1/ws"
    assert request.headers["Sec-WebSocket-Protocol"] == "pgcachewatch.v1"
    assert hello["token"] == SECRET


@pytest.mark.rule("W-TOKEN-1")
@pytest.mark.parametrize("url", [f"ws://relay?token={SECRET}", f"wss://relay/v1/ws?{SECRET}"])
def test_a_client_refuses_a_token_in_the_url_and_does_not_repeat_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="token=") as caught:
        pgcachewatch.connect(url)
    assert SECRET not in str(caught.value)


@pytest.mark.rule("W-TRANSPORT-1")
async def test_a_client_that_is_given_no_subprotocol_does_not_stay() -> None:
    recorder = Recorder()
    async with asyncio.timeout(SOON_S), serve(recorder.serve, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with pytest.raises(pgcachewatch.errors.ConnectionFailed):
            await pgcachewatch.connect(url, open_timeout=0.5)
    assert recorder.hellos == []
