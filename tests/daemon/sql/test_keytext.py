"""Which types have a canonical text; what the text is, is tested on PostgreSQL in tests/integration."""

from __future__ import annotations

import re

import pytest

import pgcachewatch_daemon.sql as package
from pgcachewatch_daemon.sql.keytext import ENUM, EXPRESSIONS, Column, column_text, further_text, key_text


def test_every_expression_names_the_schema_of_whatever_it_calls() -> None:
    for expression in EXPRESSIONS.values():
        assert re.findall(r"(?<![\w.])(\w+)\(", expression) == []
        assert re.findall(r"::(?!pg_catalog\.)", expression) == []


def test_braces_in_a_name_stay() -> None:
    assert column_text(Column('a{0}"', "int4"), "r") == 'r."a{0}"""::pg_catalog.text'


def test_a_key_of_one_column_is_bare_and_one_of_several_is_an_array() -> None:
    one, two = Column("a", "int4"), Column("b", "uuid")

    assert key_text([one], "r") == column_text(one, "r")
    assert key_text([one, two], "r").startswith("'[' || ")


def test_a_further_columns_value_is_named_even_when_it_is_null() -> None:
    text = further_text(Column("it's", "int4"), "r")

    assert "'it''s='" in text
    assert text.endswith("'it''s')")


@pytest.mark.parametrize(
    ("column", "problem"),
    [(Column("a", "float8"), "float8"), (Column("a", "text", is_deterministic=False), "collation")],
)
def test_a_column_without_a_text_says_why(column: Column, problem: str) -> None:
    assert not column.has_text
    assert problem in column.problem


def test_the_packages_table_has_each_type() -> None:
    """A type in the code that the document leaves out, or the other way round, fails here."""
    words = {"int2": "smallint", "int4": "integer", "int8": "bigint", "bool": "boolean", "bpchar": "char", ENUM: "enum"}
    undocumented = {"oid", "name"}  # as integer and text; nobody keys by them
    documented = (package.__doc__ or "").partition("canonical text   ")[2]

    missing = [
        name
        for name in EXPRESSIONS
        if name not in undocumented and not re.search(rf"^.*\b{words.get(name, name)}\b.*  ", documented, re.MULTILINE)
    ]

    assert missing == []
