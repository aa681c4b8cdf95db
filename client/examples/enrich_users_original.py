import asyncio
import asyncpg
from pgcachewatch import listeners, models

# Process new user events for data enrichment
async def process_new_user_event() -> None:
    ...


# Main listener function for new user events
async def listen_for_new_users() -> None:
    conn = await asyncpg.connect()
    listener = listeners.PGEventQueue()
    await listener.connect(conn)

    try:
        print("Listening for new user events...")
        while event := await listener.get():
            if event.operation == "insert":
                await process_new_user_event()
    finally:
        await conn.close()

if __name__ == "__main__":
    asyncio.run(listen_for_new_users())
