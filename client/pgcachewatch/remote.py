"""A relay as the commands `tail` and `status URL` are told of it: address, token, certificate.

The address is one text, whatever speaks: `ws://host:8420` and `http://host:8420` are the same relay. A token never
comes from the command line, where each user of the machine could read it: from a file, or the environment.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol import messages

TOKEN_VARIABLE = "PGCACHEWATCH_TOKEN"
SCHEMES = {"ws": "ws", "http": "ws", "wss": "wss", "https": "wss"}
WITH_HTTP = {"ws": "http", "wss": "https"}


@dataclass(frozen=True, slots=True)
class Remote:
    """A relay. `place` is host, port and the prefix of a proxy, without the scheme; `token` may be empty."""

    scheme: str
    place: str
    token: str = field(default="", repr=False)
    ssl: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """For WebSockets."""
        return f"{self.scheme}://{self.place}"

    @property
    def http(self) -> str:
        return f"{WITH_HTTP[self.scheme]}://{self.place}"

    @property
    def is_loopback(self) -> bool:
        """It runs on this machine, so no proxy leads to it."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"


def add_remote_options(parser: argparse.ArgumentParser) -> None:
    """The options that `remote_of` reads."""
    parser.add_argument("url", metavar="URL", help="the relay: ws://host:8420, or with wss, http or https")
    parser.add_argument("--token-file", metavar="FILE", help=f"a file with a token in it (default: {TOKEN_VARIABLE})")
    parser.add_argument("--ca-file", metavar="FILE", help="certificates to trust, as PEM, instead of the system's")


def remote_of(options: argparse.Namespace) -> Remote:
    """Raises ConfigurationError with a sentence for what can not work."""
    scheme, place = split(options.url)
    context = None
    if options.ca_file is not None:
        if scheme != "wss":
            raise ConfigurationError(f"--ca-file is for wss:// and https://, not for {options.url.split('?')[0]}")
        context = _trusting(options.ca_file)
    return Remote(scheme, place, _token(options.token_file), context)


def split(url: str) -> tuple[str, str]:
    """The scheme for WebSockets, and the place.

    >>> split("https://cache.example.com/relay/"), split("ws://127.0.0.1:8420/v1/ws")
    (('wss', 'cache.example.com/relay'), ('ws', '127.0.0.1:8420'))
    """
    shown = url.split("?")[0]
    try:
        parts = urlsplit(url)
        is_fit = parts.scheme in SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_fit, parts = False, urlsplit("")
    if not is_fit or parts.query or parts.fragment or parts.username is not None:
        # Cut at the query, and without what stands before the host: that is where people put secrets.
        raise ConfigurationError(
            f"{shown.rpartition('@')[2]!r} is no address of a relay: write ws://host:port, or with wss, http or https; "
            f"a token goes into --token-file or {TOKEN_VARIABLE}"
        )
    path = parts.path.rstrip("/").removesuffix(messages.PATH)
    return SCHEMES[parts.scheme], f"{parts.netloc}{path}"


def _token(file: str | None) -> str:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--token-file {file} can not be read: {error}") from error


def _trusting(file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"--ca-file {file} holds no certificates that can be read: {error}") from error


def printable(text: str) -> str:
    """A text of a stranger as a terminal may show it: what would steer the terminal is written out.

    >>> printable("42\\x1b[2J")
    '42\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
