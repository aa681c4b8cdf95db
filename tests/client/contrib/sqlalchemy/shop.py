"""A database that the tests of SQLAlchemy share: mapped classes, tables, and an engine on a real PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Column, ForeignKey, Table, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tests.postgres import Database


class Model(DeclarativeBase):
    """All mapped classes."""


tagged = Table("tagged", Model.metadata, Column("book", ForeignKey("books.id")), Column("tag", ForeignKey("tags.id")))


class Tag(Model):
    """A word about books."""

    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str]


class Book(Model):
    """A book."""

    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    tags: Mapped[list[Tag]] = relationship(secondary=tagged)


class Order(Model):
    """In another schema, and with names that have to be quoted."""

    __tablename__ = 'Order "s'
    __table_args__ = {"schema": "Sales"}  # noqa: RUF012  # as SQLAlchemy wants it
    id: Mapped[int] = mapped_column(primary_key=True)
    book: Mapped[int]


def engine_on(database: Database, **options: Any) -> AsyncEngine:
    """An engine, to be disposed of."""
    return create_async_engine(database.dsn.replace("postgresql://", "postgresql+asyncpg://", 1), **options)


@contextlib.asynccontextmanager
async def filled_engine_on(database: Database, **options: Any) -> AsyncIterator[AsyncEngine]:
    """An engine on a database with two books in it."""
    engine = engine_on(database, **options)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql('CREATE SCHEMA "Sales"')
            await connection.run_sync(Model.metadata.create_all)
            await connection.exec_driver_sql("INSERT INTO books (id, title) VALUES (1, 'Emma'), (2, 'Ulysses')")
        yield engine
    finally:
        await engine.dispose()


class Sent:
    """The statements that an engine sends."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.texts: list[str] = []

        def note(connection: Any, cursor: Any, text: str, *_: Any) -> None:
            self.texts.append(" ".join(text.split()))

        event.listen(engine.sync_engine, "before_cursor_execute", note)

    def __len__(self) -> int:
        return len(self.texts)
