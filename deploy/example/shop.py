"""A small shop whose answers come from a cache: the example of compose.yaml.

    GET /products/1    the product, whether this answer came from the cache or from the database, and how long it took

Change a row with psql, and the next answer is new. A task beside it changes a price every few seconds, so that there is
something to see; SHOP_WRITES_EVERY_S=0 turns it off. The web server is as small as one can be, and nothing to copy.
"""

import asyncio
import contextlib
import json
import os
import re
import time

import asyncpg

import pgcachewatch
from pgcachewatch import Row

RELAY = os.environ.get("PGCACHEWATCH_URL", "ws://127.0.0.1:8420")
PORT = int(os.environ.get("SHOP_PORT", "8421"))
WRITES_EVERY_S = float(os.environ.get("SHOP_WRITES_EVERY_S", "5"))
REQUEST = re.compile(rb"GET /products/(\d{1,9}) HTTP")
REQUEST_S = 5.0

cache = pgcachewatch.Cache(maxsize=1_000)


@cache(rows=Row("products", id="product_id"), ignore=["pool"])
async def product(pool: asyncpg.Pool, product_id: int) -> tuple[dict[str, str] | None, float]:
    """From the database, and when it was read; called when the cache has no answer."""
    read_at_s = time.perf_counter()
    row = await pool.fetchrow("SELECT name, price FROM products WHERE id = $1", product_id)
    return (None if row is None else {"name": row["name"], "price": str(row["price"])}), read_at_s


async def answer(pool: asyncpg.Pool, request: bytes) -> tuple[str, object]:
    """Status and body."""
    match = REQUEST.match(request)
    if match is None:
        return "404 Not Found", {"try": "/products/1"}
    started_s = time.perf_counter()
    found, read_at_s = await product(pool, int(match[1]))
    took_us = (time.perf_counter() - started_s) * 1e6
    if found is None:
        return "404 Not Found", {"there is no product": int(match[1])}
    source = "cache" if read_at_s < started_s else "database"
    return "200 OK", {**found, "from": source, "microseconds": round(took_us, 1)}


async def change_prices(pool: asyncpg.Pool) -> None:
    while WRITES_EVERY_S:
        await asyncio.sleep(WRITES_EVERY_S)
        await pool.execute("UPDATE products SET price = price + 1 WHERE id = (SELECT 1 + floor(random() * 3)::int)")


async def main() -> None:
    async with asyncpg.create_pool(min_size=1) as pool, pgcachewatch.connect(RELAY) as client:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(REQUEST_S):
                    status, body = await answer(pool, await reader.readuntil(b"\r\n\r\n"))
                text = json.dumps(body).encode() + b"\n"
                head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
                writer.write(f"{head}Connection: close\r\n\r\n".encode() + text)
                await writer.drain()
            except (OSError, EOFError, ValueError, TimeoutError):
                pass  # whoever asked went away, or asked nothing that fits a request
            finally:
                writer.close()

        with cache.bound(client):
            async with await asyncio.start_server(serve, "0.0.0.0", PORT), asyncio.TaskGroup() as tasks:
                print(f"GET http://127.0.0.1:{PORT}/products/1", flush=True)
                tasks.create_task(change_prices(pool))
                await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
