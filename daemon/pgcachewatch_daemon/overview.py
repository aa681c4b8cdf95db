"""`GET /v1/status`: the state of the relay as one JSON document, for the page at `/` and `pgcachewatch status URL`.

Counts are those of `/metrics`, under fewer names; what no metric may have is here, in bounded lists: clients, tables,
what the catalogue's last look found. No key of a row is among them. FIELDS is the one table of what there is, STATUS.md
is generated from it (`python -m pgcachewatch_daemon.overview`), and a test compares both with a document.

Bound: the lists' (sights.py, FINDINGS, CONSUMERS). An answer is made at most once in KEPT_S, however many pages are
open.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgcachewatch.models import Position
from pgcachewatch_daemon.health import describe
from pgcachewatch_daemon.io.http import Check
from pgcachewatch_daemon.io.metrics import Histogram, Reading
from pgcachewatch_daemon.io.postgres import SourceStats
from pgcachewatch_daemon.posts import Standing
from pgcachewatch_daemon.readings import package_version
from pgcachewatch_daemon.sights import Sights
from pgcachewatch_daemon.sql.drift import Finding

FINDINGS = 20
CONSUMERS = 50
KEPT_S = 0.25

FIELDS: tuple[tuple[str, str], ...] = (
    ("version", "of the relay"),
    ("python", "that runs it"),
    ("node", "its name"),
    ("now_s", "its wall clock, seconds of the Unix epoch"),
    ("uptime_s", "since it began"),
    ("ready", "every check passes"),
    ("health.state", "flowing, starting, lost, unproven or draining"),
    ("health.title", "the same in words"),
    ("health.since_s", "for how long"),
    ("health.advice", "what it means and what to do; empty while all is well"),
    ("checks[].name", "source, loopback, accepting"),
    ("checks[].ok", "it passes"),
    ("checks[].since_s", "for how long it has been so; of the loopback, its age"),
    ("checks[].detail", "why not"),
    ("position.epoch", "new whenever continuity was lost"),
    ("position.seq", "the head of the log"),
    ("postgres.server", "whom the relay listens to, without a password"),
    ("postgres.version", "of the server"),
    ("postgres.mode", "notify, or the state that the reading of the journal is in"),
    ("postgres.channels", "that are listened to"),
    ("postgres.channels_unused", "those of them that no client uses"),
    ("postgres.queue_usage", "of PostgreSQL's notification queue, 0 to 1"),
    ("postgres.connects", "made since the start"),
    ("postgres.losses", "since the start"),
    ("postgres.problem", "why the last attempt to connect failed, and what to do"),
    ("counts.events", "read since the start"),
    ("counts.gaps", "notifications that could not be read"),
    ("counts.epochs", "begun since the start; each flushes every cache"),
    ("counts.frames", "written to clients"),
    ("counts.bytes", "written"),
    ("counts.conflations", "times a slow client's events were collapsed"),
    ("counts.stalls", "clients cut because they took no byte"),
    ("counts.resumed", "clients that came back and missed nothing"),
    ("counts.refused", "requests refused before the upgrade"),
    ("histograms{}.bounds", "in seconds, by the metric's name"),
    ("histograms{}.counts", "of each bound, and one for what is above; not cumulated"),
    ("histograms{}.sum", "in seconds"),
    ("history.events", "kept for clients that come back"),
    ("history.bytes", "their estimated size"),
    ("history.age_s", "of the oldest"),
    ("drift.findings", "triggers that are not as they were installed"),
    ("drift.checked_s", "since the last look at the catalogue, or since the start"),
    ("drift.listed[].kind", "of the first of them"),
    ("drift.listed[].table", "as it can be typed"),
    ("drift.listed[].detail", "what is wrong"),
    ("drift.listed[].remedy", "what to do"),
    ("tables.total", "that the newest changes of the history speak of"),
    ("tables.listed[].schema", "null where the event does not say it"),
    ("tables.listed[].table", "its name"),
    ("tables.listed[].operation", "of its last change: insert, update, delete, truncate, gap"),
    ("tables.listed[].age_s", "of that"),
    ("tables.listed[].changes", "in the history"),
    ("tables.listed[].recent", "in the last 10 seconds"),
    ("clients.total", "connected"),
    ("clients.plain", "of them by the original's path"),
    ("clients.invalidate", "subscriptions of caches"),
    ("clients.stream", "subscriptions that are told each event"),
    ("clients.consumers", "that take part in a durable consumer"),
    ("clients.listed[].id", "its `conn` in the log of its process"),
    ("clients.listed[].name", "that it gave itself"),
    ("clients.listed[].peer", "its address"),
    ("clients.listed[].subject", "of its token"),
    ("clients.listed[].path", "v1 or plain"),
    ("clients.listed[].invalidate", "its subscriptions as a cache"),
    ("clients.listed[].stream", "and as a stream"),
    ("clients.listed[].connected_s", "since it came"),
    ("clients.listed[].state", "joining, live, slow or conflating"),
    ("clients.listed[].pending_bytes", "that wait for its socket"),
    ("clients.listed[].behind", "positions it is still to be sent; null where unknown"),
    ("consumers.total", "durable consumers that are known"),
    ("consumers.listed[].name", "the most behind first"),
    ("consumers.listed[].clients", "of this relay that take its jobs; those of others are not known here"),
    ("consumers.listed[].pending", "jobs read and not acknowledged; null where no client is here"),
    (
        "consumers.listed[].lag_s",
        "age of the oldest not acknowledged; without a client here that of any row it still holds",
    ),
    ("workers.alive", "processes that serve clients"),
    ("workers.restarts", "of them"),
    ("workers.silences", "times one did not answer"),
)


@dataclass(frozen=True, slots=True)
class View:
    """What a document is made of. `readings` are those of the whole relay."""

    node: str
    uptime_s: float
    position: Position
    checks: Sequence[Check]
    source: SourceStats
    readings: Mapping[str, Reading]
    sights: Sights
    findings: Sequence[Finding]
    consumers: Sequence[Standing]


class Kept:
    """The last answer, for who asks within KEPT_S of it. `now_s` is the relay's monotonic clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._text = b""
        self._made_s = float("-inf")

    @property
    def text(self) -> bytes | None:
        """None when it is too old, or there is none."""
        return self._text if self._now_s() - self._made_s < KEPT_S else None

    def keep(self, text: bytes) -> bytes:
        self._text, self._made_s = text, self._now_s()
        return text


