"""Which tables a statement reads, or why that can not be told.

The tables are not looked for in the statement, which would have to know each way in which one gets there: joins along
relationships and their link tables, inheritance, column properties, CTEs, correlated subqueries. The statement is
compiled once, and whatever table is written into its SQL is what it reads. In the same pass everything else that is
written must be of a known kind: text, functions of one's own, locks, hints and whatever SQLAlchemy will learn tomorrow
may read or change what nobody sees here.

Bound: the size of the statement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ClauseElement, CompoundSelect, Dialect, Select
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler

from pgcachewatch.contrib.plain_sql import FUNCTIONS, OPERATORS

# The kinds of elements that are plain reading, as the compiler's methods name them. Tables, columns, functions and
# operators of PostgreSQL are looked at one by one.
PLAIN: Final = frozenset(
    """
    aggregate_order_by aggregateorderby alias array binary bindparam case cast clauselist collation column
    compound_select cte element_list empty_set_expr empty_set_op_expr expression_clauselist extract false frame_clause
    funcfilter function grouping join label label_reference lateral null order_by_list over scalar_values select
    select_statement_grouping slice subquery table textual_label_reference true tuple type_coerce typeclause unary
    values withingroup
    """.split()  # noqa: SIM905  # a list of words is read as words
)
# Operators by their names, and functions that PostgreSQL spells in a way of its own.
PLAIN_ENDINGS: Final = ("_binary", "_clauselist", "_func", "_operand", "_unary_modifier", "_unary_operator")
OWN_OPERATORS: Final = frozenset({"custom_op_binary", "custom_op_unary_operator", "custom_op_unary_modifier"})
LITERALS: Final = frozenset({"*", "1", "'%'"})  # what SQLAlchemy itself writes: count(), exists(), startswith()


@dataclass(frozen=True, slots=True)
class Opaque:
    """Not to be cached. `reason` is meant to follow "because"."""

    reason: str


def tables_of(statement: ClauseElement, dialect: Dialect) -> frozenset[str] | Opaque:
    """The tables that `statement` reads, quoted and with their schemas, as `tables=` takes them.

    Raises what compiling raises for a statement that can not be run.

    >>> from sqlalchemy import column, func, select, table
    >>> from sqlalchemy.dialects.postgresql import asyncpg
    >>> users = table("users", column("id"), schema="app")
    >>> tables_of(select(users.c.id), asyncpg.dialect())
    frozenset({'"app"."users"'})
    >>> tables_of(select(func.my_own(users.c.id)), asyncpg.dialect())
    Opaque(reason="nobody knows what the function 'my_own' does")
    """
    if not isinstance(statement, Select | CompoundSelect):
        return Opaque(f"a {type(statement).__name__} is no SELECT")
    recorder = _recorder(dialect)(dialect, statement)
    reason = recorder.reason or _custom(statement)
    # What the ORM made of the statement, where a mapping may bring in elements of its own.
    final = getattr(recorder.compile_state, "statement", None)
    if reason is None and isinstance(final, ClauseElement):
        reason = _custom(final)
    if reason is None and not recorder.tables:
        reason = "it reads no table, so that nothing would ever say that it changed"
    return Opaque(reason) if reason is not None else frozenset(recorder.tables)


def _custom(statement: ClauseElement) -> str | None:
    """Elements whose SQL is written by a function of the program's (`sqlalchemy.ext.compiler.compiles`)."""
    for element in visitors.iterate(statement):
        if hasattr(type(element), "_compiler_dispatcher"):
            return f"nobody knows what SQL is made of a {type(element).__name__}"
    return None


def _recorder(dialect: Dialect) -> type[_Recorder]:
    return type("Recorder", (_Recorder, dialect.statement_compiler), {})


class _Recorder(SQLCompiler):
    """A compiler that remembers what it was asked to write. Any: the arguments of SQLAlchemy's own methods."""

    def __init__(self, dialect: Dialect, statement: ClauseElement, **options: Any) -> None:
        # Before anything else, because the constructor compiles.
        self.tables: set[str] = set()
        self.reason: str | None = None
        super().__init__(dialect, statement, **options)

    def __getattribute__(self, name: str) -> Any:
        # Each element asks its compiler for the method of its kind, so each kind passes here.
        if name.startswith("visit_"):
            kind = name.removeprefix("visit_")
            is_known = kind in PLAIN or kind.endswith(PLAIN_ENDINGS)
            if not is_known or (kind.startswith("custom_op") and kind not in OWN_OPERATORS):
                self.refuse(f"it contains a {kind.replace('_', ' ')}")
        return super().__getattribute__(name)

    def refuse(self, reason: str) -> None:
        if self.reason is None:
            self.reason = reason

    def visit_table(self, table: Any, *arguments: Any, **options: Any) -> Any:
        parts = [table.schema, table.name] if table.schema else [table.name]
        self.tables.add(".".join('"' + part.replace('"', '""') + '"' for part in parts))
        return super().visit_table(table, *arguments, **options)

    def visit_column(self, column: Any, *arguments: Any, **options: Any) -> str:
        if column.is_literal and column.name not in LITERALS:
            self.refuse(f"nobody knows what the text {column.name!r} does")
        return super().visit_column(column, *arguments, **options)

    def visit_function(self, func: Any, *arguments: Any, **options: Any) -> str:
        if func.name.lower() not in FUNCTIONS or tuple(func.packagenames) not in ((), ("pg_catalog",)):
            self.refuse(f"nobody knows what the function {'.'.join((*func.packagenames, func.name))!r} does")
        return super().visit_function(func, *arguments, **options)

    def visit_custom_op_binary(self, element: Any, operator: Any, **options: Any) -> Any:
        self._see_operator(operator)
        return super().visit_custom_op_binary(element, operator, **options)

    def visit_custom_op_unary_operator(self, element: Any, operator: Any, **options: Any) -> Any:
        self._see_operator(operator)
        return super().visit_custom_op_unary_operator(element, operator, **options)

    def visit_custom_op_unary_modifier(self, element: Any, operator: Any, **options: Any) -> Any:
        self._see_operator(operator)
        return super().visit_custom_op_unary_modifier(element, operator, **options)

    def for_update_clause(self, select: Any, **options: Any) -> Any:
        self.refuse("it locks rows")
        return super().for_update_clause(select, **options)

    def get_statement_hint_text(self, hint_texts: Any) -> Any:
        self.refuse("it contains a hint")
        return super().get_statement_hint_text(hint_texts)

    def get_select_hint_text(self, byfroms: Any) -> Any:
        self.refuse("it contains a hint")
        return super().get_select_hint_text(byfroms)

    def format_from_hint_text(self, *arguments: Any) -> Any:
        self.refuse("it contains a hint")
        return super().format_from_hint_text(*arguments)

    def _see_operator(self, operator: Any) -> None:
        if operator.opstring not in OPERATORS:
            self.refuse(f"nobody knows what the operator {operator.opstring!r} does")
