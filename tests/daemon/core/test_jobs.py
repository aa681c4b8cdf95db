"""Which job waits for which, and what a job says on the wire."""

from __future__ import annotations

import datetime
import json

from pgcachewatch.models import Event, Gap, PGChannel, Scope
from pgcachewatch.protocol.messages import RELAY_FRAME_BYTES
from pgcachewatch_daemon.core.jobs import Job, Order, content, encode_job

AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def job(number: int, *keys: str, columns: tuple[str, ...] | None = None, table: str = "t") -> Job:
    event = Event(
        channel=PGChannel("c"), operation="insert", sent_at=AT, table=table, keys=keys or None, columns=columns, xid=7
    )
    return Job(str(number), number, event)


def added(order: Order, *jobs: Job) -> list[int]:
    """How many each of them waits for."""
    for one in jobs:
        order.add(one)
    return [one.blockers for one in jobs]


def test_jobs_on_one_row_wait_in_a_row() -> None:
    order = Order()
    first, second, third = job(1, "a"), job(2, "a", "b"), job(3, "a", "b")
    assert added(order, first, second, third) == [0, 1, 1]
    assert order.remove(first) == [second]
    assert order.remove(second) == [third]
    assert order.remove(third) == []
    assert added(order, job(4, "a")) == [0]


def test_a_job_on_the_whole_table_waits_for_all_of_it_and_of_no_other() -> None:
    order = Order()
    jobs = [job(1, "a"), job(2, "b"), job(3), job(4, "a"), job(5), job(6, "a", table="other")]
    assert added(order, *jobs) == [0, 0, 2, 2, 2, 0]


def test_values_of_further_columns_are_no_rows() -> None:
    order = Order()
    assert added(
        order, job(1, "a", "tenant=5", columns=("tenant",)), job(2, "b", "tenant=5", "tenant", columns=("tenant",))
    ) == [0, 0]


def test_gaps_wait_for_nobody() -> None:
    order = Order()
    gap = Job("gap:1", 2, Gap(Scope(), "pruned"))
    assert added(order, job(1), gap) == [0, 0]
    assert order.remove(gap) == []


def test_a_job_says_its_events_own_content() -> None:
    assert json.loads(encode_job(job(1, "a"), sid=3, tries=2)) == {
        "t": "job",
        "sid": 3,
        "id": "1",
        "tries": 2,
        "op": "i",
        "detail": {
            "channel": "c",
            "operation": "insert",
            "sent_at": "2030-01-01T00:00:00Z",
            "table": "t",
            "keys": ["a"],
            "xid": 7,
        },
    }


def test_a_gap_says_why_and_since_when() -> None:
    assert content(Gap(Scope("c", "t"), "pruned", "rows are gone", since=AT)) == (
        "*",
        {"reason": "pruned", "detail": "rows are gone", "channel": "c", "table": "t", "since": AT.isoformat()},
    )


def test_a_job_with_more_keys_than_a_frame_holds_is_on_the_whole_table() -> None:
    text = encode_job(job(1, *(f"{number:01000}" for number in range(1_100))), sid=1, tries=1)
    assert len(text) < RELAY_FRAME_BYTES
    assert "keys" not in json.loads(text)["detail"]
