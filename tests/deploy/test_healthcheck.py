"""The image's health check against ports that answer in different ways, and against none."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from tests.relay_process import free_port
from tests.tidy.tree import ROOT

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
NOT_READY = b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{"status": "source lost"}'


@contextlib.contextmanager
def answering(answer: bytes, *, path: str = "/readyz") -> Iterator[int]:
    """A port where one who asks for the path is answered in two pieces, and let go; others are just let go."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):  # who does not understand goes away in the middle of it
            if not connection.recv(1_000).startswith(f"GET {path} ".encode()):
                return
            connection.sendall(answer[:9])
            connection.sendall(answer[9:])

    server = threading.Thread(target=serve)
    server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.join()
        listener.close()


def check(port: int, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code and output, run as the image runs it."""
    answer = subprocess.run(
        [sys.executable, "-I", "-S", ROOT / "deploy/healthcheck.py", *arguments],
        env={"PATH": os.environ["PATH"], "PGCACHEWATCH_PORT": str(port), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout


def test_relay_that_is_ready_is_healthy() -> None:
    with answering(READY) as port:
        assert check(port) == (0, "")


def test_other_page_can_be_asked_for() -> None:
    with answering(READY, path="/livez") as port:
        assert check(port, "/livez") == (0, "")


def test_relay_that_is_not_ready_is_shown_with_what_it_says() -> None:
    with answering(NOT_READY) as port:
        code, output = check(port)

    assert code == 1
    assert "source lost" in output


def test_port_where_nobody_listens_is_unhealthy() -> None:
    port = free_port()

    code, output = check(port)

    assert code == 1
    assert f"no answer on port {port}" in output


def test_answer_in_plain_text_to_who_speaks_tls_is_unhealthy() -> None:
    with answering(READY, path="") as port:
        code, output = check(port, PGCACHEWATCH_TLS_CERTIFICATE_FILE="/tls/tls.crt")

    assert code == 1
    assert "no answer on port" in output


def test_relay_that_wants_certificates_is_healthy_when_its_port_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code, _ = check(listener.getsockname()[1], PGCACHEWATCH_TLS_CLIENT_CA_FILE="/tls/ca.crt")

    assert code == 0
