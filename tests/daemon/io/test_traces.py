"""Spans as the SDK makes them: whose children they are, when they begin and end, and what they never hold."""

from __future__ import annotations

import datetime
import json

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch_daemon.io import traces as module
from pgcachewatch_daemon.io.traces import SpanTraces

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
RECEIVED = datetime.datetime(2030, 1, 1, 12, 0, 0, 250_000, tzinfo=datetime.UTC)


class Rig:
    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = SpanTraces(provider)

    def began(self, **more: str) -> None:
        content = {"operation": "update", "table": "users", "sent_at": "2030-01-01T12:00:00Z", "keys": ["secret"]}
        event = Event.model_validate({**content, "channel": "c", "received_at": RECEIVED})
        self.traces.began(event, json.dumps(content | more))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_span_lasts_from_the_notification_until_it_has_left(rig: Rig) -> None:
    rig.began()
    assert not rig.spans
    rig.traces.left()
    (span,) = rig.spans
    assert span.name == "pgcachewatch.fanout"
    assert span.start_time == int(RECEIVED.timestamp() * 1_000) * 1_000_000
    assert span.end_time is not None
    assert dict(span.attributes or {}) == {
        "messaging.system": "postgresql",
        "messaging.destination.name": "c",
        "db.collection.name": "users",
        "db.operation.name": "update",
        "pgcachewatch.keys": 1,
        "pgcachewatch.latency_s": 0.25,
    }
    assert "secret" not in span.to_json()


def test_it_is_a_child_of_the_writers_span_when_the_payload_names_one(rig: Rig) -> None:
    rig.began(traceparent=PARENT)
    rig.traces.left()
    (span,) = rig.spans
    assert span.parent is not None
    assert f"{span.parent.trace_id:032x}" == f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT.split("-")[2]


@pytest.mark.parametrize("text", ["", "rubbish", f"00-{'0' * 32}-b7ad6b7169203331-01", PARENT.upper()])
def test_what_is_no_context_begins_a_trace_of_its_own(rig: Rig, text: str) -> None:
    rig.began(traceparent=text)
    rig.traces.left()
    (span,) = rig.spans
    assert span.parent is None


def test_a_parent_that_was_not_sampled_is_not_either(rig: Rig) -> None:
    rig.began(traceparent=PARENT[:-1] + "0")
    rig.traces.left()
    assert rig.spans == ()


def test_a_gap_is_no_span_and_what_has_left_leaves_once(rig: Rig) -> None:
    rig.traces.began(Gap(Scope("c"), "unreadable", "x"), "x")
    rig.began()
    rig.traces.left()
    rig.traces.left()
    assert len(rig.spans) == 1


def test_a_burst_has_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING", 2)
    for _ in range(5):
        rig.began()
    rig.traces.left()
    assert len(rig.spans) == 2


async def test_closing_ends_what_is_pending(rig: Rig) -> None:
    rig.began()
    await rig.traces.close()
    assert len(rig.spans) == 1
