"""deploy/nginx/pgcachewatch.conf in a real nginx: TLS outside, and limits are about the clients behind it."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from tests.certificates import DAY, Authority
from tests.conformance.neighbour import Neighbour
from tests.postgres import Database
from tests.raw_client import Client
from tests.relay_process import RelayProcess, free_port
from tests.tidy.tree import ROOT
from tests.waiting import eventually

SNIPPET = ROOT / "deploy" / "nginx" / "pgcachewatch.conf"
AROUND = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {snippet}
}}
"""

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (Debian: nginx-light)")


class Front:
    """Nginx in front of a relay, as clients see it."""

    def __init__(self, relay: RelayProcess, port: int, trust: ssl.SSLContext) -> None:
        self.relay = relay
        self.port = port
        self.trust = trust
        self.url = f"wss://127.0.0.1:{port}"

    def client(self, address: str, **headers: str) -> Client:
        """One that comes from this address; the whole of 127.0.0.0/8 is this machine's."""
        return Client(self, ssl=self.trust, local_addr=(address, 0), additional_headers=headers)


def configured(folder: Path, *, port: int, relay_port: int, certificate: Path, key: Path) -> str:
    """The snippet with the places of this test; all else is as it is shipped."""
    snippet = SNIPPET.read_text(encoding="utf-8")
    for shipped, ours in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "server 127.0.0.1:8420": f"server 127.0.0.1:{relay_port}",
        "/etc/nginx/tls/relay.crt": str(certificate),
        "/etc/nginx/tls/relay.key": str(key),
    }.items():
        assert snippet.count(shipped) == 1
        snippet = snippet.replace(shipped, ours)
    return AROUND.format(snippet=snippet)


@pytest.fixture
async def front(database: Database, tmp_path: Path) -> AsyncIterator[Front]:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("relay", ends_in=100 * DAY)
    limits = {"connections_per_address_limit": "1", "trusted_proxies": "127.0.0.1/32", "heartbeat_s": "0.05"}
    with RelayProcess(database.dsn, port=0, **limits) as relay:
        port = free_port()
        configuration = tmp_path / "nginx.conf"
        configuration.write_text(
            configured(tmp_path, port=port, relay_port=relay.port, certificate=certificate, key=key)
        )
        async with running(configuration):
            front = Front(relay, port, authority.client())
            await eventually(lambda: is_listening(port))
            yield front


@asynccontextmanager
async def running(configuration: Path) -> AsyncIterator[None]:
    command = ["nginx", "-p", str(configuration.parent), "-c", str(configuration)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def is_listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def refusal(client: Client) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with client:
            pass
    return caught.value.response.status_code


async def test_limits_are_about_the_clients_behind_it_and_nobody_can_claim_to_be_another(front: Front) -> None:
    async with front.client("127.0.0.2") as one, front.client("127.0.0.3") as other:
        await one.hello()
        await other.hello()
        assert await refusal(front.client("127.0.0.2")) == 429
        assert await refusal(front.client("127.0.0.3", **{"X-Forwarded-For": "198.51.100.7"})) == 429
        direct = {"local_addr": ("127.0.0.4", 0), "additional_headers": {"X-Forwarded-For": "198.51.100.8"}}
        async with Client(front.relay, **direct) as unproxied:
            await unproxied.hello()
            direct["additional_headers"] = {"X-Forwarded-For": "198.51.100.9"}
            assert await refusal(Client(front.relay, **direct)) == 429


async def test_events_and_a_drain_pass_through_it(front: Front, database: Database) -> None:
    client = Neighbour(front, database, ssl=front.trust)
    async with client:
        await client.settle()
        await client.still_hears()
        front.relay.signal(signal.SIGTERM)
        await client.until("bye")
        assert await client.close_code() == 4000
    assert await asyncio.to_thread(front.relay.wait) == 0


async def test_plain_requests_are_answered_through_it_but_for_metrics(front: Front) -> None:
    assert (await _get(front, "/readyz")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert (await _get(front, "/metrics")).startswith(b"HTTP/1.1 404 ")


async def _get(front: Front, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, ssl=front.trust)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: relay.example.com\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_the_relay_s_own_page_is_let_in_on_another_port_than_443(front: Front) -> None:
    async with front.client("127.0.0.5", Origin=f"https://127.0.0.1:{front.port}") as page:
        await page.hello()
    assert await refusal(front.client("127.0.0.5", Origin="https://127.0.0.1")) == 403
