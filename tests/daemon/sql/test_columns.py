"""Columns that tell rows apart are accepted with their types; others are refused with what comes close."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pgcachewatch_daemon.sql.catalogue import MATERIALIZED_VIEW, PARTITIONED, VIEW, Catalogue
from pgcachewatch_daemon.sql.columns import Accepted, Refusal, judge
from pgcachewatch_daemon.sql.coverage import Settings
from pgcachewatch_daemon.sql.keytext import Column
from tests.daemon.sql.catalogues import CHANNEL, empty, installed, table

A, B, TENANT = Column("a", "int4"), Column("b", "timestamptz"), Column("tenant_id", "enum")
FLOAT = Column("f", "float8")
WATCHED = installed(
    [
        table(1, "users"),
        table(2, "pairs", key=(A, B), columns={"a": A, "b": B, "tenant_id": TENANT}),
        table(3, "floats", key=(FLOAT,), columns={"f": FLOAT}),
        table(4, "keyless", key=(), columns={}),
        table(5, "root", kind=PARTITIONED),
        table(6, "leaf", parents=(5,), is_partition=True),
        table(7, "view", kind=VIEW, key=(), columns={}),
        table(8, "mv", kind=MATERIALIZED_VIEW, key=(), columns={}),
        table(9, "users", schema="s2"),
        table(10, "mixed"),
        table(11, "mixed", schema="s2", key=(Column("id", "text"),), columns={"id": Column("id", "text")}),
    ],
    Settings(columns=("tenant_id",)),
)


def ask(
    *columns: str, table: str | None = "users", schema: str | None = None, catalogue: Catalogue = WATCHED
) -> Accepted | Refusal:
    return judge(catalogue, table=table, schema=schema, columns=columns, has_advice=True)


@pytest.mark.rule("W-ROW-2")
def test_the_types_come_in_the_order_of_the_columns() -> None:
    assert ask("id") == Accepted(("int8",))
    assert ask("a", "b", table="pairs") == Accepted(("int4", "timestamptz"))
    assert ask("b", "a", table="pairs") == Accepted(("timestamptz", "int4"))
    assert ask("tenant_id", table="pairs") == Accepted(("enum",))
    assert ask(table="pairs") == Accepted()


@pytest.mark.rule("W-ROW-3")
@pytest.mark.parametrize(
    ("table", "columns", "code", "said"),
    [
        ("user", ("id",), "unknown_table", r"no table 'user'; did you mean public\.users"),
        ("zzz", ("id",), "unknown_table", "lists all tables"),
        (None, ("id",), "unknown_table", "name it"),
        ("leaf", ("id",), "unknown_table", r"told as those of public\.root"),
        ("users", ("ids",), "unknown_column", r"did you mean id\?.*public\.users --columns ids --commit"),
        ("users", ("email",), "unknown_column", r"its key is \(id\); to carry it too"),
        ("pairs", ("owner",), "unknown_column", "--columns tenant_id,owner --commit"),
        ("pairs", ("tenant",), "unknown_column", r"carry tenant_id; did you mean tenant_id\?"),
        ("pairs", ("a",), "unknown_column", r"its key is \(a, b\)"),
        ("pairs", ("a", "tenant_id"), "unknown_column", "the whole key, or one column"),
        ("pairs", ("a", "a"), "unknown_column", "whole key"),
        ("keyless", ("id",), "unknown_column", "no primary key"),
        ("floats", ("f",), "unusable_column", "type float8"),
        ("view", ("id",), "unusable_column", "watch the tables it reads"),
        ("mv", ("id",), "unusable_column", "REFRESH raises no event"),
        ("mixed", ("id",), "unusable_column", r"public\.mixed, s2\.mixed have columns of different types"),
    ],
)
def test_columns_that_tell_no_rows_apart_are_refused_with_what_to_do(
    table: str | None, columns: tuple[str, ...], code: str, said: str
) -> None:
    answer = ask(*columns, table=table)

    assert isinstance(answer, Refusal)
    assert answer.code == code
    assert re.search(said, answer.text), answer.text


@pytest.mark.rule("W-ROW-3")
def test_a_schema_chooses_among_tables_of_one_name() -> None:
    assert ask("id", table="mixed", schema="s2") == Accepted(("text",))
    answer = ask("id", table="pairs", schema="s2")
    assert isinstance(answer, Refusal)
    assert "s2.pairs" in answer.text


def test_a_carried_column_whose_type_has_no_text_any_more_is_refused() -> None:
    pairs = WATCHED.relations[2]
    now = replace(pairs, columns={**pairs.columns, "tenant_id": Column("tenant_id", "point")})

    answer = ask("tenant_id", table="pairs", catalogue=Catalogue({2: now}, WATCHED.functions))

    assert isinstance(answer, Refusal)
    assert (answer.code, "type point" in answer.text) == ("unusable_column", True)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("user", "did you mean"),
        ("view", "watch the tables"),
        ("leaf", "subscribe to that"),
        ("users", None),
        (None, None),
    ],
)
def test_a_table_that_raises_no_events_is_accepted_with_a_notice(table: str | None, said: str | None) -> None:
    for columns in (None, ()):
        answer = judge(WATCHED, table=table, schema=None, columns=columns, has_advice=True)
        assert isinstance(answer, Accepted)
        assert (said is None and answer.notice is None) or (said is not None and said in (answer.notice or ""))


def test_a_table_without_triggers_is_accepted_and_says_how_to_watch_it() -> None:
    answer = ask("id", catalogue=empty([table(1, "users")]))

    assert isinstance(answer, Accepted)
    assert answer.types == ("int8",)
    assert answer.notice == "writes to public.users raise no event: pgcachewatch install public.users --commit"


def test_a_subscription_on_another_channel_than_the_tables_says_so() -> None:
    answers = [
        judge(WATCHED, table="users", schema="public", columns=None, channel=channel, has_advice=False)
        for channel in (None, CHANNEL, "elsewhere")
    ]

    assert answers[:2] == [Accepted(), Accepted()]
    assert answers[2] == Accepted(notice="public.users notifies channel 'ch', and this subscription is on 'elsewhere'")


def test_names_that_come_close_are_looked_for_only_when_asked() -> None:
    answer = judge(WATCHED, table="user", schema=None, columns=("id",), has_advice=False)

    assert answer == Refusal("unknown_table", "there is no table 'user'")
