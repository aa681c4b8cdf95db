"""What the relay shows to Prometheus: one table, and a collector that reads plain counts when somebody asks.

Nothing here is touched while events flow: cores and shells count in integers of their own, and the relay hands them
over as readings at scrape time. METRICS is the only place where a metric is declared; METRICS.md is generated from it
(`python -m pgcachewatch_daemon.io.metrics`), and a test compares the two, and both with what a relay reads.

Two formats: the text that Prometheus has always read, and OpenMetrics for whoever asks for it, as Prometheus does. The
second differs by `# UNIT`, `# EOF`, names of counters without `_total` in `# TYPE`, and bounds like 1.0 instead of 1.

Bound: each label takes its values from a short fixed list (modes, reasons, codes, status); none comes from a client.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from pgcachewatch_daemon.core.allowance import Allowance

CONTENT_TYPE = CONTENT_TYPE_LATEST
OPENMETRICS_CONTENT_TYPE = openmetrics.CONTENT_TYPE_LATEST
PREFIX = "pgcachewatch_"
LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

RENDERS_PER_S = 10.0
BASE_UNITS = frozenset({"seconds", "bytes", "ratio"})

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(slots=True)
class Histogram:
    """Counts by upper bound, in seconds. `observe` is two integer additions and a search of 13 numbers."""

    bounds: Sequence[float] = LATENCY_BUCKETS_S
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], total: float) -> Histogram:
        """One with these counts, as many as bounds and one for what is above them."""
        histogram = cls(bounds)
        histogram.counts = list(counts)
        histogram.total = total
        return histogram

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self, *, is_openmetrics: bool = False) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        spell = "{!r}" if is_openmetrics else "{:g}"
        names = [*(spell.format(float(bound)) for bound in self.bounds), "+Inf"]
        cumulated = 0
        result = []
        for name, count in zip(names, self.counts, strict=True):
            cumulated += count
            result.append((name, float(cumulated)))
        return result


# A plain number, numbers by label values, or a histogram.
Reading = float | Mapping[tuple[str, ...], float] | Histogram


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. `name` is without the prefix and, for a counter, without `_total`.

    `unit`: seconds, bytes or ratio, as Prometheus wants its base units; boolean for 1 or 0; else what is counted.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"

    @property
    def said_unit(self) -> str:
        """The unit for OpenMetrics, which wants it to end the name; else empty."""
        return self.unit if self.unit in BASE_UNITS and self.name.endswith(f"_{self.unit}") else ""


METRICS: tuple[Row, ...] = (
    Row("ready", "gauge", "boolean", "1 while /readyz says 200; that of a primary does not ask its workers"),
    Row("source_up", "gauge", "boolean", "1 while events provably flow from PostgreSQL, else 0"),
    Row("source_connects", "counter", "connections", "Connections made to PostgreSQL for LISTEN"),
    Row("source_connect_failures", "counter", "attempts", "Attempts to connect that failed or could not be proven"),
    Row("source_losses", "counter", "losses", "Losses of the source; each begins a new epoch", ("reason",)),
    Row("source_channels", "gauge", "channels", "Channels the relay listens to"),
    Row("source_channels_unused", "gauge", "channels", "Those of them that no client uses"),
    Row("source_channels_given_up", "counter", "channels", "Unused channels that were given up", ("reason",)),
    Row("notify_queue_usage_ratio", "gauge", "ratio", "Fill of PostgreSQL's notification queue; at 1 commits fail"),
    Row("loopback_age_seconds", "gauge", "seconds", "Age of the last proof that events flow; grows without one"),
    Row("loopback_seconds", "histogram", "seconds", "From sending a loopback to its return"),
    Row("barrier_seconds", "histogram", "seconds", "From a client's barrier to its answer"),
    Row("token_barriers", "counter", "barriers", "Barriers on one transaction by how they ended", ("result",)),
    Row("journal_state", "gauge", "boolean", "1 for the state that the reading of the journal is in", ("state",)),
    Row("journal_rows", "counter", "rows", "Rows read from the journal"),
    Row("journal_polls", "counter", "queries", "Times it was read"),
    Row("journal_wakes", "counter", "wakes", "Times a sleeping relay was woken by a writer"),
    Row("journal_losses", "counter", "losses", "Times rows went before they were read; every cache is flushed"),
    Row("consumers", "gauge", "consumers", "Durable consumers in use"),
    Row("consumer_clients", "gauge", "clients", "Clients that take their jobs"),
    Row("consumer_pending", "gauge", "jobs", "Jobs that were read and not acknowledged"),
    Row(
        "consumer_lag_seconds",
        "gauge",
        "seconds",
        "Age of the oldest event that a consumer has not acknowledged, also of one whose clients are all away",
    ),
    Row("consumer_jobs", "counter", "jobs", "Jobs read from the journal"),
    Row("consumer_redeliveries", "counter", "jobs", "Jobs given again"),
    Row("consumer_timeouts", "counter", "jobs", "Times a client let a job time out"),
    Row("consumer_dead_letters", "counter", "jobs", "Jobs tried in vain too often, now in pgcachewatch.dead_letters"),
    Row("consumer_gaps", "counter", "gaps", "Gaps that consumers were told of"),
    Row("drift_findings", "gauge", "findings", "Triggers that are not as they were installed", ("kind",)),
    Row("drift_gaps", "counter", "tables", "Tables declared changed because writes to them may have raised no event"),
    Row("drift_checks", "counter", "queries", "Looks at the catalogue by how they ended", ("result",)),
    Row(
        "catalogue_age_seconds",
        "gauge",
        "seconds",
        "Age of the last look at the catalogue, before the first that of the relay",
    ),
    Row("epoch_changes", "counter", "epochs", "New epochs: every client's cache is flushed", ("reason",)),
    Row("events_received", "counter", "events", "Notifications that were read as events"),
    Row("gaps_received", "counter", "gaps", "Notifications that could not be read and became gaps", ("reason",)),
    Row("handler_failures", "counter", "gaps", "Notifications whose handling failed in the relay; each became a gap"),
    Row(
        "commit_to_fanout_seconds",
        "histogram",
        "seconds",
        "From `sent_at` of the first event of a burst until all was handed to the kernel for all that are told of it; "
        "two clocks, the database's and the relay's, so a skew between them is part of it",
    ),
    Row("history_events", "gauge", "events", "Events kept for clients that come back"),
    Row("history_bytes", "gauge", "bytes", "Their estimated size"),
    Row("history_age_seconds", "gauge", "seconds", "Age of the oldest of them"),
    Row("clients", "gauge", "clients", "Clients connected", ("path",)),
    Row("clients_limit", "gauge", "clients", "Clients there may be at one time"),
    Row("subscriptions", "gauge", "subscriptions", "Subscriptions", ("mode",)),
    Row("frames_sent", "counter", "frames", "WebSocket frames written"),
    Row("bytes_sent", "counter", "bytes", "Bytes written, HTTP answers included"),
    Row("writes", "counter", "calls", "Write calls; frames per write shows how well they are joined"),
    Row("conflations", "counter", "conflations", "Times a slow client's pending events were collapsed", ("level",)),
    Row("stream_overflows", "counter", "subscriptions", "Stream outboxes that ran full; their clients are closed"),
    Row("write_stalls", "counter", "clients", "Clients cut because they took no byte"),
    Row(
        "disconnects",
        "counter",
        "connections",
        "Clients that went, by close code; 3000: of their own",
        ("code",),
    ),
    Row("refusals", "counter", "requests", "Requests refused before the upgrade by HTTP status", ("status",)),
    Row("limit_refusals", "counter", "requests", "Subscriptions refused by a limit, by its name", ("limit",)),
    Row("authentications", "counter", "tokens", "Judgements of who a client is, by how they ended", ("result",)),
    Row("key_fetches", "counter", "fetches", "Fetches of the keys of tokens by how they ended", ("result",)),
    Row("evicted_handshakes", "counter", "connections", "Sockets dropped because too many were silent"),
    Row("tls_failures", "counter", "connections", "TLS connections that failed, in the handshake or later"),
    Row("tls_certificate_not_after_seconds", "gauge", "seconds", "When the certificate expires, since 1970; 0: no TLS"),
    Row("resumes", "counter", "clients", "Clients that came back", ("result",)),
    Row("event_loop_lag_seconds", "histogram", "seconds", "How late a timer runs in the relay's processes"),
    Row("reloads", "counter", "reloads", "Times SIGHUP had settings read anew, by how it ended", ("result",)),
    Row("workers", "gauge", "processes", "Processes that serve clients now"),
    Row("worker_restarts", "counter", "processes", "Workers that ended unasked and were replaced"),
    Row("worker_silences", "counter", "scrapes", "Times a worker did not answer in time; its gauges are left out"),
    Row("build_info", "gauge", "boolean", "Always 1; the labels say what runs", ("version", "python")),
)


class RelayCollector(Collector):
    """Yields the table's metrics from the readings of this moment."""

    def __init__(self, read: Callable[[], Mapping[str, Reading]], *, is_openmetrics: bool) -> None:
        self._read = read
        self._is_openmetrics = is_openmetrics

    def collect(self) -> Iterator[Metric]:
        readings = self._read()
        for row in METRICS:
            yield _family(row, readings[row.name], is_openmetrics=self._is_openmetrics)

    def describe(self) -> Iterator[Metric]:
        """The names without the values: a registry asks before there is a relay to read from."""
        for row in METRICS:
            yield _family(row, Histogram() if row.kind == "histogram" else {}, is_openmetrics=self._is_openmetrics)


