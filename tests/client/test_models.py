"""Events, gaps and scopes: what validates, what survives, what meets what."""

from __future__ import annotations

import datetime

import pydantic
import pytest

from pgcachewatch import models

PAYLOAD = {"operation": "update", "table": "users", "sent_at": "2030-01-01T00:00:00+00:00"}


def event(**changes: object) -> models.Event:
    return models.Event.model_validate({"channel": "c", **PAYLOAD, **changes})


def test_a_payload_of_an_original_trigger_validates_and_leaves_the_rest_unknown() -> None:
    read = event()
    assert (read.schema_name, read.keys, read.xid) == (None, None, None)


def test_an_event_survives_a_json_round_trip_equal_to_itself() -> None:
    for original in (event(), event(schema="s2", keys=["1", "a\nü"], xid=2**63)):
        assert models.Event.model_validate_json(original.model_dump_json()) == original


def test_the_received_time_of_the_payload_is_kept_and_otherwise_now() -> None:
    stamped = event(received_at="2030-01-01T00:00:02+00:00")
    assert stamped.latency == datetime.timedelta(seconds=2)
    before = datetime.datetime.now(tz=datetime.UTC)
    assert event().received_at >= before


@pytest.mark.parametrize(
    "change",
    [{"operation": "merge"}, {"sent_at": "2030-01-01T00:00:00"}, {"table": None}, {"sent_at": "soon"}],
)
def test_what_is_not_an_event_does_not_validate(change: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        event(**change)


def test_a_deadline_must_be_positive() -> None:
    assert models.DeadlineSetting().max_iter == 1_000
    for wrong in ({"max_iter": 0}, {"max_time": datetime.timedelta(0)}):
        with pytest.raises(pydantic.ValidationError):
            models.DeadlineSetting.model_validate(wrong)


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        (models.EVERYTHING, models.Scope("c", "t", "s", "k"), True),
        (models.Scope("c"), models.Scope("d"), False),
        (models.Scope("c", "t"), models.Scope("c", "t", "s", "k"), True),
        (models.Scope("c", "t", "s1"), models.Scope("c", "t", "s2"), False),
        (models.Scope("c", "t", None), models.Scope("c", "t", "s2"), True),
        (models.Scope("c", "t", None, "1"), models.Scope("c", "t", None, "2"), False),
        (models.Scope("c", "t", None, "1"), models.Scope("c", "t"), True),
    ],
)
def test_scopes_meet_unless_something_contradicts(one: models.Scope, other: models.Scope, *, meets: bool) -> None:
    assert one.covers(other) is meets
    assert other.covers(one) is meets


def test_the_original_spelling_of_the_default_channel_stays() -> None:
    assert models.DEFAULT_PG_CHANNE == models.DEFAULT_PG_CHANNEL == "ch_pgcachewatch_table_change"
