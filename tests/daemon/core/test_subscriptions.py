"""Items as the wire has them, and an index that never misses a group."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.subscriptions import ITEMS_PER_EVENT, Directory, Group

SENT_AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def event(**changes: object) -> Event:
    fields = {"channel": "c", "table": "users", "operation": "update", "sent_at": SENT_AT, **changes}
    return Event.model_validate(fields)


def group(**changes: object) -> Group:
    fields: dict[str, object] = {"sid": 1, "id": 1, "channel": "c", **changes}
    return Group((Subscription(**fields),), cursor=0)  # type: ignore[arg-type]  # fields by name, checked at run time


def test_keys_become_one_item_each_and_none_becomes_null() -> None:
    assert group().items_for(event(keys=["5", "6"])) == [(1, "u", "5"), (1, "u", "6")]
    assert group().items_for(event()) == [(1, "u", None)]
    assert group(keys=frozenset("6")).items_for(event(keys=["5", "6"])) == [(1, "u", "6")]


def test_very_many_keys_become_one_item_for_the_whole_subscription() -> None:
    many = [str(number) for number in range(ITEMS_PER_EVENT + 1)]
    assert len(group().items_for(event(keys=many[:-1]))) == ITEMS_PER_EVENT
    assert group().items_for(event(keys=many)) == [(1, "u", None)]


@pytest.mark.rule("W-EV-4")
def test_stream_mode_carries_the_event_and_shows_a_gap() -> None:
    stream = group(mode="stream")
    assert stream.items_for(event(schema="s", keys=["5"], xid=9)) == [
        (1, "u", None, {"table": "users", "sent_at": SENT_AT.isoformat(), "schema": "s", "keys": ["5"], "xid": 9})
    ]
    assert stream.items_for(Gap(Scope("c", "users"), "unreadable")) == [
        (1, "*", None, {"reason": "unreadable", "table": "users"})
    ]


def test_several_subscriptions_of_one_connection_share_one_message() -> None:
    both = Group((Subscription(1, 1, "c"), Subscription(2, 2, "c", table="users"), Subscription(3, 3, "d")), cursor=0)
    assert both.items_for(event()) == [(1, "u", None), (2, "u", None)]
    assert [item[0] for item in both.items_for(Gap(Scope(), "forced"))] == [1, 2, 3]


subscriptions = st.builds(
    Subscription,
    sid=st.just(1),
    id=st.just(1),
    channel=st.sampled_from("cd"),
    table=st.sampled_from([None, "users", "orders"]),
    mode=st.sampled_from(["invalidate", "stream"]),
)
changes = st.builds(
    lambda channel, table: event(channel=channel, table=table), st.sampled_from("cd"), st.sampled_from(["users", "x"])
) | st.builds(
    lambda channel, table: Gap(Scope(channel, table), "unreadable"),
    st.sampled_from(["c", "d", None]),
    st.sampled_from(["users", None]),
)


@given(st.lists(st.lists(subscriptions, max_size=3).map(tuple), unique=True, max_size=6), changes)
def test_the_directory_finds_each_group_that_has_items(
    sets: list[tuple[Subscription, ...]], change: Event | Gap
) -> None:
    directory = Directory()
    groups = [Group(each, cursor=0) for each in sets]
    for each in groups:
        directory.add(each)
    found = list(directory.concerned(change))
    assert len(found) == len(set(found))
    assert {each for each in groups if each.items_for(change)} <= set(found)
    for each in groups:
        directory.remove(each)
    assert not list(directory.concerned(change))