class Exposition:
    """The text of `/metrics`: the relay's table, the process and the interpreter. Registries of its own per relay.

    It takes some milliseconds to make, so whoever asks more often than RENDERS_PER_S is shown the last one again.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, Reading]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._formats = {
            False: _Format(_registry(read, is_openmetrics=False), generate_latest),
            True: _Format(_registry(read, is_openmetrics=True), openmetrics.generate_latest),
        }

    def render(self, *, is_openmetrics: bool = False) -> bytes:
        wanted = self._formats[is_openmetrics]
        must_wait_s = wanted.renders.take(per_s=RENDERS_PER_S, now_s=self._clock())
        if not must_wait_s or not wanted.last:
            wanted.last = wanted.generate(wanted.registry)
        return wanted.last


@dataclass(slots=True)
class _Format:
    registry: CollectorRegistry
    generate: Callable[[CollectorRegistry], bytes]
    renders: Allowance = field(default_factory=Allowance)
    last: bytes = b""


def _registry(read: Callable[[], Mapping[str, Reading]], *, is_openmetrics: bool) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(RelayCollector(read, is_openmetrics=is_openmetrics))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def _family(row: Row, reading: Reading, *, is_openmetrics: bool) -> Metric:
    name = PREFIX + row.name
    if isinstance(reading, Histogram):
        buckets = reading.buckets(is_openmetrics=is_openmetrics)
        return HistogramMetricFamily(name, row.meaning, buckets=buckets, sum_value=reading.total, unit=row.said_unit)
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    family: CounterMetricFamily | GaugeMetricFamily = kind(name, row.meaning, labels=row.labels, unit=row.said_unit)
    values = reading if isinstance(reading, Mapping) else {(): reading}
    for labels, value in values.items():
        family.add_metric(list(labels), value)
    return family


def render_table() -> str:
    """METRICS.md."""
    lines = [
        "# Metrics of the relay",
        "",
        "Generated from the table in `io/metrics.py`: `python -m pgcachewatch_daemon.io.metrics`. The process and the",
        "interpreter are described by the usual `process_*` and `python_info`; with several workers these are the",
        "primary's, which holds the LISTEN connection, and everything else is the sum over all processes.",
        "",
        "| name | type | unit | labels | meaning |",
        "|---|---|---|---|---|",
    ]
    for row in METRICS:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        lines.append(f"| `{row.full_name}` | {row.kind} | {row.unit} | {labels} | {row.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_table())
