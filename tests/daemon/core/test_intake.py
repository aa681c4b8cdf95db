"""Nothing unreadable is dropped: it becomes a gap for the widest scope it may concern."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch_daemon.core.intake import PAYLOAD_CHARACTERS, Intake

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
PAYLOAD: dict[str, object] = {"operation": "update", "table": "users", "sent_at": "2030-01-01T00:00:00Z"}


def read(**changes: object) -> Event | Gap:
    return Intake().read("c", json.dumps({**PAYLOAD, **changes}), received_at=NOW)


def test_a_payload_of_either_trigger_is_an_event_of_the_channel_it_came_on() -> None:
    event = read(schema="s2", keys=["1", "2"], xid=7, v=1, channel="forged", received_at="1999-01-01T00:00:00Z")
    assert isinstance(event, Event)
    assert (event.channel, event.schema_name, event.keys, event.xid, event.received_at) == (
        "c",
        "s2",
        ("1", "2"),
        7,
        NOW,
    )


def test_a_row_level_payload_has_its_transaction_as_text_and_may_say_more() -> None:
    event = read(
        schema="s2", keys=["5", "tenant_id=7"], key=["id"], columns=["tenant_id"], xid="18446744073709551615", v=1
    )
    assert isinstance(event, Event)
    assert (event.keys, event.xid) == (("5", "tenant_id=7"), 2**64 - 1)


@pytest.mark.parametrize(
    ("changes", "scope"),
    [
        ({"operation": "merge"}, Scope("c", "users")),
        ({"operation": "merge", "schema": "s2"}, Scope("c", "users", "s2")),
        ({"sent_at": "soon"}, Scope("c", "users")),
        ({"keys": [1]}, Scope("c", "users")),
        ({"table": 5}, Scope("c")),
        ({"table": "", "operation": "merge"}, Scope("c")),
        ({"table": "t" * 10_000, "operation": "merge"}, Scope("c")),
    ],
)
def test_what_does_not_validate_is_a_gap_for_what_it_may_concern(changes: dict[str, object], scope: Scope) -> None:
    gap = read(**changes)
    assert isinstance(gap, Gap)
    assert (gap.scope, gap.reason) == (scope, "unreadable")


@pytest.mark.rule("W-EV-5")
@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ("[" * 9_000, "not_json"),
        ("[]", "not_an_object"),
        ("null", "not_an_object"),
    ],
)
def test_what_is_no_object_is_a_gap_for_the_channel_and_counted_by_kind(payload: str, fault: str) -> None:
    intake = Intake()
    gap = intake.read("c", payload, received_at=NOW)
    assert isinstance(gap, Gap)
    assert gap.scope == Scope("c")
    assert intake.stats.invalid == {fault: 1}
    assert intake.stats.received == 1


def test_a_payload_longer_than_any_notification_is_a_gap() -> None:
    assert isinstance(read(filler="x" * PAYLOAD_CHARACTERS), Gap)


@pytest.mark.rule("W-LIMIT-4")
def test_a_key_at_the_limit_travels_and_a_longer_one_makes_the_event_table_wide() -> None:
    fits, too_long = read(keys=["k" * 1_024]), read(keys=["1", "ü" * 513])
    assert isinstance(fits, Event)
    assert fits.keys == ("k" * 1_024,)
    assert isinstance(too_long, Event)
    assert too_long.keys is None


@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_no_payload_raises(payload: str) -> None:
    Intake().read("c", payload, received_at=NOW)
