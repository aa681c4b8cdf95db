"""Any method, path, headers and body: a well-formed answer of a known status, or a close, and the next request served.

Each example is a blocking exchange with a relay process, so that hypothesis can shrink it.
"""

from __future__ import annotations

import http.client
import io
import socket

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.relay_process import RelayProcess

EXAMPLES = 100
WITHIN_S = 90.0
STATUSES = {101, 200, 304, 400, 401, 403, 404, 405, 408, 414, 426, 429, 431, 503, 505}

METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "G", ""])
PATHS = st.sampled_from(
    ["/", "/livez", "/readyz", "/up", "/metrics", "/v1/ws", "/v1/status", "/pgpubsub/c", "/pgpubsub/%00", "*", "//", ""]
) | st.text(st.characters(codec="latin-1"), max_size=40).map(lambda text: "/" + text)
VERSIONS = st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/1.1 ", "http/1.1", ""])
NAMES = st.sampled_from(
    [
        *("Host", "Connection", "Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol"),
        *("Sec-WebSocket-Extensions", "Content-Length", "Transfer-Encoding", "Authorization", "Origin", "Expect"),
        *("X-Forwarded-For", "If-None-Match", "Range", "", " ", "X Y", ":"),
    ]
) | st.text(st.characters(codec="latin-1"), max_size=12)
VALUES = st.sampled_from(
    [
        *(
            "x",
            "Upgrade",
            "keep-alive, Upgrade",
            "websocket",
            "13",
            "8",
            "pgcachewatch.v1",
            "chunked",
            "0",
            "-1",
            "9" * 30,
        ),
        *("AAAAAAAAAAAAAAAAAAAAAA==", "permessage-deflate; server_max_window_bits=99", "Bearer x", "Basic eDp5", "*"),
        *("100-continue", "https://evil.example", "bytes=0-1", "10.0.0.1, unknown", '"', "a" * 9_000),
    ]
) | st.text(st.characters(codec="latin-1"), max_size=40)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=12)
BODIES = st.binary(max_size=200)
UPGRADE = [
    *(("Host", "x"), ("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")),
    *(("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="), ("Sec-WebSocket-Protocol", "pgcachewatch.v1")),
]

SOUP = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Answered(io.BytesIO):
    """Bytes that http.client reads as if they came from a socket."""

    def makefile(self, mode: str) -> io.BytesIO:
        return self


def exchange(relay: RelayProcess, request: bytes) -> bytes:
    """What the relay says to these bytes, until it hangs up; the client says that it is done."""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=WITHIN_S) as client:
        said = b""
        try:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while data := client.recv(65_536):
                said += data
        except ConnectionError:
            pass  # a close is an answer too
        return said


def check(said: bytes, method: str) -> None:
    response = http.client.HTTPResponse(Answered(said), method=method)  # type: ignore[arg-type]  # it only makes a file
    response.begin()
    assert response.status in STATUSES, said[:200]
    if response.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
        return
    body = response.read()
    assert response.getheader("Connection") == "close"
    assert response.getheader("Content-Length") == str(len(body)) or method == "HEAD"
    assert response.isclosed()


@SOUP
@given(METHODS, PATHS, VERSIONS, HEADERS, st.booleans(), BODIES)
def test_a_soup_is_answered_as_the_documents_say_and_the_next_request_is_served(
    relay: RelayProcess,
    method: str,
    path: str,
    version: str,
    headers: list[tuple[str, str]],
    is_upgrade: bool,
    body: bytes,
) -> None:
    fields = [*(UPGRADE if is_upgrade else []), *headers]
    head = f"{method} {path} {version}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\n"
    said = exchange(relay, head.encode("latin-1") + body)
    if said:
        check(said, method)
    assert exchange(relay, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


@SOUP
@given(st.binary(max_size=300))
def test_bytes_of_no_meaning_are_answered_or_dropped(relay: RelayProcess, request_bytes: bytes) -> None:
    said = exchange(relay, request_bytes + b"\r\n\r\n")
    if said:
        check(said, "GET")
    assert relay.get("/livez")[0] == 200
