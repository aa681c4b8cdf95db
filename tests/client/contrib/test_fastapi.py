"""FastAPI: the client lives as long as the application, and what is injected must be named."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Header, HTTPException, Request, Response, Security
from fastapi.security import SecurityScopes

import pgcachewatch
from pgcachewatch import Ignore
from pgcachewatch.contrib import fastapi as contrib
from pgcachewatch.contrib.fastapi import Relay, connected, endpoint, lifespan
from pgcachewatch.errors import ConfigurationError
from pgcachewatch.testing import FakeRelay, fake_relay

if TYPE_CHECKING:
    from decimal import Decimal

__all__ = ["fake_relay"]  # a fixture, for the tests below

URL = "ws://relay.invalid"


@pytest.fixture(autouse=True)
def relay(fake_relay: FakeRelay, monkeypatch: pytest.MonkeyPatch) -> FakeRelay:
    monkeypatch.setattr(pgcachewatch, "connect", fake_relay.connect)
    return fake_relay


@contextlib.asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as browser,
    ):
        await app.state.pgcachewatch.wait_live()
        yield browser


class Session:
    """What a request gets of a database; each request another one."""


User = Annotated[str, Header()]


def logged_in(user: User = "nobody") -> str:
    if user == "mallory":
        raise HTTPException(403)
    return user


# --- the client of an application


async def test_the_client_lives_as_long_as_the_application_and_is_injected(relay: FakeRelay) -> None:
    cache = pgcachewatch.Cache()
    app = FastAPI(lifespan=lifespan(URL, cache, name="shop"))
    seen: list[pgcachewatch.Client] = []

    @app.get("/")
    async def read(relay: Relay) -> None:
        seen.append(relay)

    async with running(app) as browser:
        await browser.get("/")
        assert (cache.is_bound, seen[0].status.is_closed) == (True, False)

    assert (cache.is_bound, seen[0].status.is_closed) == (False, True)
    assert not hasattr(app.state, "pgcachewatch")


async def test_an_application_with_a_lifespan_of_its_own_connects_in_it() -> None:
    clients = []

    @contextlib.asynccontextmanager
    async def own(app: FastAPI) -> AsyncIterator[None]:
        async with connected(app, URL) as client:
            clients.append(client)
            yield

    app = FastAPI(lifespan=own)
    async with running(app):
        assert app.state.pgcachewatch is clients[0]


async def test_without_a_client_the_dependency_says_how_to_get_one() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(relay: Relay) -> None: ...

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app") as browser:
        with pytest.raises(ConfigurationError, match="lifespan"):
            await browser.get("/")


async def test_an_application_can_run_again() -> None:
    cache = pgcachewatch.Cache()
    app = FastAPI(lifespan=lifespan(URL, cache))
    for _ in range(2):
        async with running(app):
            assert cache.is_bound


# --- cached endpoints


class Shop:
    """An application with one cached endpoint, and how often it ran."""

    def __init__(self) -> None:
        self.runs = 0
        self.sessions: set[Session] = set()
        cache = pgcachewatch.Cache(tables=["orders"])
        self.app = FastAPI(lifespan=lifespan(URL, cache))

        @self.app.get("/orders/{order}")
        @endpoint(cache, ignore=["db"], keep=["user"])
        async def get_order(
            order: int, db: Annotated[Session, Depends(Session)], user: Annotated[str, Depends(logged_in)]
        ) -> dict[str, object]:
            self.runs += 1
            self.sessions.add(db)
            return {"order": order, "seen by": user}


async def test_an_endpoint_is_cached_whatever_session_is_injected(relay: FakeRelay) -> None:
    shop = Shop()
    async with running(shop.app) as browser:
        for _ in range(3):
            assert (await browser.get("/orders/7")).json() == {"order": 7, "seen by": "nobody"}
        assert shop.runs == 1

        relay.emit("orders")

        await browser.get("/orders/7")
        assert (shop.runs, len(shop.sessions)) == (2, 2)


async def test_what_is_kept_tells_calls_apart() -> None:
    shop = Shop()
    async with running(shop.app) as browser:
        for user in ("ada", "grace", "ada"):
            answer = await browser.get("/orders/7", headers={"user": user})
            assert answer.json()["seen by"] == user
    assert shop.runs == 2


async def test_dependencies_run_for_each_request_also_on_a_hit() -> None:
    shop = Shop()
    async with running(shop.app) as browser:
        await browser.get("/orders/7")
        assert (await browser.get("/orders/7", headers={"user": "mallory"})).status_code == 403


async def test_a_plain_def_is_cached_too() -> None:
    cache, runs = pgcachewatch.Cache(), [0]
    app = FastAPI(lifespan=lifespan(URL, cache))

    @app.get("/")
    @endpoint(cache)
    def read() -> int:
        runs[0] += 1
        return runs[0]

    async with running(app) as browser:
        assert [(await browser.get("/")).json() for _ in range(3)] == [1, 1, 1]


async def test_a_client_can_stand_where_the_cache_does(relay: FakeRelay) -> None:
    async with relay.connect() as client:
        runs = 0

        @endpoint(client, tables=["orders"])
        async def read(order: int) -> int:
            nonlocal runs
            runs += 1
            return order

        await client.wait_live()
        assert [await read(7), await read(7)] == [7, 7]
        assert runs == 1


# --- what must be named


async def by_default(order: int, db: Session = Depends(Session)) -> None: ...  # noqa: B008  # FastAPI's older spelling
async def by_annotation(order: int, db: Annotated[Session, Depends(Session)]) -> None: ...
async def by_security(order: int, db: Annotated[Session, Security(Session)]) -> None: ...
async def of_user(order: int, user: Annotated[str, Depends(logged_in)]) -> None: ...
async def of_request(order: int, request: Request) -> None: ...
async def of_request_or_none(order: int, request: Annotated[Request | None, "as injected"] = None) -> None: ...
async def of_response(order: int, response: Response) -> None: ...
async def of_tasks(order: int, tasks: BackgroundTasks) -> None: ...
async def of_scopes(order: int, scopes: SecurityScopes) -> None: ...
async def of_a_name_for_types_only(order: Decimal) -> None: ...


@pytest.mark.parametrize("function", [by_default, by_annotation, by_security, of_user])
def test_what_is_injected_is_refused_until_it_is_named(function: Callable[..., Any]) -> None:
    name = "user" if function is of_user else "db"
    cache = pgcachewatch.Cache()

    with pytest.raises(ConfigurationError, match=f"'{name}'.*injected, and must be named: in ignore=.*in keep="):
        endpoint(cache)(function)

    endpoint(cache, ignore=[name])(function)
    endpoint(cache, keep=[name])(function)
    endpoint(cache, key=lambda order, **_: order)(function)


@pytest.mark.parametrize(
    ("function", "name", "reason"),
    [
        (of_request, "request", "nothing would be a hit"),
        (of_request_or_none, "request", "nothing would be a hit"),
        (of_response, "response", "missing from a hit"),
        (of_tasks, "tasks", "a hit would start no task"),
        (of_scopes, "scopes", "nothing would be a hit"),
    ],
)
def test_what_is_new_with_each_request_can_not_be_kept(function: Callable[..., Any], name: str, reason: str) -> None:
    cache = pgcachewatch.Cache()

    for keep in ([], [name]):
        with pytest.raises(ConfigurationError, match=f"'{name}'.*{reason}.*ignore="):
            endpoint(cache, keep=keep)(function)

    endpoint(cache, ignore=[name])(function)


async def of_ignored(
    order: int, db: Annotated[Session, Depends(Session), Ignore], request: Annotated[Request, Ignore]
) -> None: ...


def test_an_annotation_names_what_is_ignored() -> None:
    declared: Any = endpoint(pgcachewatch.Cache())(of_ignored)

    assert not declared.cache_contains(7, Session(), memoryview(bytearray(1)))  # of which no key can be made


@pytest.mark.parametrize(
    ("ignore", "why"), [([], "not one of its parameters: order, user"), (["other"], "ignore= too")]
)
def test_a_name_that_can_not_be_kept_is_refused(ignore: list[str], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        endpoint(pgcachewatch.Cache(), ignore=ignore, keep=["other"])(of_user)


def test_annotations_that_can_not_be_read_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"Decimal.*TYPE_CHECKING"):
        endpoint(pgcachewatch.Cache())(of_a_name_for_types_only)


def test_without_fastapi_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, contrib.__name__)

    with pytest.raises(ImportError, match="pip install fastapi"):
        importlib.import_module(contrib.__name__)
