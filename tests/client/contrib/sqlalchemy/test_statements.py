"""Which tables a statement reads, and which statements are not plain reading."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    ClauseElement,
    Integer,
    Sequence,
    String,
    any_,
    case,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    lateral,
    literal,
    literal_column,
    select,
    table,
    tablesample,
    text,
    tuple_,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import asyncpg
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased, joinedload
from sqlalchemy.sql.expression import ColumnElement

from pgcachewatch.contrib.sqlalchemy.statements import Opaque, tables_of
from pgcachewatch.core.subscriptions import spellings
from tests.client.contrib.sqlalchemy.shop import Book, Order, Tag, tagged

DIALECT = asyncpg.dialect()  # type: ignore[no-untyped-call]  # a class without annotations
BOOKS, TAGS, TAGGED, ORDERS = '"books"', '"tags"', '"tagged"', '"Sales"."Order ""s"'


class Dice(ColumnElement[int]):
    """An element that a program writes SQL for by itself."""

    inherit_cache = True
    type = Integer()


@compiles(Dice)
def _write_dice(element: Dice, compiler: Any, **options: Any) -> str:
    return "dice()"


ids = select(Tag.id)
READING: list[tuple[ClauseElement, set[str]]] = [
    (select(Book), {BOOKS}),
    (select(Book.__table__), {BOOKS}),
    (select(Order), {ORDERS}),
    (select(aliased(Book).id), {BOOKS}),
    (select(func.count()).select_from(Book), {BOOKS}),
    (select(Book.id).join(Book.tags), {BOOKS, TAGS, TAGGED}),
    (select(Book).options(joinedload(Book.tags)), {BOOKS, TAGS, TAGGED}),
    (select(Book.id).outerjoin(Order, Order.book == Book.id), {BOOKS, ORDERS}),
    (select(Book.id).where(Book.tags.any(word="x")), {BOOKS, TAGS, TAGGED}),
    (select(Book.id).where(exists().where(Tag.id == Book.id)), {BOOKS, TAGS}),
    (select(Book.id).where(Book.id == any_(ids.scalar_subquery())), {BOOKS, TAGS}),
    (select(Book.id).where(Book.id.in_(ids)), {BOOKS, TAGS}),
    (select(Book.id, select(func.count(Tag.id)).scalar_subquery()), {BOOKS, TAGS}),
    (select(ids.subquery().c.id), {TAGS}),
    (ids.cte("found").select(), {TAGS}),
    (select(Book.id, lateral(ids.where(Tag.id == Book.id)).c.id), {BOOKS, TAGS}),
    (select(Book.id).union_all(ids), {BOOKS, TAGS}),
    (select(Book.id, values(column("a", Integer), name="v").data([(1,)]).c.a), {BOOKS}),
    (select(tagged.c.book), {TAGGED}),
    (select(table("lower", column("id"), schema="s").c.id), {'"s"."lower"'}),
    (select(Book.id).where(Book.id.in_([1, 2]), Book.title.is_not(None), ~Book.title.startswith("x")), {BOOKS}),
    (select(Book.id).where(tuple_(Book.id, Book.title).in_([(1, "Emma")])), {BOOKS}),
    (select(Book.id).where(Book.title.ilike("%x%") | Book.title.regexp_match("x")), {BOOKS}),
    (select(Book.id).where(Book.id.between(1, 2)).order_by(Book.id.desc().nulls_last(), "id").limit(5), {BOOKS}),
    (select(Book.title).group_by(Book.title).having(func.count() > 1).distinct(), {BOOKS}),
    (select(-Book.id, Book.id / 2, Book.id % 2, Book.title + "x", cast(Book.id, String)), {BOOKS}),
    (select(case((Book.id > 1, "a"), else_="b"), func.lower(Book.title), literal(5)).select_from(Book), {BOOKS}),
    (select(func.row_number().over(partition_by=Book.title, order_by=Book.id)), {BOOKS}),
    (select(func.count(Book.id).filter(Book.id > 1), func.pg_catalog.max(Book.id)), {BOOKS}),
    (select(Book.id).where(Book.detail["a"].astext == "x", Book.detail.contains({"a": 1})), {BOOKS}),
]
NOT_READING: list[tuple[ClauseElement, str]] = [
    (text("SELECT id FROM books"), "TextClause is no SELECT"),
    (insert(Tag).values(word="x"), "Insert is no SELECT"),
    (update(Tag).values(word="x"), "Update is no SELECT"),
    (delete(Tag), "Delete is no SELECT"),
    (text("SELECT id FROM books").columns(column("id")), "TextualSelect is no SELECT"),
    (select(text("id")).select_from(Book), "textclause"),
    (select(Book.id).where(text("id IN (SELECT id FROM tags)")), "textclause"),
    (select(text("id FROM books").columns(column("id")).subquery()), "textual select"),
    (select(Book.id).prefix_with("/* or more */"), "textclause"),
    (select(literal_column("(SELECT max(id) FROM tags)"), Book.id), "the text"),
    (select(insert(Tag).values(word="x").returning(Tag.id).cte().c.id), "insert"),
    (select(Book.id).with_for_update(), "locks rows"),
    (select(Book.id).with_for_update(read=True, skip_locked=True), "locks rows"),
    (select(Book.id).where(Book.id.in_(ids.with_for_update())), "locks rows"),
    (select(Book.id).with_statement_hint("FOR UPDATE"), "hint"),
    (select(Book.id).with_hint(Book, "ONLY"), "hint"),
    (select(func.now(), Book.id), "function 'now'"),
    (select(func.random(), Book.id), "function 'random'"),
    (select(func.nextval("s"), Book.id), "function 'nextval'"),
    (select(func.app.lower(Book.title)), "function 'app.lower'"),
    (select(Sequence("s").next_value(), Book.id), "next_value"),
    (select(func.unnest(func.array_agg(Book.id)).table_valued("id")), "table valued"),
    (select(tablesample(Book.__table__, func.bernoulli(1)).c.id), "tablesample"),
    (select(Dice(), Book.id), "what SQL is made of a Dice"),
    (select(Book.id).where(Book.title.op("<~>")("x")), "operator '<~>'"),
    (select(literal(1)), "reads no table"),
]


@pytest.mark.parametrize(("statement", "tables"), READING, ids=[" ".join(str(one).split())[:60] for one, _ in READING])
def test_the_tables_are_those_that_are_written_into_the_sql(statement: ClauseElement, tables: set[str]) -> None:
    assert tables_of(statement, DIALECT) == frozenset(tables)


@pytest.mark.parametrize(("statement", "reason"), NOT_READING, ids=[reason for _, reason in NOT_READING])
def test_what_is_not_plain_reading_is_told_with_its_reason(statement: ClauseElement, reason: str) -> None:
    found = tables_of(statement, DIALECT)

    assert isinstance(found, Opaque)
    assert reason in found.reason


def test_a_table_is_named_as_a_cache_reads_names() -> None:
    found = tables_of(select(Order), DIALECT)

    assert not isinstance(found, Opaque)
    assert spellings(next(iter(found))) == [("Sales", 'Order "s')]
