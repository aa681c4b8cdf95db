import contextlib
import typing
import asyncpg
from fastapi import FastAPI
from pgcachewatch import decorators, listeners, models, strategies

listener = listeners.PGEventQueue()

@contextlib.asynccontextmanager
async def app_setup_teardown(_: FastAPI) -> typing.AsyncGenerator[None, None]:
    conn = await asyncpg.connect()
    await listener.connect(conn)
    yield
    await conn.close()

APP = FastAPI(lifespan=app_setup_teardown)

@decorators.cache(strategy=strategies.Greedy(listener=listener, predicate=lambda x: x.operation == "update"))
async def cached_query(user_id: int) -> dict[str, str]:
    return {"data": "query result"}

@APP.get("/data")
async def get_data(user_id: int) -> dict:
    return await cached_query(user_id)
