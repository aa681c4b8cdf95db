"""Keys that are fetched as a JWKS, beside the event loop, and kept while they can not be.

A fetch is begun when the keys have become old, and when a token names a key that is not known; but never within
SPACING_S of the last, or whoever sends tokens would decide how often somebody else's server is asked. What was fetched
stays until something better comes: an issuer that is down for an hour must not end every client.

The url is https, or http of this machine, also behind a redirect: whoever can change the answer on its way can sign
tokens. No redirect leads from https to this machine, where an issuer has nothing to ask for.

Bounds: TIMEOUT_S for each step of a fetch, WHOLE_S for its answer, keys.TEXT_BYTES of that, one at a time. So a server
that sends a byte now and then does not hold the thread, for which the end of the process waits.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.io.jwt.keys import TEXT_BYTES, Key, read_keys
from pgcachewatch_daemon.lines import line_logger

SPACING_S = 5.0
TIMEOUT_S = 5.0
WHOLE_S = 10.0

logger = line_logger(__name__)


class RemoteKeys:
    """The keys behind a url. `now_s` is a monotonic clock; `changed` is called when there are others."""

    def __init__(
        self,
        url: str,
        *,
        refresh_s: float,
        now_s: Callable[[], float],
        changed: Callable[[], None] = lambda: None,
        spacing_s: float = SPACING_S,
    ) -> None:
        check_url(url)
        self.keys: tuple[Key, ...] = ()
        self.fetches = {"ok": 0, "failed": 0}
        self._url = url
        self._refresh_s = refresh_s
        self._now_s = now_s
        self._changed = changed
        self._spacing_s = spacing_s
        self._task: asyncio.Task[None] | None = None
        self._began_s = float("-inf")
        self._is_failing = False

    def tick(self) -> None:
        """Fetch when it is time to. To be called about once a second."""
        due_s = self._spacing_s if self._is_failing else self._refresh_s
        if self._now_s() - self._began_s >= due_s:
            self.fetch()

    def fetch(self) -> bool:
        """Fetch soon, unless that was done just now. True while a fetch is under way."""
        if self._task is not None and not self._task.done():
            return True
        if self._now_s() - self._began_s < self._spacing_s:
            return False
        self._began_s = self._now_s()
        self._task = asyncio.get_running_loop().create_task(self._fetch(), name="jwks")
        return True

    def stop(self) -> None:
        """Fetch no more; what is under way ends unheard."""
        self._began_s = float("inf")
        if self._task is not None:
            self._task.cancel()

    async def _fetch(self) -> None:
        try:
            keys = await asyncio.to_thread(_get, self._url)
        except (OSError, HTTPException, ValueError, ConfigurationError) as error:
            # The class and our own text: others may hold what a server put into them.
            why = str(error) if isinstance(error, ConfigurationError) else type(error).__name__
            self.fetches["failed"] += 1
            if not self._is_failing:
                logger.warning("keys of tokens not fetched, those known stay", url=_shown(self._url), why=why)
            self._is_failing = True
            return
        self.fetches["ok"] += 1
        if self._is_failing or not self.keys:
            logger.info("keys of tokens fetched", url=_shown(self._url), keys=len(keys))
        self._is_failing = False
        if keys != self.keys:
            self.keys = keys
            self._changed()


def check_url(url: str) -> None:
    """Raises ConfigurationError for one whose answer others could change."""
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and _is_loopback(parts.hostname or ""):
        return
    raise ConfigurationError(
        f"jwt_jwks_url {_shown(url)!r} can not be used: whoever can change the answer can sign tokens; "
        "use https, or http://127.0.0.1"
    )


def _get(url: str, *, whole_s: float = WHOLE_S) -> tuple[Key, ...]:
    handlers: list[urllib.request.BaseHandler] = [_Redirects()]
    if _is_loopback(urlsplit(url).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    request = urllib.request.Request(url, headers={"Accept": "application/json", "User-Agent": "pgcachewatch"})
    ends_s = time.monotonic() + whole_s
    content = bytearray()
    with opener.open(request, timeout=TIMEOUT_S) as answer:
        while len(content) <= TEXT_BYTES and (part := answer.read1(TEXT_BYTES)):
            content += part
            if time.monotonic() > ends_s:
                raise TimeoutError(f"the answer took more than {whole_s:g} s")
    return read_keys(content.decode())


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise ConfigurationError(f"jwt_jwks_url redirects to {_shown(newurl)!r}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(url: str) -> str:
    """Without what may be a secret in it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"
