"""The image's health check: GET /readyz, or the path that is given; exit code 0 when the answer is 200.

An engine runs it every few seconds, so it imports little. It asks where the environment says that the relay listens; a
port that is set in a file or by a flag has to be set as PGCACHEWATCH_PORT too. A relay that wants a certificate of its
clients lets nobody ask without one: then an open port counts as healthy, and the rest is for monitoring to see.
"""

import os
import socket
import sys

TIMEOUT_S = 2.0
ANSWER_BYTES = 2_000
READY = "/readyz"
REQUEST = "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main(path: str) -> int:
    """Prints what is wrong, which `docker inspect` then shows."""
    port = int(os.environ.get("PGCACHEWATCH_PORT", "8420"))
    try:
        connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        with connection:
            if os.environ.get("PGCACHEWATCH_TLS_CLIENT_CA_FILE"):
                return 0
            answer = ask(connection, path)
    except OSError as error:
        sys.stdout.write(f"no answer on port {port}: {error}\n")
        return 1
    if answer.startswith(b"HTTP/1.1 200 "):
        return 0
    sys.stdout.write(answer.decode("latin-1"))
    return 1


def ask(connection: socket.socket, path: str) -> bytes:
    """The first ANSWER_BYTES of what it answers, as they come."""
    if os.environ.get("PGCACHEWATCH_TLS_CERTIFICATE_FILE"):
        connection = over_tls(connection)
    connection.sendall(REQUEST.format(path=path).encode())
    answer = b""
    while len(answer) < ANSWER_BYTES and (more := connection.recv(ANSWER_BYTES)):
        answer += more
    return answer


def over_tls(connection: socket.socket) -> socket.socket:
    """Not verified: the certificate has the relay's name, and this is the same container."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else READY))
