"""What somebody who means harm can do to the relay's port.

    python -m tests.conformance.attacks NAME PORT SIZE SECONDS

Each attack goes on until it is cancelled, with `size` sockets at one time. Nothing is asserted here: what counts is
what others notice meanwhile, and what is left behind. A socket that the relay ends is replaced by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from websockets.frames import Frame, Opcode

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

UPGRADE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: pgcachewatch.v1\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
HELLO = {"t": "hello", "v": 1, "subs": [{"t": "sub", "id": 1, "table": "attacked"}]}
BATCH_BYTES = 60_000
BOMB_BYTES = 100 * 1024 * 1024
STEP_S = 0.01
IDS = range(2, 100)


def text(*messages: object) -> bytes:
    return Frame(Opcode.TEXT, json.dumps(messages[0] if len(messages) == 1 else messages).encode()).serialize(mask=True)


async def upgraded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, more: bytes = b"") -> None:
    writer.write(UPGRADE + more + b"\r\n")
    await reader.readuntil(b"\r\n\r\n")


async def welcomed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await upgraded(reader, writer)
    writer.write(text(HELLO))
    await reader.read(1)


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, batch: bytes) -> None:
    """These bytes again and again, as fast as they are taken, and whatever comes is read."""
    reading = asyncio.ensure_future(drained(reader))
    try:
        while not reading.done():
            writer.write(batch)
            await writer.drain()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


# --- before the upgrade


async def half_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Says nothing."""
    await reader.read()


async def slowloris(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A request, byte by byte, that never ends."""
    reading = asyncio.ensure_future(reader.read())
    request = UPGRADE + b"X-Slow: " * 1_000
    for byte in request:
        if reading.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(STEP_S)
    await reading


async def no_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Promises a body and does not send it, nor hangs up."""
    writer.write(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
    await reader.read()


async def giant_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await flood(
        reader, writer, b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 8_000) for n in range(128))
    )


async def giant_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await flood(reader, writer, b"G" * 65_536)


async def many_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await flood(reader, writer, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 10_000)


async def handshakes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Comes, and leaves without a word."""
    await upgraded(reader, writer)


async def scrapes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.read()


# --- after it


async def no_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await upgraded(reader, writer)
    await drained(reader)


async def pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcomed(reader, writer)
    await flood(reader, writer, Frame(Opcode.PING, b"").serialize(mask=True) * 10_000)


async def ping_messages(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcomed(reader, writer)
    await flood(reader, writer, text({"t": "ping", "id": 1}) * 2_000)


async def deaf_pings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Asks for ever, and never reads an answer."""
    await welcomed(reader, writer)
    batch = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 400
    while not writer.is_closing():
        writer.write(batch)
        await writer.drain()


async def empty_fragments(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A message in pieces of nothing, that never ends."""
    await welcomed(reader, writer)
    writer.write(Frame(Opcode.TEXT, b"", fin=False).serialize(mask=True))
    await flood(reader, writer, Frame(Opcode.CONT, b"", fin=False).serialize(mask=True) * 10_000)


async def small_fragments(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcomed(reader, writer)
    writer.write(Frame(Opcode.TEXT, b"x", fin=False).serialize(mask=True))
    await flood(reader, writer, Frame(Opcode.CONT, b"x", fin=False).serialize(mask=True) * 8_000)


async def subscriptions(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcomed(reader, writer)
    churn = [
        each
        for number in range(2, 500)
        for each in ({"t": "sub", "id": number, "table": f"t{number}"}, {"t": "unsub", "id": number})
    ]
    await flood(reader, writer, text(*churn))


async def channels(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Has PostgreSQL listen to names that nobody else uses, and to others, without an end."""
    await welcomed(reader, writer)
    own = secrets.token_hex(4)
    reading = asyncio.ensure_future(drained(reader))
    try:
        for round_number in itertools.count():
            if reading.done():
                break
            subs = [{"t": "sub", "id": number, "channel": f"{own}_{round_number}_{number}"} for number in IDS]
            writer.write(text(*subs) + text(*({"t": "unsub", "id": number} for number in IDS)))
            await writer.drain()
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def barriers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await welcomed(reader, writer)
    await flood(reader, writer, text(*({"t": "barrier", "id": number} for number in range(1_500))))


async def bombs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Less than a frame may have, which would inflate to far more."""
    await upgraded(reader, writer, DEFLATE)
    frame = Frame(Opcode.TEXT, BOMB[:BATCH_BYTES], rsv1=True)
    writer.write(frame.serialize(mask=True))
    await drained(reader)


# --- TLS


async def tls_stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The beginning of a greeting, and no more."""
    writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    await reader.read()


async def tls_garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01\x3f\xff\x01\x00\x3f\xfb" + bytes(range(256)) * 64)
    await reader.read()


async def tls_greetings(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A whole greeting, which costs the relay a signature, and then nothing."""
    writer.write(GREETING)
    await reader.read(1)


def _greeting() -> bytes:
    import ssl

    out = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost").do_handshake()
    return out.read()


def _bomb() -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    zeros = bytes(1024 * 1024)
    parts = [deflater.compress(zeros) for _ in range(BOMB_BYTES // len(zeros))]
    return b"".join(parts) + deflater.flush(zlib.Z_SYNC_FLUSH)


BOMB = b""
GREETING = b""
BEFORE: tuple[Attack, ...] = (
    *(half_open, slowloris, no_body, giant_headers, giant_line, many_headers, handshakes, scrapes),
)
AFTER: tuple[Attack, ...] = (
    *(no_hello, pings, ping_messages, deaf_pings, empty_fragments, small_fragments, subscriptions, channels, barriers),
    bombs,
)
TLS: tuple[Attack, ...] = (half_open, tls_stalls, tls_garbage, tls_greetings)
ATTACKS = {attack.__name__: attack for attack in (*BEFORE, *AFTER, *TLS)}


@asynccontextmanager
async def under(attack: Attack, port: int, size: int) -> AsyncIterator[None]:
    """The attack goes on while the body runs."""
    prepare(attack)
    attackers = [asyncio.create_task(_attacker(attack, port)) for _ in range(size)]
    try:
        yield
    finally:
        for task in attackers:
            task.cancel()
        await asyncio.gather(*attackers, return_exceptions=True)


def prepare(attack: Attack) -> None:
    """What is costly to make, once."""
    global BOMB, GREETING  # constants that only some need
    if attack is bombs and not BOMB:
        BOMB = _bomb()
    if attack is tls_greetings and not GREETING:
        GREETING = _greeting()


async def _attacker(attack: Attack, port: int) -> None:
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(STEP_S)
            continue
        try:
            await attack(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()
        await asyncio.sleep(0)


async def _main(name: str, port: int, size: int, seconds: float) -> None:
    async with under(ATTACKS[name], port, size):
        await asyncio.sleep(seconds)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
