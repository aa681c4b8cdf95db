"""Which subscriptions are wanted, who is told what, and when a reader may be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.core.dependencies import Dimension
from pgcachewatch.core.subscriptions import (
    Subscriptions,
    Wish,
    dimension_place,
    row_place,
    spellings,
    table_scopes,
)
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, PGCacheWatchError
from pgcachewatch.models import EVERYTHING, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import Change

USERS = Scope("c", "users")
ORDERS = Scope("c", "orders", "public")
NO = ConnectionFailed("no")


class Recorder:
    """A reader that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def changed(self, change: Change, sub: messages.Sub) -> None:
        self.told.append((sub.table, change.key))

    def lost(self, gap: Gap) -> None:
        self.told.append(gap.reason)

    def became_live(self) -> None:
        self.told.append("live")

    def went_dark(self) -> None:
        self.told.append("dark")

    def refused(self, error: PGCacheWatchError) -> None:
        self.told.append("refused")

    def stopped(self, error: PGCacheWatchError) -> None:
        self.told.append("stopped")


def test_a_reader_is_live_when_all_its_subscriptions_are_granted() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    first, second = subscriptions.add(reader, [USERS, ORDERS])
    subscriptions.granted(first.id)
    assert reader.told == []
    subscriptions.granted(second.id)
    assert reader.told == ["live"]
    assert subscriptions.is_answered


def test_readers_with_one_wish_share_a_subscription() -> None:
    subscriptions, one, other = Subscriptions(), Recorder(), Recorder()
    (sub,) = subscriptions.add(one, [USERS])
    subscriptions.granted(sub.id)
    assert subscriptions.add(other, [USERS]) == []
    assert other.told == ["live"]
    subscriptions.changed([Change(sub.id, "u", "5")])
    assert one.told == other.told == ["live", ("users", "5")]


def test_in_one_step_each_row_and_each_table_is_told_once_to_who_only_drops_it() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    rows, tables = subscriptions.add_wishes(reader, [Wish(USERS, columns=("id",)), Wish(ORDERS, columns=())])
    five, six, table = Change(rows.id, "u", "5"), Change(rows.id, "u", "6"), Change(tables.id, "u", None)

    subscriptions.changed([five, six, five._replace(op="d"), table, table, five])
    assert reader.told == [("users", "5"), ("users", "6"), ("orders", None)]

    subscriptions.changed([five])
    assert reader.told[3:] == [("users", "5")]


@pytest.mark.parametrize("wish", [Wish(USERS, mode="stream"), Wish(USERS, has_stamps=True)])
def test_who_reads_each_change_or_its_transaction_is_told_each(wish: Wish) -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    (sub,) = subscriptions.add_wishes(reader, [wish])

    subscriptions.changed([Change(sub.id, "u", "5"), Change(sub.id, "u", "5", {"x": 7})] * 2)

    assert reader.told == [("users", "5")] * 4


def test_stream_and_invalidate_wishes_are_not_shared() -> None:
    subscriptions = Subscriptions()
    subscriptions.add(Recorder(), [USERS])
    assert len(subscriptions.add(Recorder(), [USERS], mode="stream")) == 1
    assert len(subscriptions.add(Recorder(), [USERS], mode="stream", ops=["i"])) == 1


def test_granted_again_after_a_resume_says_nothing_new() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    (sub,) = subscriptions.add(reader, [USERS])
    subscriptions.granted(sub.id)
    subscriptions.granted(sub.id)
    assert reader.told == ["live"]


def test_a_reader_starts_anew_after_continuity_broke() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    (sub,) = subscriptions.add(reader, [USERS])
    subscriptions.granted(sub.id)
    subscriptions.all_dark()
    assert not subscriptions.is_live(reader)
    subscriptions.granted(sub.id)
    assert reader.told == ["live", "dark", "live"]


def test_a_gap_is_told_once_to_each_reader_it_can_meet() -> None:
    subscriptions, users, both = Subscriptions(), Recorder(), Recorder()
    subscriptions.add(users, [USERS])
    subscriptions.add(both, [USERS, ORDERS])
    subscriptions.lost(Gap(Scope("c", "orders"), "source_lost"))
    assert users.told == []
    assert both.told == ["source_lost"]
    subscriptions.lost(Gap(EVERYTHING, "link_lost"))
    assert users.told == ["link_lost"]
    assert both.told == ["source_lost", "link_lost"]


def test_the_last_reader_to_leave_ends_the_subscription() -> None:
    subscriptions, one, other = Subscriptions(), Recorder(), Recorder()
    (sub,) = subscriptions.add(one, [USERS])
    subscriptions.add(other, [USERS])
    assert subscriptions.remove(one) == []
    assert subscriptions.remove(other) == [sub.id]
    assert subscriptions.wanted() == []
    subscriptions.changed([Change(sub.id, "u", None)])  # an event that was under way
    assert len(subscriptions.add(one, [USERS])) == 1


