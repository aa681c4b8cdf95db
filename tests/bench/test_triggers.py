"""What a trigger costs its writers: ours against no trigger, the original's, and a naive one per row.

Each design has a table of its own, of one shape, and they take turns within one run: whatever else the machine does
meets all of them. A listener hears everything, as in life. Commits do not wait for the disk: what a disk takes would
hide the rest, and is the same for all.
"""

from __future__ import annotations

import statistics
import time

import asyncpg
import pytest

from pgcachewatch import queries
from tests.bench.rounds import IS_MEASURING, Row, report, rounds
from tests.postgres import Database
from tests.row_triggers import CHANNEL, RowTriggers

SINGLE_ROUNDS = 3_000
BULK_ROUNDS = 15
BULK_ROWS = 100_000 if IS_MEASURING else 6_000
MIDDLE_ROWS = 1_000
UNCOUNTED = 0.1  # the first part of the rounds warms up
DESIGNS = ("none", "original", "row by row", "ours")

NAIVE = f"""
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('{CHANNEL}', json_build_object('operation', lower(TG_OP), 'table', TG_TABLE_NAME,
    'schema', TG_TABLE_SCHEMA, 'sent_at', clock_timestamp(), 'keys', json_build_array(NEW.id::text))::text);
  RETURN NULL;
END $$;
CREATE TRIGGER naive AFTER UPDATE ON "row by row" FOR EACH ROW EXECUTE FUNCTION naive()
"""


async def prepared(database: Database) -> RowTriggers:
    """A table per design, each with its trigger."""
    rig = await RowTriggers.open(database)
    writer = rig.writer
    await writer.execute("SET synchronous_commit = off; SET statement_timeout = 0")
    for design in DESIGNS:
        await writer.execute(f'CREATE TABLE "{design}" (id bigint PRIMARY KEY, v int, pad text) WITH (fillfactor = 50)')
        await writer.execute(
            f"INSERT INTO \"{design}\" SELECT i, 0, repeat('x', 80) FROM generate_series(1, $1) i", BULK_ROWS
        )
    await writer.execute(queries.create_notify_function(CHANNEL, "notify"))
    await writer.execute(queries.create_after_change_trigger("watch", "original", "notify"))
    await writer.execute(NAIVE)
    await rig.install("ours")
    await writer.execute("VACUUM ANALYZE")
    return rig


async def timed_us(writer: asyncpg.Connection, design: str, first: int, last: int) -> float:
    started_ns = time.perf_counter_ns()
    await writer.fetch(f'UPDATE "{design}" SET v = v + 1 WHERE id BETWEEN $1 AND $2', first, last)
    return (time.perf_counter_ns() - started_ns) / 1_000


async def compared(rig: RowTriggers, *, rows: int, count: int) -> tuple[dict[str, float], dict[str, int]]:
    """Median time in microseconds, and payloads per statement, of each design. They take turns."""
    times_us: dict[str, list[float]] = {design: [] for design in DESIGNS}
    payloads: dict[str, int] = {}
    for turn in range(count):
        first = (turn * rows) % max(1, BULK_ROWS - rows) + 1
        for place in range(len(DESIGNS)):
            design = DESIGNS[(turn + place) % len(DESIGNS)]
            times_us[design].append(await timed_us(rig.writer, design, first, first + rows - 1))
            if rows > 1 or turn == 0:
                payloads[design] = len(await rig.heard())
                await rig.writer.execute(f'VACUUM "{design}"')
        await rig.heard()
    medians = {design: statistics.median(taken[int(count * UNCOUNTED) :]) for design, taken in times_us.items()}
    return medians, payloads


@pytest.mark.bench
@pytest.mark.parametrize(
    ("rows", "count", "target"), [(1, SINGLE_ROUNDS, None), (MIDDLE_ROWS, 200, None), (BULK_ROWS, BULK_ROUNDS, 1.5)]
)
async def test_triggers_cost_little_beside_the_statement(
    database: Database, rows: int, count: int, target: float | None
) -> None:
    rig = await prepared(database)

    medians, payloads = await compared(rig, rows=rows, count=rounds(count))

    floor = medians["none"]
    report(
        f"UPDATE of {rows} row(s), us, and payloads",
        [
            Row(
                f"{design}: {payloads[design]} payload(s), {medians[design] - floor:+.0f} us",
                floor,
                medians[design],
                target=target if design == "ours" else None,
            )
            for design in DESIGNS
        ],
    )
    assert payloads["none"] == 0
    assert payloads["original"] == 1
    assert payloads["row by row"] == rows
    # Above 5,000 keys an event is table-wide; a thousand keys need one payload or two.
    assert payloads["ours"] <= (2 if rows == MIDDLE_ROWS else 1)
