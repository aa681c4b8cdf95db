"""FastAPI: a client for the application's lifetime, the client as a dependency, and cached endpoints.

    cache = pgcachewatch.Cache()
    app = FastAPI(lifespan=lifespan("ws://127.0.0.1:8420", cache))

    @app.get("/users/{user_id}")
    @endpoint(cache, rows=Row("users", id="user_id"), ignore=["db"])
    async def get_user(user_id: int, db: Annotated[AsyncSession, Depends(session)]) -> User: ...

    @app.put("/users/{user_id}")
    async def put_user(user_id: int, user: User, relay: Relay) -> User:
        ...
        await relay.barrier()  # from here on each hit in this process has the new user

What FastAPI injects is the trouble of cached endpoints. A session left in the key is a new object for each request, so
that nothing is ever a hit. A user left out of the key is worse: one user is shown what was made for another. Nobody but
the author knows which is which, so nothing injected is left out silently: `endpoint` refuses a function until each is
named in `ignore=` or in `keep=`.

A hit replaces the endpoint function alone. Its dependencies, and those of routers and of the application, run for each
request, so that who may call is still checked on each call. Only what they gave may be that of another request: those
who wait for one run share what was injected into it. A run also outlives its first caller when others wait for it,
and that caller's session may be closed by then: where requests are cancelled, open the session in the function.

Bounds: those of the client.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from typing import Annotated, Any, Union, Unpack, get_args, get_origin

import pgcachewatch
from pgcachewatch.aio.binding import Cache, Caches
from pgcachewatch.aio.caching import CacheKeywords, Decorator
from pgcachewatch.aio.client import Client
from pgcachewatch.errors import ConfigurationError

try:
    from fastapi import BackgroundTasks, Depends, FastAPI, Response, params
    from fastapi.security import SecurityScopes
    from starlette.background import BackgroundTasks as PlainBackgroundTasks
    from starlette.requests import HTTPConnection
    from starlette.responses import Response as PlainResponse
except ImportError as error:
    raise ImportError("pgcachewatch.contrib.fastapi needs FastAPI: pip install fastapi") from error

# What a request brings, by type, and why it can be no part of a key.
INJECTED: dict[tuple[type, ...], str] = {
    (HTTPConnection,): "is another one for each request, so that nothing would be a hit",
    (Response, PlainResponse): "is another one for each request, and what is set on it would be missing from a hit",
    (BackgroundTasks, PlainBackgroundTasks): "is another one for each request, and a hit would start no task",
    (SecurityScopes,): "is another one for each request, so that nothing would be a hit",
}


def lifespan(
    url: str,
    *caches: Cache,
    **options: Any,  # Any: the options of pgcachewatch.connect
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """For `FastAPI(lifespan=...)`, when there is nothing else to set up: `connected` for as long as the app runs."""

    @contextlib.asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        async with connected(app, url, *caches, **options):
            yield

    return run


@contextlib.asynccontextmanager
async def connected(
    app: FastAPI,
    url: str,
    *caches: Cache,
    **options: Any,  # Any: the options of pgcachewatch.connect
) -> AsyncIterator[Client]:
    """For a lifespan of one's own: inside, a client is connected, `caches` are bound to it, and `Relay` gives it.

        @contextlib.asynccontextmanager
        async def lifespan(app):
            async with create_pool() as app.state.pool, connected(app, url, cache):
                yield

    Raises what `pgcachewatch.connect` raises; `open_timeout=0` lets the application start while the relay is away.
    """
    # Looked up when the application starts, so that a test can put a relay in memory in its place.
    async with pgcachewatch.connect(url, **options) as client:
        with contextlib.ExitStack() as bound:
            for cache in caches:
                bound.enter_context(cache.bound(client))
            app.state.pgcachewatch = client
            try:
                yield client
            finally:
                del app.state.pgcachewatch


def client_of(connection: HTTPConnection) -> Client:
    """The client of the application that this request came to; as a dependency it is `Relay`."""
    client: Client | None = getattr(connection.app.state, "pgcachewatch", None)
    if client is None:
        raise ConfigurationError(
            f"no client is connected for {connection.app!r}; give it lifespan=lifespan(url), or enter connected(app, "
            "url) in its lifespan; a mounted application has a state of its own"
        )
    return client


Relay = Annotated[Client, Depends(client_of)]


def endpoint(cache: Caches, *, keep: Collection[str] = (), **options: Unpack[CacheKeywords]) -> Decorator:
    """Cache an endpoint. Put it between the route and the function; the options are those of `client.cache`.

    `cache` is a Cache or a client. Each parameter that FastAPI injects must be named: in `ignore=`, or with
    `pgcachewatch.Ignore` in its annotation, when the result does not depend on it, like a session; in `keep=` when it
    does, like the user who is logged in. With `key=` the function given there decides. Raises ConfigurationError for a
    parameter that is named nowhere, or that can not be kept because each request brings another.
    """
    declare = cache.cache(**options)

    def decorate(function: Callable[..., Any]) -> Any:  # Any: a Decorator says it better than a def can
        if options.get("key") is None:
            _check_injected(function, ignore=options.get("ignore", ()), keep=keep)
        return declare(function)

    return decorate


def _check_injected(function: Callable[..., Any], *, ignore: Collection[str], keep: Collection[str]) -> None:
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = inspect.signature(function, eval_str=True).parameters
    except NameError as error:
        raise ConfigurationError(
            f"the annotations of {name} can not be read: {error}; import what they name outside TYPE_CHECKING"
        ) from error
    for one in keep:
        if one not in parameters or one in ignore:
            why = "is in ignore= too" if one in ignore else f"is not one of its parameters: {', '.join(parameters)}"
            raise ConfigurationError(f"keep={one!r} can not work for {name}: it {why}")
    for parameter in parameters.values():
        if parameter.name in ignore or pgcachewatch.Ignore in _marks(parameter):
            continue
        reason = _reason_against(parameter)
        if reason is not None:
            raise ConfigurationError(
                f"parameter {parameter.name!r} of {name} {reason}; name it in ignore= if the result does not depend on "
                "it, or compute the key with key=lambda ...: ..."
            )
        if parameter.name not in keep and _depends(parameter):
            raise ConfigurationError(
                f"parameter {parameter.name!r} of {name} is injected, and must be named: in ignore= if the result does "
                "not depend on it, as on a session; in keep= if it does, as on who is logged in"
            )


def _reason_against(parameter: inspect.Parameter) -> str | None:
    """Why this can be part of no key; None when it can."""
    if _depends(parameter):
        return None
    for kind in _types(parameter.annotation):
        for injected, reason in INJECTED.items():
            if issubclass(kind, injected):
                return reason
    return None


def _depends(parameter: inspect.Parameter) -> bool:
    return any(isinstance(mark, params.Depends) for mark in (parameter.default, *_marks(parameter)))


def _marks(parameter: inspect.Parameter) -> tuple[object, ...]:
    return get_args(parameter.annotation)[1:] if get_origin(parameter.annotation) is Annotated else ()


def _types(annotation: Any) -> Iterator[type]:  # Any: whatever stands there
    """The classes an annotation names: of `Annotated[Request | None, ...]`, Request and NoneType."""
    if get_origin(annotation) is Annotated:
        yield from _types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for one in get_args(annotation):
            yield from _types(one)
    elif inspect.isclass(annotation):
        yield annotation
