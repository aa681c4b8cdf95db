"""Names that people type choose the tables they mean, and are quoted wherever they go."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.sql.names import (
    check_channel,
    choose,
    display,
    parse_pattern,
    quote_identifier,
    quote_literal,
)


@dataclass(frozen=True)
class Table:
    schema: str
    name: str
    is_visible: bool = True


TABLES = [
    Table("public", "users"),
    Table("public", "Users"),
    Table("public", "user_roles"),
    Table("public", "odd.name"),
    Table("public", "a*b"),
    Table("s2", "users", is_visible=False),
    Table("s2", "kv", is_visible=False),
]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("users", ["public.users"]),
        ("Users", ["public.Users"]),
        ("s2.users", ["s2.users"]),
        ("*.users", ["public.users", "s2.users"]),
        ("s2.*", ["s2.users", "s2.kv"]),
        ("user*", ["public.users", "public.user_roles"]),
        ('"odd.name"', ['public."odd.name"']),
        ('public."a*b"', ['public."a*b"']),
        ('"s2".kv', ["s2.kv"]),
    ],
)
def test_a_text_chooses_the_tables_it_names(text: str, chosen: list[str]) -> None:
    assert [display(one.schema, one.name) for one in choose([text], TABLES)] == chosen


def test_a_table_that_is_chosen_twice_is_chosen_once() -> None:
    assert choose(["users", "*.users", "users"], TABLES) == [TABLES[0], TABLES[5]]


@pytest.mark.parametrize(
    ("text", "advice"),
    [("user", r"public\.users"), ("USERS", r"public\.Users"), ("s2.kw", r"s2\.kv"), ("zzz", "status")],
)
def test_a_text_that_names_no_table_says_what_is_close(text: str, advice: str) -> None:
    with pytest.raises(ConfigurationError, match=advice):
        choose([text], TABLES)


@pytest.mark.parametrize("text", ["", ".", "a.", ".b", '"a"b', '"a', "a.b.c", "a\0b"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write table"):
        parse_pattern(text)


@given(
    st.text(st.characters(exclude_characters="\0"), min_size=1),
    st.text(st.characters(exclude_characters="\0"), min_size=1),
)
def test_what_is_displayed_chooses_that_very_table(schema: str, name: str) -> None:
    table = Table(schema, name)

    assert choose([display(schema, name)], [Table("other", name), Table(schema, f"{name}x"), table]) == [table]


@given(st.text())
def test_quoted_names_and_literals_end_where_they_should(text: str) -> None:
    inside = quote_identifier(text)[1:-1]
    assert '"' not in inside.replace('""', "")
    literal = quote_literal(text)
    assert literal.removeprefix("E")[1:-1].replace("''", "").find("'") == -1
    assert literal.startswith("E") == ("\\" in text)


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "a\0"])
def test_a_channel_that_can_not_be_notified_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="channel"):
        check_channel(name)
