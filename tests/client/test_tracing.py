"""What a program writes says which trace it is part of, when there is one, and nothing when there is none."""

from __future__ import annotations

import json
import sys

import asyncpg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.models import Event
from pgcachewatch.tracing import choose_traceparent, current_traceparent, trace_writes
from pgcachewatch.utils import emit_event
from tests.client.steered import CHANNEL, event
from tests.postgres import Database
from tests.row_triggers import RowTriggers
from tests.waiting import eventually

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def span(sampler: Sampler = ALWAYS_ON) -> trace.Span:
    provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    return provider.get_tracer("test").start_span("write")


def traceparent_of(one: trace.Span) -> str:
    """As OpenTelemetry writes it."""
    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(one))
    return carrier["traceparent"]


async def emitted(database: Database, sent: Event, **given: str) -> dict[str, object]:
    """The payload of an event."""
    connection, heard = await database.connect(), list[object]()
    await connection.add_listener(CHANNEL, lambda *told: heard.append(told[3]))
    await emit_event(connection, sent, **given)
    await eventually(lambda: bool(heard))
    content: dict[str, object] = json.loads(str(heard[0]))
    return content


def test_outside_of_a_span_there_is_none() -> None:
    assert current_traceparent() is None


def test_inside_of_a_span_it_is_that_one() -> None:
    with trace.use_span(span()) as one:
        assert current_traceparent() == traceparent_of(one)


def test_a_span_that_is_not_sampled_says_so_to_whoever_goes_on_with_it() -> None:
    with trace.use_span(span(ALWAYS_OFF)) as one:
        assert current_traceparent() == traceparent_of(one)
        assert not one.get_span_context().trace_flags.sampled


def test_where_opentelemetry_is_not_loaded_it_is_not_loaded_for_this(monkeypatch: pytest.MonkeyPatch) -> None:
    with trace.use_span(span()):
        monkeypatch.delitem(sys.modules, "opentelemetry.trace")
        assert current_traceparent() is None
        assert "opentelemetry.trace" not in sys.modules


def test_what_is_given_wins_over_the_current_span() -> None:
    with trace.use_span(span()):
        assert choose_traceparent(GIVEN) == GIVEN


@pytest.mark.parametrize("text", ["", GIVEN.upper(), f"{GIVEN}\n", f'{GIVEN[:-1]}"', f"{GIVEN}-more", "0" * 55])
def test_what_is_no_traceparent_is_refused_before_anything_is_sent(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is none: write 00-"):
        choose_traceparent(text)


async def test_an_emitted_event_is_part_of_the_current_span(database: Database) -> None:
    with trace.use_span(span()) as one:
        assert (await emitted(database, event()))["traceparent"] == traceparent_of(one)


async def test_an_emitted_event_is_part_of_the_trace_that_is_given(database: Database) -> None:
    assert (await emitted(database, event(), traceparent=GIVEN))["traceparent"] == GIVEN


async def test_an_event_that_is_part_of_no_trace_is_sent_as_it_is(database: Database) -> None:
    sent = event()
    assert await emitted(database, sent) == json.loads(sent.model_dump_json(exclude_none=True))


@pytest.fixture
async def rows(database: Database) -> RowTriggers:
    rig = await RowTriggers.open(database)
    await rig.writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await rig.install("t")
    return rig


async def traced(rows: RowTriggers, connection: asyncpg.Connection, **given: str) -> list[object]:
    """What events of one transaction say, and then one of the next."""
    async with connection.transaction():
        await trace_writes(connection, **given)
        await connection.execute("INSERT INTO t VALUES (1)")
        await connection.execute("DELETE FROM t")
    await connection.execute("INSERT INTO t VALUES (1)")
    return [json.loads(payload).get("traceparent") for payload in await rows.heard()]


async def test_a_transaction_is_part_of_the_current_span_and_the_next_one_is_not(rows: RowTriggers) -> None:
    with trace.use_span(span()) as one:
        assert await traced(rows, rows.writer) == [traceparent_of(one)] * 2 + [None]


async def test_a_transaction_is_part_of_the_trace_that_is_given(rows: RowTriggers) -> None:
    assert await traced(rows, rows.writer, traceparent=GIVEN) == [GIVEN, GIVEN, None]


async def test_a_transaction_outside_of_a_span_says_nothing(rows: RowTriggers) -> None:
    assert await traced(rows, rows.writer) == [None] * 3


async def test_without_a_transaction_it_is_refused_instead_of_forgotten(database: Database) -> None:
    with pytest.raises(ConfigurationError, match="no transaction is open"):
        await trace_writes(await database.connect(), traceparent=GIVEN)
