"""Prometheus: what a client and its cached functions count, read when somebody asks.

    client = await pgcachewatch.connect("ws://127.0.0.1:8420")
    register(client)  # with the default registry, which prometheus_client's own servers show

The asynchronous client and the one for threads alike. A program with several clients names them:
`register({"shop": one, "stock": other})`. Clients are held weakly, so that one nobody uses any more ends as it would
without this, and shows nothing from then on.

METRICS is the only place where a metric is declared; METRICS.md beside it is generated from it
(`python -m pgcachewatch.contrib.prometheus`), and a test compares the two. No call of a cached function does anything
for this: all counts are there anyway.

Bound: `client` and `function` take their values from the program's own text, the names it gives its clients and those
of the functions it decorates; functions of one name are added up. Nothing that comes from outside is a label.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from pgcachewatch.aio.client import Client as AsyncClient
from pgcachewatch.aio.client import Status
from pgcachewatch.core.store import CacheInfo
from pgcachewatch.threads import Client as SyncClient

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
except ImportError as error:
    raise ImportError(
        "pgcachewatch.contrib.prometheus needs prometheus-client: pip install prometheus-client"
    ) from error

AnyClient = AsyncClient | SyncClient
State = Literal["cold", "live", "suspect"]

# What a metric shows of one client: values by the labels behind `client`.
Values = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. Each has the label `client` before its own; the names of counters are without `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        return f"pgcachewatch_{self.name}{'_total' if self.kind == 'counter' else ''}"


BASE_UNITS = frozenset({"seconds", "bytes", "ratio"})
OF_FUNCTION = ("function",)
METRICS: tuple[Row, ...] = (
    Row("client_state", "gauge", "boolean", "1 for the state that the client is in, else 0", ("state",)),
    Row("client_connected", "gauge", "boolean", "1 while it is connected to a relay"),
    Row("client_lease_left_seconds", "gauge", "seconds", "How long hits go on without further proof of freshness"),
    Row("client_reconnects", "counter", "connections", "Connections after the first"),
    Row("client_resumes", "counter", "connections", "Those that kept the caches warm"),
    Row("client_gaps", "counter", "gaps", "Times continuity broke, and caches were flushed"),
    Row(
        "client_refusals",
        "gauge",
        "requests",
        "The last requests that the relay declined; their functions always run",
    ),
    Row("cache_hits", "counter", "calls", "Calls served from the cache", OF_FUNCTION),
    Row("cache_misses", "counter", "calls", "Calls that found nothing to serve", OF_FUNCTION),
    Row("cache_joins", "counter", "calls", "Misses that waited for a run of another call", OF_FUNCTION),
    Row("cache_bypasses", "counter", "calls", "Calls that ran because freshness was not proven", OF_FUNCTION),
    Row("cache_discarded_fills", "counter", "runs", "Results not stored: something changed meanwhile", OF_FUNCTION),
    Row("cache_evictions", "counter", "entries", "Entries that made room for others", OF_FUNCTION),
    Row("cache_flushes", "counter", "flushes", "Times all of a function's entries were dropped", OF_FUNCTION),
    Row("cache_entries", "gauge", "entries", "Entries that may be served", OF_FUNCTION),
    Row("cache_entries_limit", "gauge", "entries", "Entries there may be", OF_FUNCTION),
)


def register(client: AnyClient | Mapping[str, AnyClient], *, registry: CollectorRegistry = REGISTRY) -> ClientCollector:
    """Show a client, or several by their names, in a registry. Once for each registry.

    Returns the collector, for `registry.unregister`. One client without a name has the empty one, which Prometheus
    takes for no label.
    """
    collector = ClientCollector(client if isinstance(client, Mapping) else {"": client})
    registry.register(collector)
    return collector


class ClientCollector(Collector):
    """Yields METRICS for each client that still lives."""

    def __init__(self, clients: Mapping[str, AnyClient]) -> None:
        self._clients = {name: weakref.ref(client) for name, client in clients.items()}

    def collect(self) -> Iterator[Metric]:
        readings = {name: read(client) for name, client in self._living()}
        for row in METRICS:
            family = _family(row)
            for name, reading in readings.items():
                for labels, value in reading[row.name].items():
                    family.add_metric([name, *labels], value)
            yield family

    def describe(self) -> Iterator[Metric]:
        """The names without the values, for the registry to see that they are taken."""
        yield from map(_family, METRICS)

    def _living(self) -> Iterable[tuple[str, AnyClient]]:
        for name, reference in self._clients.items():
            client = reference()
            if client is not None:
                yield name, client


def read(client: AnyClient) -> dict[str, Values]:
    """The values of METRICS for one client at this moment. May be called in any thread."""
    return _of_client(client.status) | _of_functions(client.cache_infos())


def _of_client(status: Status) -> dict[str, Values]:
    return {
        "client_state": {(state,): float(status.state == state) for state in get_args(State)},
        "client_connected": {(): float(status.is_connected)},
        "client_lease_left_seconds": {(): status.lease_left_s},
        "client_reconnects": {(): status.reconnects},
        "client_resumes": {(): status.resumes},
        "client_gaps": {(): status.gaps},
        "client_refusals": {(): len(status.refusals)},
    }


def _of_functions(infos: Mapping[str, CacheInfo]) -> dict[str, Values]:
    def each(name: str) -> Values:
        return {(function,): float(getattr(info, name)) for function, info in infos.items()}

    return {
        "cache_hits": each("hits"),
        "cache_misses": each("misses"),
        "cache_joins": each("joins"),
        "cache_bypasses": each("bypasses"),
        "cache_discarded_fills": each("discards"),
        "cache_evictions": each("evictions"),
        "cache_flushes": each("flushes"),
        "cache_entries": each("currsize"),
        "cache_entries_limit": each("maxsize"),
    }


def _family(row: Row) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    unit = row.unit if row.unit in BASE_UNITS and row.name.endswith(f"_{row.unit}") else ""  # as OpenMetrics wants it
    return kind(f"pgcachewatch_{row.name}", row.meaning, labels=("client", *row.labels), unit=unit)


def render_table() -> str:
    """METRICS.md."""
    lines = [
        "# Metrics of a client",
        "",
        "For programs that call `pgcachewatch.contrib.prometheus.register(client)`. Generated from the table in",
        "`contrib/prometheus.py`: `python -m pgcachewatch.contrib.prometheus`. Those of the relay are in the daemon's",
        "METRICS.md.",
        "",
        "| name | type | unit | labels | meaning |",
        "|---|---|---|---|---|",
    ]
    for row in METRICS:
        labels = ", ".join(f"`{label}`" for label in ("client", *row.labels))
        lines.append(f"| `{row.full_name}` | {row.kind} | {row.unit} | {labels} | {row.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render_table())