def render(view: View, *, wall_s: float) -> bytes:
    """The document as it is sent."""
    return json.dumps(document(view, wall_s=wall_s), separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def document(view: View, *, wall_s: float) -> dict[str, Any]:  # Any: JSON
    """See FIELDS."""
    read = view.readings
    return {
        "version": package_version(),
        "python": platform.python_version(),
        "node": view.node,
        "now_s": round(wall_s, 3),
        "uptime_s": round(view.uptime_s, 3),
        "ready": all(check.is_passing for check in view.checks),
        "health": asdict(describe(view.checks, view.source)),
        "checks": [
            {"name": one.name, "ok": one.is_passing, "since_s": round(one.since_s, 3), "detail": one.detail}
            for one in view.checks
        ],
        "position": {"epoch": view.position.epoch, "seq": view.position.seq},
        "postgres": _postgres(view.source),
        "counts": {
            "events": _count(read["events_received"]),
            "gaps": _count(read["gaps_received"]),
            "epochs": _count(read["epoch_changes"]),
            "frames": _count(read["frames_sent"]),
            "bytes": _count(read["bytes_sent"]),
            "conflations": _count(read["conflations"]),
            "stalls": _count(read["write_stalls"]),
            "resumed": _of(read["resumes"], "resumed"),
            "refused": _count(read["refusals"]),
        },
        "histograms": {name: _histogram(one) for name, one in read.items() if isinstance(one, Histogram)},
        "history": {
            "events": _count(read["history_events"]),
            "bytes": _count(read["history_bytes"]),
            "age_s": round(_sum(read["history_age_seconds"]), 3),
        },
        "drift": {
            "findings": _count(read["drift_findings"]),
            "checked_s": round(_sum(read["catalogue_age_seconds"]), 3),
            "listed": [
                {"kind": one.kind, "table": one.table, "detail": one.detail, "remedy": one.remedy}
                for one in view.findings[:FINDINGS]
            ],
        },
        "tables": {"total": view.sights.tables_total, "listed": [asdict(one) for one in view.sights.tables]},
        "clients": _clients(view),
        "consumers": {
            "total": len(view.consumers),
            "listed": [asdict(one) for one in view.consumers[:CONSUMERS]],
        },
        "workers": {
            "alive": _count(read["workers"]),
            "restarts": _count(read["worker_restarts"]),
            "silences": _count(read["worker_silences"]),
        },
    }


def _clients(view: View) -> dict[str, Any]:  # Any: JSON
    read = view.readings
    return {
        "total": _count(read["clients"]),
        "plain": _of(read["clients"], "plain"),
        "invalidate": _of(read["subscriptions"], "invalidate"),
        "stream": _of(read["subscriptions"], "stream"),
        "consumers": _count(read["consumer_clients"]),
        "listed": [asdict(one) for one in view.sights.clients],
    }


def _postgres(source: SourceStats) -> dict[str, Any]:  # Any: JSON
    return {
        "server": source.server,
        "version": source.version,
        "mode": "notify" if source.journal.state == "absent" else f"journal, {source.journal.state}",
        "channels": source.channels,
        "channels_unused": source.channels_unused,
        "queue_usage": source.queue_usage,
        "connects": source.connects,
        "losses": sum(source.losses.values()),
        "problem": source.problem,
    }


def _sum(reading: Reading) -> float:
    """One number of a reading: over all of its labels."""
    if isinstance(reading, Histogram):
        raise TypeError("a histogram is no number")
    return sum(reading.values()) if isinstance(reading, Mapping) else reading


def _count(reading: Reading) -> int:
    return round(_sum(reading))


def _of(reading: Reading, label: str) -> int:
    return round(reading.get((label,), 0)) if isinstance(reading, Mapping) else 0


def _histogram(reading: Histogram) -> dict[str, Any]:  # Any: JSON
    return {"bounds": list(reading.bounds), "counts": list(reading.counts), "sum": round(reading.total, 6)}


def render_table() -> str:
    """STATUS.md."""
    lines = [
        "# GET /v1/status",
        "",
        "Generated from the table in `overview.py`: `python -m pgcachewatch_daemon.overview`. `[]` is a list, `{}` an",
        "object by names. With authentication it needs a token whose modes have `status`. Fields may be added.",
        "",
        "| field | meaning |",
        "|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in FIELDS),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_table())
