"""Whether events are traced, and what the relay tells whoever traces them; io/traces does it, with OpenTelemetry."""

from __future__ import annotations

import importlib.util
from typing import Protocol

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Event, Gap

EXPORTER = "opentelemetry.exporter.otlp.proto.http"


class Traces(Protocol):
    """`began` and `left` are called in the order of events."""

    def began(self, change: Event | Gap, payload: str) -> None: ...
    def left(self) -> None:
        """What was published so far is written to all that wanted it."""

    async def close(self) -> None: ...


def check() -> None:
    """Raises ConfigurationError where the packages are missing."""
    try:
        is_there = importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # a package above it is missing
        is_there = False
    if not is_there:
        raise ConfigurationError(
            "option 'tracing' needs OpenTelemetry: pip install 'pgcachewatch[daemon,otel]', or for an image "
            "docker build --build-arg EXTRAS=otel, or set it to false"
        )


def open_traces(is_wanted: bool, *, node: str, version: str) -> Traces | None:
    """None when nobody wants them: then an event costs a comparison."""
    if not is_wanted:
        return None
    from pgcachewatch_daemon.io.traces import SpanTraces  # here, for a relay without the packages

    return SpanTraces.over_http(node=node, version=version)
