"""One address for both protocols, and no secret in it."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.remote import TOKEN_VARIABLE, Remote, add_remote_options, printable, remote_of, split


def given(*arguments: str) -> Remote:
    parser = argparse.ArgumentParser()
    add_remote_options(parser)
    return remote_of(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("url", "ws", "http"),
    [
        ("ws://127.0.0.1:8420", "ws://127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("http://127.0.0.1:8420/", "ws://127.0.0.1:8420", "http://127.0.0.1:8420"),
        ("https://example.com/cache", "wss://example.com/cache", "https://example.com/cache"),
        ("wss://[::1]:8420/v1/ws", "wss://[::1]:8420", "https://[::1]:8420"),
    ],
)
def test_an_address_is_for_websockets_and_for_http(url: str, ws: str, http: str) -> None:
    remote = given(url)
    assert (remote.url, remote.http) == (ws, http)


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "ws://", "ws://x:port", "ws://x:99999"])
def test_what_is_no_address_says_how_to_write_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write ws://host:port"):
        split(url)


@pytest.mark.parametrize("url", ["ws://x/?token=s3cret", "ws://x/#s3cret", "ws://me:s3cret@x"])
def test_a_secret_in_an_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        split(url)
    assert "s3cret" not in str(caught.value) or "#" in url
    assert TOKEN_VARIABLE in str(caught.value)


def test_a_token_comes_from_a_file_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from a file\n")
    monkeypatch.setenv(TOKEN_VARIABLE, " from outside ")
    assert given("ws://x").token == "from outside"
    assert given("ws://x", "--token-file", str(file)).token == "from a file"
    assert "from a file" not in repr(given("ws://x", "--token-file", str(file)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--token-file .*gone"):
        given("ws://x", "--token-file", str(tmp_path / "gone"))
    with pytest.raises(ConfigurationError, match=r"--ca-file .*gone"):
        given("wss://x", "--ca-file", str(tmp_path / "gone"))


def test_certificates_are_for_encrypted_connections() -> None:
    with pytest.raises(ConfigurationError, match="wss"):
        given("ws://x", "--ca-file", "ca.pem")


@pytest.mark.parametrize(("url", "is_near"), [("ws://localhost", True), ("ws://[::1]:1", True), ("ws://db", False)])
def test_no_proxy_leads_to_this_machine(url: str, is_near: bool) -> None:
    assert given(url).is_loopback is is_near


def test_a_stranger_s_text_can_not_steer_a_terminal() -> None:
    assert printable("größe 42") == "größe 42"
    assert printable("a\x1b]0;title\x07\r\nb\u202e") == "a\\x1b]0;title\\x07\\r\\nb\\u202e"
