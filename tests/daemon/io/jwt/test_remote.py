"""Keys behind a url: fetched, changed, kept while the url fails, and not fetched as often as strangers ask."""

from __future__ import annotations

import contextlib
import io
import threading
import urllib.request
from collections.abc import Iterator
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.jwt.remote import RemoteKeys, _get, _Redirects, check_url
from tests.daemon.io.jwt.signing import jwk, jwks
from tests.waiting import eventually


class Issuer(HTTPServer):
    """Answers with `text`, or sends elsewhere."""

    text = jwks(jwk("ES256", kid="1"))
    status = 200
    location = ""
    requests = 0
    drips = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/jwks?key=hidden"


class Handler(BaseHTTPRequestHandler):
    server: Issuer

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(302 if self.server.location else self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()
        if self.server.drips:
            # A byte at a time, for as long as somebody reads: each read is answered, and the whole never.
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b" ")
        self.wfile.write(self.server.text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def fetched(keys: RemoteKeys) -> None:
    before = sum(keys.fetches.values())
    assert keys.fetch()
    await eventually(lambda: sum(keys.fetches.values()) > before)


async def test_keys_are_fetched_at_once_and_again_when_they_are_old(issuer: Issuer) -> None:
    clock, changes = Clock(), []
    keys = RemoteKeys(issuer.url, refresh_s=300.0, now_s=clock, changed=lambda: changes.append(1))
    keys.tick()
    await eventually(lambda: [key.kid for key in keys.keys] == ["1"])
    issuer.text = jwks(jwk("ES256", kid="2"))
    clock.now_s = 299.0
    keys.tick()
    assert issuer.requests == 1
    clock.now_s = 300.0
    keys.tick()
    await eventually(lambda: [key.kid for key in keys.keys] == ["2"])
    assert len(changes) == 2
    keys.stop()


async def test_keys_that_are_the_same_are_no_change(issuer: Issuer) -> None:
    clock, changes = Clock(), []
    keys = RemoteKeys(issuer.url, refresh_s=300.0, now_s=clock, changed=lambda: changes.append(1))
    await fetched(keys)
    clock.now_s = 10.0
    await fetched(keys)

    assert (issuer.requests, len(changes)) == (2, 1)


async def test_old_keys_stay_while_the_url_fails(issuer: Issuer, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    keys = RemoteKeys(issuer.url, refresh_s=300.0, now_s=clock)
    await fetched(keys)
    for text, status in (("{}", 200), ("", 500), ("<html>", 200), ("x" * 1_100_000, 200)):
        issuer.text, issuer.status = text, status
        clock.now_s += 10.0
        await fetched(keys)

    assert [key.kid for key in keys.keys] == ["1"]
    assert keys.fetches == {"ok": 1, "failed": 4}
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "one line when it begins to fail"
    assert "hidden" not in caplog.text


async def test_whoever_asks_often_does_not_have_them_fetched_often(issuer: Issuer) -> None:
    clock = Clock()
    keys = RemoteKeys(issuer.url, refresh_s=300.0, now_s=clock)
    await fetched(keys)

    assert not any(keys.fetch() for _ in range(100))
    clock.now_s = 5.0
    assert keys.fetch()
    assert keys.fetch(), "it is under way"
    await eventually(lambda: issuer.requests == 2)
    keys.stop()


def test_an_answer_that_never_ends_is_given_up(issuer: Issuer) -> None:
    issuer.drips = True

    with pytest.raises(TimeoutError, match="more than 0 s"):
        _get(issuer.url, whole_s=0.0)


async def test_an_answer_that_others_could_change_is_not_fetched_by_a_redirect(issuer: Issuer) -> None:
    issuer.location = "http://192.0.2.1/jwks"
    keys = RemoteKeys(issuer.url, refresh_s=300.0, now_s=Clock())
    await fetched(keys)

    assert keys.keys == ()
    assert keys.fetches == {"ok": 0, "failed": 1}


@pytest.mark.parametrize(
    ("to", "is_followed"),
    [
        ("https://id.example/other", True),
        ("https://keys.example/", True),
        ("http://127.0.0.1:8080/admin?key=hidden", False),
        ("http://id.example/jwks", False),
    ],
)
def test_an_issuer_can_not_have_a_service_of_this_machine_asked(to: str, is_followed: bool) -> None:
    request = urllib.request.Request("https://id.example/jwks")

    def redirect() -> urllib.request.Request | None:
        return _Redirects().redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), to)

    if is_followed:
        found = redirect()
        assert found is not None
        assert found.full_url == to
    else:
        with pytest.raises(ConfigurationError, match="jwt_jwks_url") as caught:
            redirect()
        assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://id.example/jwks", "ftp://127.0.0.1/x", "file:///etc/passwd", "https://", "x"])
def test_an_address_whose_answer_others_can_change_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="jwt_jwks_url"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://id.example/jwks", "http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]/"]
)
def test_an_address_that_nobody_can_answer_for_is_fine(url: str) -> None:
    check_url(url)
