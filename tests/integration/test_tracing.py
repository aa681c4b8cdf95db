"""The relay as a process, and a collector on loopback: a writer's trace goes on where its event reaches the clients."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from pgcachewatch.models import DEFAULT_PG_CHANNEL, Event
from pgcachewatch.utils import emit_event
from tests.postgres import Database
from tests.raw_client import notify, payload
from tests.relay_process import RelayProcess
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """What was posted to /v1/traces, in the order it came."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.url = ""

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    @contextmanager
    def listening(self) -> Iterator[Collector]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_address[1]}"
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield self
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_trace_goes_on_from_the_writer_to_the_fan_out(
    database: Database, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    with Collector().listening() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with RelayProcess(database.dsn, tracing="true", workers=workers, node="here") as relay:
            writer = await database.connect()
            event = Event.model_validate({**json.loads(payload("orders", "7")), "channel": DEFAULT_PG_CHANNEL})
            await emit_event(writer, event, traceparent=f"00-{TRACE}-{PARENT}-01")
            await eventually(lambda: len(collector.spans) == int(workers))
            assert relay.is_ready()
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert {span.parent_span_id.hex() for span in collector.spans} == {PARENT}
    resource = collector.requests[0].resource_spans[0].resource
    named = {each.key: each.value.string_value for each in resource.attributes}
    assert named["service.name"] == "pgcachewatch"
    assert named["service.instance.id"] == "here"


async def test_a_trace_goes_on_through_the_journal(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = await RowTriggers.open(database, "journal")
    await rows.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rows.install("t", channel=DEFAULT_PG_CHANNEL)
    with Collector().listening() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with RelayProcess(database.dsn, tracing="true"):
            async with rows.writer.transaction():
                await rows.writer.execute(f"SET LOCAL pgcachewatch.traceparent = '00-{TRACE}-{PARENT}-01'")
                await rows.writer.execute("INSERT INTO t VALUES (1)")
            await eventually(lambda: bool(collector.spans))
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


async def test_a_collector_that_is_away_holds_nobody_back(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    with RelayProcess(database.dsn, tracing="true") as relay:
        await notify(database, payload())
        assert relay.is_ready()
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0
