"""What the results of a cached function depend on: tables, rows, tags; and from a call to the rows it depends on.

    @client.cache(rows=Row("users", id="user_id"))
    async def get_user(user_id: int) -> User | None: ...          # "there is no user 5" depends on row 5, too

    @client.cache(rows=Row("orders", id=Result(lambda orders: [order.id for order in orders])), tables=["prices"])
    async def newest_orders() -> list[Order]: ...

A column is given by the name of an argument, by a function of the call's arguments, or by Result, a function of what
was returned. A list, tuple or set stands for several rows. A row that is known only from the result does not tell that
a *new* row belongs to it: such a function usually depends on a further column (`Row("orders", tenant_id="tenant")`), or
on the table.

A Dimension is a table and the columns by which its rows are told apart; each is one subscription. Before the relay has
told the types of its columns nothing can be written as text, and nothing is stored either.

Bound: ROWS_PER_ENTRY rows; an entry with more depends on each row of the table, ANY_ROW.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgcachewatch.core.keytext import Unmatchable, key_of, text_of
from pgcachewatch.errors import ConfigurationError

ROWS_PER_ENTRY = 1_000
ANY_ROW = "\0"  # no key has this text: PostgreSQL stores no NUL
TAG_PREFIX = "tag:"

Reader = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Result:
    """Reads a column's value, or several, from what the function returned."""

    read: Callable[[Any], object]  # Any: whatever the function returns


@dataclass(frozen=True, slots=True)
class Table:
    """Each row of a table, as SQL writes its name."""

    name: str


@dataclass(frozen=True, slots=True)
class Tag:
    """A name that the program itself invalidates, in this process: `client.invalidate(Tag("menu"))`."""

    name: str


class Row:
    """The rows of `table` whose columns have these values: `Row("users", id="user_id")`.

    The columns are the table's key, all of it, or one column that its triggers carry. `table` is exact: no case is
    folded, because the relay says at once when there is no such table.
    """

    __slots__ = ("columns", "sources", "table")

    def __init__(self, table: str, /, **columns: str | Reader | Result) -> None:
        if not columns:
            raise ConfigurationError(
                f'Row({table!r}) names no column; write Row({table!r}, id="the argument"), or tables=[{table!r}]'
            )
        for column, source in columns.items():
            if not isinstance(source, str | Result) and not callable(source):
                raise ConfigurationError(
                    f"Row({table!r}, {column}={source!r}) can not work; give the name of an argument, a function of "
                    "the arguments, or Result(a function of what is returned)"
                )
        self.table = table
        self.columns = tuple(columns)
        self.sources = tuple(columns.values())

    def __repr__(self) -> str:
        columns = ", ".join(f"{name}={source!r}" for name, source in zip(self.columns, self.sources, strict=True))
        return f"Row({self.table!r}, {columns})"

    @property
    def is_late(self) -> bool:
        """True when it is known only once the function has returned."""
        return any(isinstance(source, Result) for source in self.sources)


@dataclass(frozen=True, slots=True)
class Dimension:
    """A table, and the columns by which its rows are told apart."""

    table: str
    columns: tuple[str, ...]


class RowKey(NamedTuple):
    """One row: its dimension's number and its key's text. A tuple, as one is made for each event."""

    dimension: int
    text: str


@dataclass(frozen=True, slots=True)
class Declared:
    """Dependencies as they were written, sorted by kind."""

    rows: tuple[Row, ...] = ()
    tables: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


def declared(
    *, rows: Row | Iterable[Row] = (), tables: Iterable[Table | str] = (), tags: Iterable[Tag | str] = ()
) -> Declared:
    """The options of a cache, checked. Raises ConfigurationError.

    >>> declared(tables=["users", "tag:menu", Table("public.orders")])
    Declared(rows=(), tables=('users', 'public.orders'), tags=('menu',))
    """
    if isinstance(tables, str | Table):
        raise ConfigurationError(f"tables must be a sequence of names, not {tables!r}; write [{tables!r}]")
    if isinstance(tags, str | Tag):
        raise ConfigurationError(f"tags must be a sequence of names, not {tags!r}; write [{tags!r}]")
    found_rows = (rows,) if isinstance(rows, Row) else tuple(rows)
    for row in found_rows:
        if not isinstance(row, Row):
            raise ConfigurationError(f"rows holds {row!r}, which is no Row; write Row(table, column=argument)")
    names = [table.name if isinstance(table, Table) else table for table in tables]
    found_tags = [tag.name if isinstance(tag, Tag) else tag for tag in tags]
    found_tags += [name.removeprefix(TAG_PREFIX) for name in names if name.startswith(TAG_PREFIX)]
    found_tables = [name for name in names if not name.startswith(TAG_PREFIX)]
    return Declared(found_rows, tuple(found_tables), tuple(tag.removeprefix(TAG_PREFIX) for tag in found_tags))


