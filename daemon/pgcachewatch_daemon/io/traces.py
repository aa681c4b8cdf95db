"""OpenTelemetry: one span for each event, from its notification to the last write of the burst it was part of.

The span is a child of the writer's own, where the payload names one: `SET LOCAL pgcachewatch.traceparent = '00-...'`
before the write makes our triggers put it there, or into the row of the journal that becomes the payload, and who
notifies by hand may add the field `traceparent`. Where to, how many and how often is the operator's to say, by
OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_TRACES_SAMPLER and so on). A span holds names of
channel, table and operation, and no key of any row.

Imported only when `tracing` is on, so that a relay without it pays nothing and needs no package. Spans are sent by a
thread of the SDK. Bound: PENDING spans of a burst, those behind are left out; the SDK's queue, which drops.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pgcachewatch.models import Event, Gap

PENDING = 1_000
CLOSE_S = 1.0
NAME = "pgcachewatch.fanout"
# Looked for in the text, because it is no part of an event: nobody but this module reads it.
TRACEPARENT = re.compile(r'"traceparent":\s?"([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})"')


class SpanTraces:
    """The spans of one process. `began` and `left` are called in the order of events."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("pgcachewatch")
        self._propagator = TraceContextTextMapPropagator()
        self._pending: list[Span] = []

    @classmethod
    def over_http(cls, *, node: str, version: str) -> SpanTraces:
        """Spans go where OpenTelemetry's variables say, by OTLP over HTTP."""
        ours = {"service.name": "pgcachewatch", "service.version": version, "service.instance.id": node}
        resource = Resource.create(ours).merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME wins
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # `close` does that, and does not hang
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def began(self, change: Event | Gap, payload: str) -> None:
        """A notification was read, and published to whoever wants it."""
        if not isinstance(change, Event) or len(self._pending) >= PENDING:
            return
        found = TRACEPARENT.search(payload)
        parent = self._propagator.extract({"traceparent": found[1]}) if found else None
        span = self._tracer.start_span(
            NAME,
            context=parent,
            kind=SpanKind.CONSUMER,
            start_time=int(change.received_at.timestamp() * 1_000_000) * 1_000,
            attributes={
                "messaging.system": "postgresql",
                "messaging.destination.name": change.channel,
                "db.collection.name": change.table,
                "db.operation.name": change.operation,
                "pgcachewatch.keys": -1 if change.keys is None else len(change.keys),
                "pgcachewatch.latency_s": change.latency.total_seconds(),
            },
        )
        self._pending.append(span)

    def left(self) -> None:
        """What was published so far is written to all that wanted it."""
        if self._pending:
            spans, self._pending = self._pending, []
            now_ns = time.time_ns()
            for span in spans:
                span.end(now_ns)

    async def close(self) -> None:
        """Send what is left, within CLOSE_S: a collector that does not answer holds nobody back."""
        self.left()
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:
                pass  # the loop has ended, because this took too long

        threading.Thread(target=shut_down, name="traces", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_S):
                await done.wait()
        except TimeoutError:
            pass  # the thread goes with the process
