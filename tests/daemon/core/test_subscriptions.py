"""Items as the wire has them, and an index that never misses a group."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Audience, Framing
from pgcachewatch_daemon.core.outbox import OutboxLimits
from pgcachewatch_daemon.core.stats import HubStats
from pgcachewatch_daemon.core.subscriptions import ITEMS_PER_EVENT, KEYS_LOOKED_AT, Directory, Group, Wishes, told_keys
from pgcachewatch_daemon.core.uses import Uses

NOBODY = Audience(OutboxLimits(), Framing(str.encode), stats=HubStats(), is_stream=False)
SENT_AT = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)


def event(**changes: object) -> Event:
    fields = {"channel": "c", "table": "users", "operation": "update", "sent_at": SENT_AT, **changes}
    return Event.model_validate(fields)


def group(**changes: object) -> Wishes:
    fields: dict[str, object] = {"sid": 1, "id": 1, "channel": "c", **changes}
    return Wishes((Subscription(**fields),))  # type: ignore[arg-type]  # fields by name, checked at run time


def test_keys_become_one_item_each_and_none_becomes_null() -> None:
    assert group().items_for(event(keys=["5", "6"])) == [(1, "u", "5"), (1, "u", "6")]
    assert group().items_for(event()) == [(1, "u", None)]
    assert group(keys=frozenset("6")).items_for(event(keys=["5", "6"])) == [(1, "u", "6")]


def test_very_many_keys_become_one_item_for_the_whole_subscription() -> None:
    many = [str(number) for number in range(ITEMS_PER_EVENT + 1)]
    assert len(group().items_for(event(keys=many[:-1]))) == ITEMS_PER_EVENT
    assert group().items_for(event(keys=many)) == [(1, "u", None)]


def test_very_many_keys_for_very_many_subscriptions_are_told_apart_for_none_of_its_table() -> None:
    keys = [str(number) for number in range(ITEMS_PER_EVENT)]
    many = KEYS_LOOKED_AT // ITEMS_PER_EVENT
    elsewhere = [Subscription(sid, sid, "c", "orders") for sid in range(101, 1_000)]
    fitting = [Subscription(sid, sid, "c", "users") for sid in range(1, many)]
    stream = Subscription(1_000, 1, "c", mode="stream")
    bulk = event(keys=keys)

    assert len(Wishes((*elsewhere, *fitting, stream)).items_for(bulk)) == (many - 1) * ITEMS_PER_EVENT + 1
    *told, detailed = Wishes((*fitting, fitting[0], stream)).items_for(bulk)
    assert {item[2] for item in told} == {None}
    assert len(told) == many
    assert detailed[3]["keys"] == keys  # type: ignore[misc]  # a stream's item has what it is about behind its key


COMPOSITE = {"key": ["a", "b"], "columns": ["tenant"], "keys": ['["1","ü"]', '["2","\\""]', "tenant=5", "tenant"]}


@pytest.mark.rule("W-ROW-1")
@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (("a", "b"), ['["1","ü"]', '["2","\\""]', "tenant=5", "tenant"]),
        (("b", "a"), ['["ü","1"]', '["\\"","2"]']),
        (("tenant",), [None]),  # one of its values is NULL
        ((), [None]),
        (("a",), [None]),
        (("a", "b", "tenant"), [None]),
        (("a", "tenant"), [None]),
        (("a", "a"), [None]),
        (("ten",), [None]),
    ],
)
def test_columns_choose_the_keys_that_are_told(columns: tuple[str, ...], told: list[str | None]) -> None:
    assert group(columns=columns).items_for(event(**COMPOSITE)) == [(1, "u", key) for key in told]


@pytest.mark.rule("W-ROW-1")
def test_a_carried_column_is_told_by_its_own_texts() -> None:
    changed = event(key=["id"], columns=["tenant", "ten"], keys=["1", "tenant=5", "tenant=", "tenant=ten=6", "ten=7"])

    assert [key for _, _, key, *_ in group(columns=("tenant",)).items_for(changed)] == ["5", "", "ten=6"]


@pytest.mark.rule("W-ROW-1")
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key": ["id"]},
        {"keys": ["5"]},
        {"key": ["other"], "keys": ["5"]},
        {"key": ["id", "more"], "keys": ['["5","6"]']},
    ],
)
def test_an_event_that_does_not_say_the_columns_is_told_as_any_row(changes: dict[str, object]) -> None:
    assert group(columns=("id",)).items_for(event(**changes)) == [(1, "u", None)]


@pytest.mark.rule("W-ROW-1")
@pytest.mark.parametrize("key", ["x", '["1"]', '["1","2","3"]', '["1",2]', '{"a":"b"}', "[" * 1_000, '"12"'])
def test_a_key_that_can_not_be_put_in_order_is_told_as_any_row(key: str) -> None:
    told = event(key=["a", "b"], columns=["c"], keys=['["1","2"]', key])
    assert group(columns=("b", "a")).items_for(told) == [(1, "u", None)]


@pytest.mark.rule("W-ROW-1")
def test_an_event_that_speaks_of_other_columns_only_is_none_of_their_business() -> None:
    """A statement with many keys is told in several events; each of its keys is in one of them."""
    assert group(columns=("tenant",)).items_for(event(key=["id"], columns=["tenant"], keys=["5"])) == []
    assert group(columns=("b", "a")).items_for(event(key=["a", "b"], columns=["c"], keys=["c=1"])) == []


@pytest.mark.rule("W-ROW-1")
def test_keys_that_are_asked_for_are_compared_in_the_order_of_the_columns() -> None:
    told = event(key=["a", "b"], keys=['["1","2"]', '["3","4"]'])
    assert group(columns=("b", "a"), keys=frozenset(['["4","3"]'])).items_for(told) == [(1, "u", '["4","3"]')]
    assert group(columns=("a",), keys=frozenset(["9"])).items_for(told) == [(1, "u", None)]


texts = st.text(max_size=3)


@given(st.data(), st.integers(2, 4))
def test_a_key_in_another_order_is_the_same_key(data: st.DataObject, width: int) -> None:
    """Both ends write a key as JSON, and compare it as text."""
    names = [f"c{place}" for place in range(width)]
    row = dict(zip(names, data.draw(st.lists(texts, min_size=width, max_size=width)), strict=True))
    order = data.draw(st.permutations(names))

    def written(columns: list[str]) -> str:
        return json.dumps([row[name] for name in columns], ensure_ascii=False, separators=(",", ":"))

    assert told_keys(event(key=names, keys=[written(names)]), tuple(order)) == (written(order),)


@pytest.mark.rule("W-EV-4")
def test_stream_mode_carries_the_event_and_shows_a_gap() -> None:
    stream = group(mode="stream")
    assert stream.items_for(event(schema="s", keys=["5"], xid=9)) == [
        (1, "u", None, {"table": "users", "sent_at": SENT_AT.isoformat(), "schema": "s", "keys": ["5"], "xid": 9})
    ]
    assert stream.items_for(event(id="9:1")) == [
        (1, "u", None, {"table": "users", "sent_at": SENT_AT.isoformat(), "id": "9:1"})
    ]
    assert stream.items_for(Gap(Scope("c", "users"), "unreadable")) == [
        (1, "*", None, {"reason": "unreadable", "table": "users"})
    ]


def test_several_subscriptions_of_one_connection_share_one_message() -> None:
    both = Wishes((Subscription(1, 1, "c"), Subscription(2, 2, "c", table="users"), Subscription(3, 3, "d")))
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
    directory = Directory(Uses())
    groups = [Group(each, audience=NOBODY, cursor=0) for each in sets]
    for each in groups:
        directory.add(each)
    found = list(directory.concerned(change))
    assert len(found) == len(set(found))
    assert {each for each in groups if each.items_for(change)} <= set(found)
    for each in groups:
        directory.remove(each)
    assert not list(directory.concerned(change))


def test_a_channel_is_used_while_a_group_wants_anything_of_it() -> None:
    heard: list[str] = []
    directory = Directory(
        Uses(began=lambda name: heard.append(f"+{name}"), ended=lambda name: heard.append(f"-{name}"))
    )
    one = Group((Subscription(1, 1, "c"), Subscription(2, 2, "c", "t")), audience=NOBODY, cursor=0)
    two = Group((Subscription(1, 1, "c"), Subscription(2, 2, "d")), audience=NOBODY, cursor=0)
    for group in (one, two):
        directory.add(group)
    assert heard == ["+c", "+d"]
    directory.remove(two)
    assert heard == ["+c", "+d", "-d"]
    directory.remove(one)
    assert heard[3:] == ["-c"]
