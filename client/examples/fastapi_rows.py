"""A FastAPI application with cached endpoints: declared at import, served from memory until their rows change.

    PGCACHEWATCH_URL=ws://127.0.0.1:8420 PGDATABASE=app uvicorn fastapi_rows:app

The pool is injected as FastAPI applications do it, and left out of the key by name: nobody but the author knows what a
result depends on.
"""

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Annotated

import asyncpg
from fastapi import Depends, FastAPI, HTTPException, Request

import pgcachewatch
from pgcachewatch import Row
from pgcachewatch.contrib.fastapi import Relay, connected, endpoint

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")

cache = pgcachewatch.Cache(maxsize=10_000)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(min_size=1) as app.state.pool, connected(app, RELAY, cache):
        yield


def pool_of(request: Request) -> asyncpg.Pool:
    return request.app.state.pool


Pool = Annotated[asyncpg.Pool, Depends(pool_of)]

app = FastAPI(lifespan=lifespan)


@app.get("/users/{user_id}")
@endpoint(cache, rows=Row("users", id="user_id"), ignore=["pool"])
async def get_user(user_id: int, pool: Pool) -> dict[str, str]:
    name = await pool.fetchval("SELECT name FROM users WHERE id = $1", user_id)
    if name is None:
        raise HTTPException(404, f"there is no user {user_id}")
    return {"name": name}


@app.put("/users/{user_id}")
async def rename_user(user_id: int, name: str, pool: Pool, relay: Relay) -> dict[str, str]:
    await pool.execute("UPDATE users SET name = $2 WHERE id = $1", user_id, name)
    await relay.barrier()  # whoever wrote reads his own write
    return {"name": name}
