"""A FastAPI application whose reads are cached until the row's table changes.

    PGCACHEWATCH_URL=ws://127.0.0.1:8420 PGDATABASE=app uvicorn fastapi_app:app

The endpoint that writes waits for the barrier, so that whoever wrote reads his own write, whichever cache he meets.
"""

import contextlib
import os
from collections.abc import AsyncIterator

import asyncpg
from fastapi import FastAPI, HTTPException, Request

import pgcachewatch

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(min_size=1) as pool, pgcachewatch.connect(RELAY) as client:

        @client.cache(tables=["users"])
        async def name_of(user_id: int) -> str | None:
            name: str | None = await pool.fetchval("SELECT name FROM users WHERE id = $1", user_id)
            return name

        app.state.pool, app.state.client, app.state.name_of = pool, client, name_of
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/users/{user_id}")
async def get_user(user_id: int, request: Request) -> dict[str, str]:
    name = await request.app.state.name_of(user_id)
    if name is None:
        raise HTTPException(404, f"there is no user {user_id}")
    return {"name": name}


@app.put("/users/{user_id}")
async def rename_user(user_id: int, name: str, request: Request) -> dict[str, str]:
    await request.app.state.pool.execute("UPDATE users SET name = $2 WHERE id = $1", user_id, name)
    await request.app.state.client.barrier()
    return {"name": name}
