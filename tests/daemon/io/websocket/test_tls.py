"""Inside of TLS a connection is what it is outside, and who can not speak it costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pgcachewatch_daemon.io.websocket.certificates import TlsOptions
from pgcachewatch_daemon.io.websocket.tls import TlsLayer
from tests.certificates import DAY, Authority
from tests.daemon.io.websocket.site import REQUEST, Site, closed, serving, status, v1
from tests.waiting import eventually

ANSWER = b"GET /answer HTTP/1.1\r\nHost: x\r\n\r\n"


class Secure:
    """An authority, and the relay's options for a certificate of it."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        certificate, key = self.authority.issue("relay", ends_in=100 * DAY)
        self.options = TlsOptions(str(certificate), str(key))
        self.client = self.authority.client()

    def with_client_ca(self) -> TlsOptions:
        return TlsOptions(self.options.certificate_file, self.options.key_file, str(self.authority.file))


@pytest.fixture
def secure(tmp_path: Path) -> Secure:
    return Secure(tmp_path)


async def asked(site: Site, context: ssl.SSLContext, request: bytes = ANSWER) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port, ssl=context)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def plain_socket(site: Site) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
    yield reader, writer
    writer.close()


async def test_http_and_websocket_are_what_they_are_without_it(secure: Secure) -> None:
    async with serving(tls=secure.options) as site:
        answer = await asked(site, secure.client)
        assert status(answer) == 200
        assert answer.endswith(b"hello\n")
        async with v1(site.url, ssl=secure.client) as client:
            for size in (0, 1, 16_384, 16_385, 65_536):
                await client.send("x" * size)
                assert await client.recv() == "x" * size
            assert await (await client.ping()) >= 0
            assert site.application.connections[-1].peer_certificate_name == ""
        await eventually(lambda: site.server.stats.disconnects[1000] == 1)
        assert site.server.stats.tls_failures == 0


async def test_a_close_of_the_relay_arrives_with_its_code(secure: Secure) -> None:
    async with serving(tls=secure.options) as site, v1(site.url, ssl=secure.client) as client:
        site.application.connections[-1].close(4000, "go")
        assert await closed(client) == (4000, "go")
        await eventually(lambda: not site.server.connections)


async def test_records_may_come_in_the_smallest_pieces(secure: Secure) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = secure.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with serving(tls=secure.options) as site, plain_socket(site) as (reader, writer):

        async def step() -> None:
            for byte in outgoing.read():
                writer.write(bytes([byte]))
                await asyncio.sleep(0)

        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
            await step()
            incoming.write(await reader.read(65_536))
        client.write(ANSWER)
        await step()
        incoming.write(await reader.read())
        assert client.read(65_536).endswith(b"hello\n")


