"""What a connected client that is told nothing costs the relay in memory, beside what the kernel holds for its socket.

    python -m tests.bench.idle_memory [2000 10000]

One real relay with a PostgreSQL of its own. Clients say hello with one subscription, read the welcome, and stay; at
each of the counts the relay's resident memory is read, once its metrics say that all have joined. The first hundred are
not counted: they pay for what is made once. Bounded by the limit of open files: one per client here and there.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pgcachewatch_daemon.embedded import EmbeddedPostgres, find_binaries
from tests.relay_process import RelayProcess

UNCOUNTED = 100
BATCH = 100  # handshakes at once
OTHER_FILES = 200
LIMIT_S = 60.0
PAGE_BYTES = resource.getpagesize()
HELLO = b'{"t":"hello","v":1,"subs":[{"t":"sub","id":1,"table":"orders"}]}'
REQUEST = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: pgcachewatch.v1\r\n\r\n"
)
MASKED_HELLO = bytes((0x81, 0x80 | len(HELLO))) + bytes(4) + HELLO


def slopes(relay: RelayProcess, counts: Sequence[int]) -> Iterator[tuple[int, float]]:
    """At each count, the bytes that each client beyond the uncounted ones has added so far."""
    clients: list[socket.socket] = []
    try:
        _connect(relay, clients, UNCOUNTED)
        before_bytes = resident_bytes(relay.pid)
        for count in counts:
            _connect(relay, clients, count)
            yield count, (resident_bytes(relay.pid) - before_bytes) / (count - UNCOUNTED)
    finally:
        for client in clients:
            client.close()


def resident_bytes(pid: int) -> int:
    """Linux: proc(5), the second field of statm is in pages."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def _connect(relay: RelayProcess, clients: list[socket.socket], count: int) -> None:
    """Bring the clients to this number, and wait until the relay counts as many."""
    while len(clients) < count:
        batch = [
            socket.create_connection(("127.0.0.1", relay.port), timeout=LIMIT_S)
            for _ in range(min(BATCH, count - len(clients)))
        ]
        clients += batch
        for said, awaited in ((REQUEST, b"\r\n\r\n"), (MASKED_HELLO, b'"subok"')):
            for client in batch:
                client.sendall(said)
            for client in batch:
                _read_until(client, awaited)
    deadline_s = time.monotonic() + LIMIT_S
    while f'pgcachewatch_clients{{path="v1"}} {float(count)}' not in relay.get("/metrics")[1]:
        assert time.monotonic() < deadline_s, f"not all of {count} clients have joined: {relay.log()[-1_000:]}"


def _read_until(client: socket.socket, awaited: bytes) -> None:
    seen = b""
    while awaited not in seen:
        data = client.recv(65_536)
        assert data, f"the relay hung up after {seen!r}"
        seen += data


def main(counts: Sequence[int]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(counts) + OTHER_FILES
    if soft < wanted:
        assert wanted <= hard, f"{max(counts)} clients need {wanted} open files, and the hard limit is {hard}"
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    binaries = find_binaries()
    assert binaries, "no PostgreSQL server binaries on this machine"
    with (
        EmbeddedPostgres(binaries[0]) as server,
        RelayProcess(
            server.dsn,
            ping_interval_s="3600",  # nobody reads here, and so nobody would answer
            connections_limit=str(wanted),
            connections_per_address_limit=str(wanted),
        ) as relay,
    ):
        for count, each_bytes in slopes(relay, counts):
            sys.stdout.write(f"{count:>7} idle clients: {each_bytes:6.0f} bytes each\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [2_000, 10_000])
