"""The files of the page at `/`: plain HTML, CSS and JavaScript modules, as they lie in `page/`.

They hold no data, so anybody may load them; what the page shows comes by `/v1/ws` and `/v1/status`, which ask for a
token where one is needed. The policy lets a browser run these files and no other script, connect to this origin and
to no other, and put the page into nobody's frame; even a script of the page can not make markup out of text.
Each file has a strong tag, and a browser asks for it anew each time it loads the page: after an upgrade none is mixed
with an old one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

from pgcachewatch_daemon.io import http
from pgcachewatch_daemon.io.http import Answer

HOME = "index.html"
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `tag` is its ETag, quotes included."""

    kind: str
    body: bytes
    tag: str


class Assets:
    """All of them, read once."""

    def __init__(self) -> None:
        folder = resources.files("pgcachewatch_daemon") / "page"
        self._assets: dict[str, Asset] = {}
        for file in folder.iterdir():
            kind = TYPES.get(file.name.rpartition(".")[2])
            if kind is not None:
                body = file.read_bytes()
                self._assets[file.name] = Asset(kind, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._assets)

    def answer(self, name: str, *, known_tags: str = "") -> Answer:
        """The file, 304 when the browser has it (`known_tags` is its If-None-Match), or 404.

        >>> Assets().answer("index.html").status, Assets().answer("../cli.py").status
        (200, 404)
        """
        asset = self._assets.get(name)
        if asset is None:
            return http.text(404, f"the page has no file {name[:80]!r}")
        headers = {**HEADERS, "Content-Type": asset.kind, "ETag": asset.tag}
        tags = {tag.strip().removeprefix("W/") for tag in known_tags.split(",")}
        if asset.tag in tags or "*" in tags:
            # Of an answer without a body this is the length that the body would have (RFC 9110 section 8.6).
            return Answer(304, {**headers, "Content-Length": str(len(asset.body))}, b"")
        return Answer(200, headers, asset.body)