class Rows:
    """The row dependencies of one function.

    >>> rows = Rows([Row("users", id="user_id")], lambda user_id, language="en": None)
    >>> rows.types = (("int8",),)
    >>> rows.of_call((5,), {})
    [RowKey(dimension=0, text='5')]
    """

    def __init__(self, rows: Sequence[Row], function: Callable[..., Any]) -> None:
        self.dimensions = tuple(dict.fromkeys(Dimension(row.table, row.columns) for row in rows))
        self.types: tuple[tuple[str, ...], ...] | None = None  # of each dimension; None until all are known
        self.problem = ""  # why the relay will never say
        self._signature = inspect.signature(function) if rows else inspect.Signature()
        numbers = {dimension: number for number, dimension in enumerate(self.dimensions)}
        numbered = [(numbers[Dimension(row.table, row.columns)], row) for row in rows]
        self._early = [(number, row) for number, row in numbered if not row.is_late]
        self._late = [(number, row) for number, row in numbered if row.is_late]
        self.late_dimensions = frozenset(number for number, _ in self._late)
        _check_arguments(rows, self._signature, getattr(function, "__qualname__", repr(function)))

    def __bool__(self) -> bool:
        return bool(self.dimensions)

    def of_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[RowKey]:
        """The rows that are known before the function runs. Raises Unmatchable, and what the user's functions raise."""
        return list(self._keys(self._early, args, kwargs, None))

    def of_result(self, args: Sequence[Any], kwargs: Mapping[str, Any], value: object) -> list[RowKey]:
        """The rows that are known only now. Raises as `of_call` does."""
        return list(self._keys(self._late, args, kwargs, value))

    def _keys(
        self, rows: Sequence[tuple[int, Row]], args: Sequence[Any], kwargs: Mapping[str, Any], value: object
    ) -> Iterator[RowKey]:
        types = self.types
        if not rows or types is None:
            return
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for number, row in rows:
            columns = [_values(source, bound, value) for source in row.sources]
            yield from _row_keys(number, columns, types[number])


def _row_keys(number: int, columns: Sequence[Collection[object]], types: Sequence[str]) -> Iterator[RowKey]:
    count = 1
    for values in columns:
        count *= len(values)
    if count > ROWS_PER_ENTRY:
        yield RowKey(number, ANY_ROW)
        return
    for values in itertools.product(*columns):
        # NULL is no key: what happens to rows that have it is told table-wide.
        if None not in values:
            texts = [text_of(value, type_name) for value, type_name in zip(values, types, strict=True)]
            yield RowKey(number, key_of(texts))


def _values(source: str | Reader | Result, bound: inspect.BoundArguments, value: object) -> Collection[object]:
    if isinstance(source, Result):
        found = source.read(value)
    elif isinstance(source, str):
        found = bound.arguments[source]
    else:
        found = source(*bound.args, **bound.kwargs)
    return found if isinstance(found, list | tuple | set | frozenset) else (found,)


def _check_arguments(rows: Iterable[Row], signature: inspect.Signature, name: str) -> None:
    for row in rows:
        for column, source in zip(row.columns, row.sources, strict=True):
            if isinstance(source, str) and source not in signature.parameters:
                known = list(signature.parameters)
                close = difflib.get_close_matches(source, known)
                advice = f"did you mean {', '.join(close)}?" if close else f"it has: {', '.join(known) or 'none'}"
                raise ConfigurationError(
                    f"Row({row.table!r}, {column}={source!r}): {name} has no parameter {source!r}; {advice}"
                )


__all__ = [
    "ANY_ROW",
    "Declared",
    "Dimension",
    "Result",
    "Row",
    "RowKey",
    "Rows",
    "Table",
    "Tag",
    "Unmatchable",
    "declared",
]
