"""Each refusal in both of its languages, and one clock for all grants that end."""

from __future__ import annotations

import asyncio
from typing import Any, cast, get_args

import pytest

from pgcachewatch_daemon.authentication import AccessOptions
from pgcachewatch_daemon.core.access import ANYBODY, Grant
from pgcachewatch_daemon.core.credentials import Denied, Reason
from pgcachewatch_daemon.gate import CLOSE_CODE, STATUS, Gate, answer
from pgcachewatch_daemon.io.http import Answer, Page
from pgcachewatch_daemon.io.websocket import Connection, HttpRequest
from pgcachewatch_daemon.visitor import Visitor
from tests.daemon.io.jwt.signing import CLAIM, SECRET, token


class Peer:
    """Of a connection, what the gate looks at."""

    peer = "10.0.0.7"
    peer_certificate_name = ""


class House:
    """Doors that remember who was shown out, and a wall clock that stands still."""

    def __init__(self, options: AccessOptions | None = None) -> None:
        self.wall_s = 1_000.0
        self.visitors: set[Visitor] = set()
        self.too_wide: set[Visitor] = set()
        self.dismissed: list[tuple[Visitor, int]] = []
        self.gate = Gate(options or AccessOptions(), doors=lambda: self, now_s=lambda: 0.0, wall_s=lambda: self.wall_s)

    def exceeds(self, visitor: Visitor, grant: Grant) -> bool:
        return visitor in self.too_wide

    def dismiss(self, visitor: Visitor, code: int, reason: str) -> None:
        self.dismissed.append((visitor, code))

    def let_in(self, *, expires_at: float | None) -> Visitor:
        visitor = Visitor(cast(Connection, Peer()), None)
        self.visitors.add(visitor)
        self.gate.watch(visitor, Grant("x", expires_at=expires_at))
        return visitor

    def identify(self, **headers: str) -> Grant | Answer:
        return self.gate.identify(request(**headers), cast(Connection, Peer()))


def request(path: str = "/v1/ws", **headers: str) -> HttpRequest:
    fields: dict[str, Any] = {"method": "GET", "path": path, "headers": headers, "peer": "10.0.0.7"}
    return HttpRequest(**fields)


@pytest.mark.parametrize("reason", get_args(Reason))
def test_each_reason_has_a_status_and_a_close_code(reason: Reason) -> None:
    refused = answer(Denied(reason, "a sentence"))

    assert refused.status == STATUS[reason]
    assert b"a sentence" in refused.body
    assert ("WWW-Authenticate" in refused.headers) == (refused.status == 401)
    assert ("Retry-After" in refused.headers) == (reason == "busy")
    assert 4100 <= CLOSE_CODE[reason] < 4400


def test_each_who_comes_in_is_known_by_the_token_of_its_request() -> None:
    house = House(AccessOptions(jwt_secret=SECRET))
    good = token(sub="7", exp=2_000_000_000, **CLAIM)

    for written in ("Bearer", "bearer", "BEARER"):
        known = house.identify(authorization=f"{written} {good}")
        assert isinstance(known, Grant)
        assert known.subject == "7"
    for shown in ("", good, f"Basic {good}", "Bearer else"):
        refused = house.identify(authorization=shown)
        assert isinstance(refused, Answer)
        assert refused.status == 401


def test_what_is_no_bearer_token_leaves_the_hello_to_say_who_it_is() -> None:
    gate = House().gate

    assert gate.has_credential(request(authorization="bearer x"))
    assert not gate.has_credential(request(authorization="Basic x"))
    assert not gate.has_credential(request())


def test_without_authentication_the_page_may_show_the_state() -> None:
    gate, connection = House().gate, cast(Connection, Peer())

    assert gate.refuse_page(Page.STATUS, request("/v1/status"), connection) is None
    assert House().identify() == ANYBODY


def test_without_tokens_the_state_is_not_told_to_a_page_whose_name_was_made_to_lead_here() -> None:
    connection = cast(Connection, Peer())
    stranger = request("/v1/status", host="evil.example:8420")
    listed = AccessOptions(allowed_origins=("http://evil.example:8420",))

    refused = House().gate.refuse_page(Page.STATUS, stranger, connection)
    assert refused is not None
    assert refused.status == 403
    assert b"allowed_origins" in refused.body
    assert House(listed).gate.refuse_page(Page.STATUS, stranger, connection) is None
    assert House().gate.refuse_page(Page.STATUS, request("/v1/status", host="127.0.0.1:8420"), connection) is None
    assert House().gate.refuse_page(Page.METRICS, stranger, connection) is None, "has no names in it"


@pytest.mark.parametrize("query", ["token", "token=", "a=b&access_token=x", "to%6ben=x", "TOKEN=x", "token=a&token=b"])
def test_a_token_in_an_address_is_found_however_it_is_written(query: str) -> None:
    refused = House().gate.refuse(request(f"/v1/ws?{query}"))

    assert refused is not None
    assert refused.status == 400


@pytest.mark.parametrize("path", ["/v1/ws", "/v1/ws?a=token", "/pgpubsub/token", "/v1/ws?tokens=1", "/?"])
def test_other_addresses_are_fine(path: str) -> None:
    assert House().gate.refuse(request(path)) is None


def test_whoever_is_over_is_shown_out_once_and_the_others_stay() -> None:
    house = House()
    early, late = house.let_in(expires_at=1_010.0), house.let_in(expires_at=1_020.0)
    house.let_in(expires_at=None)
    renewed, gone = house.let_in(expires_at=1_005.0), house.let_in(expires_at=1_006.0)
    house.gate.watch(renewed, Grant("x"))
    house.gate.forget(gone)
    seen = []
    for house.wall_s in (1_009.9, 1_010.0, 1_015.0, 1_030.0, 1_040.0):
        house.gate.end_what_is_over()
        seen.append(list(house.dismissed))

    assert seen == [[], [(early, 4200)], [(early, 4200)], *[[(early, 4200), (late, 4200)]] * 2]


def test_the_time_left_is_that_of_the_last_token() -> None:
    house = House()
    visitor = house.let_in(expires_at=1_010.0)

    assert house.gate.left_ms(visitor) == 10_000.0
    house.wall_s = 1_011.0
    assert house.gate.left_ms(visitor) == 0.0
    house.gate.watch(visitor, Grant("x"))
    assert house.gate.left_ms(visitor) is None


async def test_one_timer_looks_once_a_second_until_it_is_closed() -> None:
    house = House()
    visitor = house.let_in(expires_at=999.0)
    house.gate.start()

    assert house.dismissed == [(visitor, 4200)]
    await house.gate.close()
    assert not [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]


def test_a_change_asks_again_for_each_visitor() -> None:
    house = House()
    wide, kept = house.let_in(expires_at=None), house.let_in(expires_at=None)
    house.too_wide.add(wide)
    house.visitors.add(Visitor(cast(Connection, Peer()), None))  # its hello has not come
    house.gate.judge_anew()

    assert house.dismissed == [(wide, 4000)]
    assert kept.grant == Grant("x")