async def test_plain_http_is_answered_with_what_to_do_instead(secure: Secure, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(tls=secure.options) as site:
        answer = await site.raw(ANSWER)
        assert status(answer) == 400
        assert b"wss://" in answer
        assert site.server.stats.refusals[400] == 1
        assert "plain request on a port that speaks TLS" in caplog.text
        assert status(await asked(site, secure.client)) == 200


async def test_tls_on_a_port_without_it_fails_at_once_and_is_a_log_line(
    secure: Secure, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with serving() as site:
        with pytest.raises(ssl.SSLError):
            await asked(site, secure.client)
        assert site.server.stats.refusals[400] == 1
        assert "tls on a port without it" in caplog.text


def below_tls_1_2(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_client_that_speaks_only_old_tls_is_refused(secure: Secure) -> None:
    async with serving(tls=secure.options) as site:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asked(site, below_tls_1_2(secure.authority.client()))
        assert site.server.stats.tls_failures == 1
        assert status(await asked(site, secure.client)) == 200


async def test_a_client_that_does_not_trust_the_relay_leaves_and_is_counted(secure: Secure) -> None:
    async with serving(tls=secure.options) as site:
        with pytest.raises(ssl.SSLCertVerificationError):
            await asked(site, ssl.create_default_context())
        await eventually(lambda: not site.server.connections)
        assert site.server.stats.tls_failures == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + b"x" * 65_535,
        b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + b"\x00" * 16_380,
        b"\x16\x00\x00\x00\x00" * 1_000,
    ],
    ids=["text", "too long", "a hello of 16 MB", "empty records"],
)
async def test_garbage_ends_its_own_connection_and_nothing_else(secure: Secure, garbage: bytes) -> None:
    async with serving(tls=secure.options, close_s=0.1) as site:
        assert not (await site.raw(garbage)).startswith(b"HTTP")
        assert site.server.stats.tls_failures == 1
        assert status(await asked(site, secure.client)) == 200
        await eventually(lambda: not site.server.connections)


async def test_garbage_after_the_handshake_ends_it_too(secure: Secure) -> None:
    async with serving(tls=secure.options, close_s=0.1) as site, v1(site.url, ssl=secure.client) as client:
        os.write(client.transport.get_extra_info("socket").fileno(), b"\x17\x03\x03\x00\x05hello")
        await client.wait_closed()
        await eventually(lambda: not site.server.connections)
        assert site.server.stats.tls_failures == 1
        assert site.server.stats.disconnects[1006] == 1


async def test_a_stalled_handshake_has_its_time_and_no_more(secure: Secure) -> None:
    async with serving(tls=secure.options, handshake_s=0.05) as site, plain_socket(site) as (reader, writer):
        writer.write(b"\x16\x03\x01\x02")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert site.server.stats.tls_failures == 1


async def test_stalled_handshakes_are_among_those_that_are_counted(secure: Secure) -> None:
    async with serving(tls=secure.options, handshakes_limit=3) as site, contextlib.AsyncExitStack() as stack:
        for number in range(10):
            _, writer = await stack.enter_async_context(plain_socket(site))
            writer.write(b"\x16\x03\x01\x02")
            await eventually(lambda number=number: site.server.stats.evicted_handshakes == max(0, number - 2))  # type: ignore[misc]  # a default binds it
        assert status(await asked(site, secure.client)) == 200


async def test_a_client_without_a_certificate_is_refused_where_one_is_required(secure: Secure) -> None:
    async with serving(tls=secure.with_client_ca()) as site:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asked(site, secure.client)
        stranger = Authority(Path(secure.options.key_file).parent, "stranger")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asked(site, secure.authority.client(certificate=stranger.issue("app")))
        assert site.server.stats.tls_failures == 2
        assert not site.application.ended, "the application never heard of them"


@pytest.mark.parametrize(("common_name", "known_as"), [("billing", "billing"), ("", "localhost")])
async def test_a_client_certificate_names_its_connection(secure: Secure, common_name: str, known_as: str) -> None:
    context = secure.authority.client(certificate=secure.authority.issue("app", common_name=common_name))
    async with serving(tls=secure.with_client_ca()) as site, v1(site.url, ssl=context) as client:
        await client.send("x")
        assert await client.recv() == "x"
        assert site.application.certificates == [known_as]


async def test_a_request_that_comes_with_the_end_of_the_handshake_is_from_a_named_client(secure: Secure) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = secure.authority.client(certificate=secure.authority.issue("app"))
    client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with serving(tls=secure.with_client_ca()) as site, plain_socket(site) as (reader, writer):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        writer.write(outgoing.read())
        while True:
            incoming.write(await reader.read(65_536))
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                break
        client.write(ANSWER)
        writer.write(outgoing.read())
        assert await reader.read()
        assert site.application.certificates == ["app"]


async def test_new_connections_get_the_new_certificate_and_old_ones_go_on(secure: Secure) -> None:
    async with serving(tls=secure.options) as site, v1(site.url, ssl=secure.client) as old:
        successor = Authority(Path(secure.options.key_file).parent, "successor")
        successor.issue("relay", ends_in=100 * DAY)
        site.server.prepare(secure.options, ())()
        async with v1(site.url, ssl=successor.client()) as new:
            for client in (old, new):
                await client.send("x")
                assert await client.recv() == "x"


async def test_changed_files_are_noticed_by_themselves(secure: Secure) -> None:
    async with serving(tls=secure.options, ping_after_s=0.08) as site:
        successor = Authority(Path(secure.options.key_file).parent, "successor")
        successor.issue("relay", ends_in=200 * DAY)
        before_s = site.server.stats.tls_not_after_s
        await eventually(lambda: site.server.stats.tls_not_after_s > before_s)
        assert status(await asked(site, successor.client())) == 200


async def test_a_slow_client_is_full_and_drained_as_without_tls(secure: Secure) -> None:
    async with serving(tls=secure.options, send_buffer_bytes=4_096) as site:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", site.server.port))
        reader, writer = await asyncio.open_connection(
            sock=client, ssl=secure.client, server_hostname="localhost", limit=1_024
        )
        writer.write(REQUEST)
        await reader.readuntil(b"\r\n\r\n")
        connection = site.application.connections[0]
        texts = [str(number) * 40_000 for number in range(10)]
        for text in texts:
            site.application.say(connection, text)
        assert connection.is_full
        assert site.application.fills == 1
        assert site.application.backlog, "what did not fit waits where it can be conflated"
        size = sum(len(text) + 4 for text in texts)
        assert len(await reader.readexactly(size)) == size
        await eventually(lambda: not connection.is_full)
        assert site.application.drains >= 1
        writer.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not there to renegotiate with")
async def test_a_client_can_not_renegotiate(secure: Secure) -> None:
    async with serving(tls=secure.options) as site:
        process = await asyncio.create_subprocess_exec(
            *("openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{site.server.port}"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate(b"R\n")
        assert b"RENEGOTIATING" in said
        assert b"no renegotiation" in said
        assert status(await asked(site, secure.client)) == 200


def test_what_tls_says_by_itself_is_kept_until_it_is_taken(secure: Secure) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(secure.options.certificate_file, secure.options.key_file)
    layer = TlsLayer(context)
    with pytest.raises(ssl.SSLError):
        layer.open(b"\x16\x03\x01\x00\x05hello")
    assert layer.pending()[:1] == b"\x15", "an alert"
    assert layer.pending() == b""
