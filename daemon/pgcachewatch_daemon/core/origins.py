"""Which web pages may make a browser connect: those the relay serves itself, and those the operator lists.

A browser says in `Origin` whose page asks; other programs say nothing and are not concerned. A page is the relay's own
when its origin is the host that the request was for. Without authentication that is believed only of addresses and of
localhost: a stranger's page can have its own name resolve to the relay (DNS rebinding), and would be its "own" then.
With authentication it would lack a token.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

ANY = "*"
DEFAULT_PORTS = {"http": 80, "https": 443}


def may_connect(origin: str | None, host: str, allowed: Collection[str], *, is_authenticated: bool) -> bool:
    """`host` is the request's Host header. `allowed` are origins, or ANY.

    >>> may_connect("http://127.0.0.1:8420", "127.0.0.1:8420", (), is_authenticated=False)
    True
    >>> may_connect("https://evil.example", "127.0.0.1:8420", (), is_authenticated=False)
    False
    """
    if origin is None or ANY in allowed or origin in allowed:
        return True
    own = _place(origin, origin)
    if own is None or own != _place(f"{origin.partition('://')[0]}://{host}", origin):
        return False
    return is_authenticated or _is_nobodys_name(own[0])


def may_read(host: str, allowed: Collection[str]) -> bool:
    """Whether a page at `host`, by its own name, may read what needs no token.

    A browser sends no `Origin` to where the page came from, so of a name that was made to lead here only the Host
    header tells. A name without a dot is no stranger's: public ones have one.

    >>> may_read("127.0.0.1:8420", ()), may_read("relay:8420", ()), may_read("evil.example:8420", ())
    (True, True, False)
    """
    if not host or ANY in allowed or any(f"{scheme}://{host}" in allowed for scheme in DEFAULT_PORTS):
        return True
    place = _place(f"http://{host}", f"http://{host}")
    return place is not None and ("." not in place[0] or _is_nobodys_name(place[0]))


def _place(url: str, origin: str) -> tuple[str, int] | None:
    """Host and port; None for what is no origin, as `null`."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(urlsplit(origin).scheme)
    except ValueError:
        return None
    if parts.hostname is None or port is None or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return None
    return parts.hostname.lower(), port


def _is_nobodys_name(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