def test_a_refused_subscription_leaves_its_readers_dark_and_is_wanted_no_more() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    first, second = subscriptions.add(reader, [USERS, ORDERS])
    subscriptions.granted(second.id)
    assert subscriptions.refused(first.id, NO, may_retry=False)
    assert reader.told == ["dark", "refused"]
    assert [sub.id for sub in subscriptions.wanted()] == [second.id]
    assert subscriptions.is_answered
    assert not subscriptions.is_live(reader)


def test_a_subscription_refused_for_now_is_wanted_again() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    (sub,) = subscriptions.add(reader, [USERS])
    subscriptions.refused(sub.id, NO, may_retry=True)
    assert subscriptions.wanted() == []
    subscriptions.retry(sub.id)
    (again,) = subscriptions.wanted()
    assert (again.table, again.id) == ("users", sub.id + 1)
    subscriptions.granted(again.id)
    assert reader.told == ["dark", "live"]


def test_a_refusal_of_something_else_is_nobodys() -> None:
    assert not Subscriptions().refused(7, NO, may_retry=False)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("users", [(None, "users")]),
        ("public.orders", [("public", "orders")]),
        (" public . orders ", [("public", "orders")]),
        ('"Order.Lines"', [(None, "Order.Lines")]),
        ('"My Schema"."a""b"', [("My Schema", 'a"b')]),
        ("Users", [(None, "Users"), (None, "users")]),
        ('App."T"', [("App", "T"), ("app", "T")]),
    ],
)
def test_table_names_are_read_as_sql_writes_them(name: str, meant: list[tuple[str | None, str]]) -> None:
    assert spellings(name) == meant


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a.b.c", '"a', 'a"b"', '"a"b', '""', " "])
def test_table_names_that_can_not_be_read_are_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="table name"):
        spellings(name)


@given(st.text(min_size=1).filter(lambda text: "\0" not in text))
def test_every_name_can_be_said_in_quotes(name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    assert spellings(f"{quoted}.{quoted}") == [(name, name)]


def test_no_table_means_the_whole_of_each_channel() -> None:
    assert table_scopes([], ["a", "b"]) == [Scope("a"), Scope("b")]


def test_a_text_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="sequence of names"):
        table_scopes("users", ["c"])


ROWS = Wish(USERS, columns=("id",))


def test_a_wish_for_rows_says_by_which_columns_and_one_for_tables_says_by_none() -> None:
    subscriptions, reader = Subscriptions(), Recorder()

    subs = subscriptions.add_wishes(reader, [ROWS, Wish(USERS, columns=()), Wish(USERS)])

    assert [sub.columns for sub in subs] == [["id"], [], None]
    assert [row_place(sub) for sub in subs] == [(None, "users", ("id",)), None, None]


@pytest.mark.rule("W-ROW-2")
@pytest.mark.rule("W-ROW-4")
def test_types_of_columns_are_known_from_the_grant_and_a_change_of_them_starts_anew() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    (sub,) = subscriptions.add_wishes(reader, [ROWS])
    assert subscriptions.row_types(reader) == {(None, "users", ("id",)): None}

    subscriptions.granted(sub.id, ("int8",))
    subscriptions.granted(sub.id, ("int8",))
    assert reader.told == ["live"]
    subscriptions.granted(sub.id, ("uuid",))

    assert reader.told == ["live", "dark", "live"]
    assert subscriptions.row_types(reader) == {(None, "users", ("id",)): ("uuid",)}


def test_a_subscription_that_is_to_be_tried_again_is_not_answered_yet() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    (sub,) = subscriptions.add_wishes(reader, [ROWS])

    subscriptions.refused(sub.id, NO, may_retry=True)
    assert not subscriptions.is_answered
    subscriptions.retry(sub.id)
    assert not subscriptions.is_answered
    subscriptions.granted(sub.id + 1, ("int8",))

    assert subscriptions.is_answered


def test_a_dimensions_table_is_read_as_it_is_written() -> None:
    assert dimension_place(Dimension("Users", ("id",))) == (None, "Users", ("id",))
    with pytest.raises(ConfigurationError, match="3 parts"):
        dimension_place(Dimension("a.b.c", ("id",)))


def test_what_no_relay_could_be_asked_for_is_a_sentence_and_leaves_nothing_behind() -> None:
    subscriptions, reader = Subscriptions(), Recorder()
    with pytest.raises(ConfigurationError, match=r"channel='x+' can not be asked for: .*1 to 63 bytes"):
        subscriptions.add(reader, [USERS, Scope("x" * 64, "users")])
    assert subscriptions.wanted() == []
    assert subscriptions.remove(reader) == []
