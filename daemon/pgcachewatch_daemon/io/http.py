"""What the relay answers over HTTP: which path is what, and the answers of health checks and refusals.

Pure: a request line in, an Answer out; the socket is somebody else's. `/livez` says that the process serves, `/readyz`
that events provably flow, with a JSON body that names the failing check and since when; `/up` is the original's path
for the same question; `/` is for people. Each answer closes its connection, and only the files of the page are cached.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from urllib.parse import unquote

from pgcachewatch.protocol.messages import PATH, PLAIN_PATH_PREFIX

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")
READ_METHODS = ("GET", "HEAD")


class Page(Enum):
    """The paths there are."""

    HOME = "/"
    PART = "/page/"
    STATUS = "/v1/status"
    LIVE = "/livez"
    READY = "/readyz"
    UP = "/up"
    METRICS = "/metrics"
    PROTOCOL = PATH
    PLAIN = PLAIN_PATH_PREFIX


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `channel` is the plain path's, decoded; `part` a file's name below PART. Else empty."""

    page: Page
    channel: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, save for the headers that every answer has."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of readiness. `since_s`: how long it has been as it is, in seconds."""

    name: str
    is_passing: bool
    since_s: float
    detail: str = ""


def route(method: str, target: str) -> Route | Answer:
    """Where a request goes, or why it goes nowhere: 404 for the path, 405 for the method.

    >>> route("GET", "/pgpubsub/my%20channel")
    Route(page=<Page.PLAIN: '/pgpubsub/'>, channel='my channel', part='')
    >>> route("POST", "/metrics").status
    405
    """
    path = target.partition("?")[0]
    found = _find(path)
    if found is None:
        # Not repeated: whoever puts a secret into a path finds it in each log already.
        return text(404, f"there is nothing at this path; clients connect to {PATH}")
    allowed = ("GET",) if found.page in (Page.PROTOCOL, Page.PLAIN) else READ_METHODS
    if method not in allowed:
        return text(405, f"{found.page.value} answers {' and '.join(allowed)}", Allow=", ".join(allowed))
    return found


def _find(path: str) -> Route | None:
    if path.startswith(PLAIN_PATH_PREFIX):
        # A channel that is not UTF-8 can not exist, and an empty one neither.
        channel = unquote(path[len(PLAIN_PATH_PREFIX) :], errors="replace")
        return Route(Page.PLAIN, channel) if channel and "�" not in channel else None
    if path.startswith(Page.PART.value):
        return Route(Page.PART, part=path[len(Page.PART.value) :])
    for page in (Page.HOME, Page.STATUS, Page.LIVE, Page.READY, Page.UP, Page.METRICS, Page.PROTOCOL):
        if path == page.value:
            return Route(page)
    return None


def wants_openmetrics(accept: str) -> bool:
    """True when `accept` names OpenMetrics 1.0 before the text format (RFC 9110, 12.5.1).

    >>> wants_openmetrics("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1")
    True
    >>> wants_openmetrics("text/plain, application/openmetrics-text")
    False
    """
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0, "text/*": 0.0, "*/*": 0.0}
    for part in accept.lower().split(","):
        kind, *parameters = (each.strip() for each in part.split(";"))
        named = {
            name.strip(): value.strip().strip('"') for name, _, value in (one.partition("=") for one in parameters)
        }
        is_known = kind != "application/openmetrics-text" or named.get("version", "1.0.0") == "1.0.0"
        if kind in weights and is_known and WEIGHT.fullmatch(named.get("q", "1")):
            weights[kind] = max(weights[kind], float(named.get("q", "1")))
    wanted, text, *wild = weights.values()
    return wanted > text and wanted >= max(wild)


def live() -> Answer:
    """Answer of `/livez`: whoever can read this, has it."""
    return text(200, "alive")


def up(checks: Sequence[Check]) -> Answer:
    """Answer of `/up`: 200 when every check passes."""
    failing = [check.name for check in checks if not check.is_passing]
    return text(503, f"not ready: {', '.join(failing)}", **{"Retry-After": "1"}) if failing else text(200, "up")


def ready(checks: Sequence[Check], *, at: datetime.datetime) -> Answer:
    """Answer of `/readyz` at an instant: 200 when every check passes, else 503; the body lists them all.

    >>> at = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)
    >>> json.loads(ready([Check("source", False, 2.5, "connection_lost")], at=at).body)["checks"]
    {'source': {'ok': False, 'since': '2030-01-01T11:59:57.500Z', 'since_s': 2.5, 'detail': 'connection_lost'}}
    """
    is_ready = all(check.is_passing for check in checks)
    body = {
        "ready": is_ready,
        "checks": {
            check.name: {
                "ok": check.is_passing,
                "since": _instant(at - datetime.timedelta(seconds=check.since_s)),
                "since_s": round(check.since_s, 3),
                "detail": check.detail,
            }
            for check in checks
        },
    }
    headers = {"Content-Type": JSON, "Cache-Control": "no-store"} | ({} if is_ready else {"Retry-After": "1"})
    return Answer(200 if is_ready else 503, headers, json.dumps(body, separators=(",", ":")).encode() + b"\n")


def _instant(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def refuse(status: int, reason: str, retry_after_s: float = 0.0) -> Answer:
    """A refusal before the upgrade. `retry_after_s` 0: trying again is not worth it, or may be done at once."""
    headers = {"Retry-After": str(max(1, round(retry_after_s)))} if retry_after_s else {}
    return text(status, reason, **headers)


def text(status: int, sentence: str, **headers: str) -> Answer:
    """An answer of one line."""
    fields = {"Content-Type": TEXT, "Cache-Control": "no-store", **headers}
    return Answer(status, fields, sentence.encode() + b"\n")
