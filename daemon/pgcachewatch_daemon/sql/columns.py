"""Which columns a subscription can tell a table's rows apart by, and what is odd about the table it names (W-ROW-3).

Rows are told apart by the whole key, in any order, or by one further column that the table's events carry. Every table
of the name must be fine, when the subscription names no schema. Pure: from a catalogue to an answer.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pgcachewatch_daemon.sql.catalogue import Catalogue, Relation
from pgcachewatch_daemon.sql.coverage import UNWATCHABLE, installed_settings
from pgcachewatch_daemon.sql.keytext import Column
from pgcachewatch_daemon.sql.names import CLOSE_MATCHES, advice, display

Code = Literal["unknown_table", "unknown_column", "unusable_column", "not_journalled"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """`types` has the base type of each of the columns, `notice` what a person ought to know.

    `is_journalled`: all that the subscription is told comes by the journal, nothing by notification.
    """

    types: tuple[str, ...] | None = None
    notice: str | None = None
    is_journalled: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Rows can not be told apart like that. `code` is the wire's."""

    code: Code
    text: str


# Whether a table's name, given by schema and name, is no secret to whoever is answered.
MayName = Callable[[str, str], bool]


def names_all(schema: str, name: str) -> bool:
    """No name is a secret."""
    return True


def judge(
    catalogue: Catalogue,
    *,
    table: str | None,
    schema: str | None,
    columns: tuple[str, ...] | None,
    channel: str | None = None,
    has_advice: bool,
    may_name: MayName = names_all,
) -> Accepted | Refusal:
    """The answer to a subscription. `has_advice`: look for names that come close, which takes a while.

    Of tables other than the one in question it names those that `may_name` allows.

    `channel` is the one it is on; None: whichever the table notifies.

    >>> from pgcachewatch_daemon.sql.catalogue import Catalogue, Relation
    >>> users = Relation(1, "public", "users", key=(Column("id", "int8"),), columns={"id": Column("id", "int8")})
    >>> judge(Catalogue({1: users}, {}), table="users", schema=None, columns=("id",), has_advice=True).types
    ('int8',)
    """
    if table is None:
        return Refusal("unknown_table", "columns are those of a table: name it") if columns else Accepted()
    tables = [one for one in catalogue.named(table) if schema in (None, one.schema)]
    if not tables:
        shown = table if schema is None else display(schema, table)
        known = [one for one in catalogue.relations.values() if may_name(one.schema, one.name)] if has_advice else []
        close = f"; {advice(shown, known)}" if has_advice else ""
        text = f"there is no table {shown!r}{close}"
        return Refusal("unknown_table", text) if columns else Accepted(notice=text)
    notices = [_notice(catalogue, one, channel, may_name=may_name) for one in tables]
    notice = next((one for one in notices if one is not None), None)
    is_journalled = all(_is_journalled(catalogue, one, channel) for one in tables)
    if not columns:
        return Accepted(notice=notice, is_journalled=is_journalled)
    answers = [_types(catalogue, one, columns, may_name=may_name) for one in tables]
    refused = next((each for each in answers if isinstance(each, Refusal)), None)
    if refused is not None:
        return refused
    if len(set(answers)) > 1:
        names = ", ".join(one.display for one in tables)
        return Refusal("unusable_column", f"{names} have columns of different types: name the schema")
    first = answers[0]
    assert not isinstance(first, Refusal)
    return Accepted(first, notice, is_journalled)


def _is_journalled(catalogue: Catalogue, relation: Relation, channel: str | None) -> bool:
    """True when none of its triggers notifies: not one of another mode, nor the original's beside them."""
    settings = installed_settings(catalogue, relation)
    return (
        settings is not None
        and settings.mode == "journal"
        and channel in (None, settings.channel)
        and all(trigger.function is not None for trigger in relation.triggers.values())
    )


def _notice(catalogue: Catalogue, relation: Relation, channel: str | None = None, *, may_name: MayName) -> str | None:
    if relation.kind in UNWATCHABLE:
        return f"{relation.display}: {UNWATCHABLE[relation.kind]}"
    if relation.is_partition:
        root = catalogue.root(relation)
        shown = root.display if may_name(root.schema, root.name) else "the table that it is a partition of"
        return f"rows of {relation.display} are told as those of {shown}: subscribe to that"
    if not relation.triggers:
        return f"writes to {relation.display} raise no event: pgcachewatch install {relation.display} --commit"
    settings = installed_settings(catalogue, relation)
    notified = settings.channel if settings is not None else None
    if None not in (channel, notified) and channel != notified:
        return f"{relation.display} notifies channel {notified!r}, and this subscription is on {channel!r}"
    return None


def _types(
    catalogue: Catalogue, relation: Relation, columns: tuple[str, ...], *, may_name: MayName
) -> tuple[str, ...] | Refusal:
    if relation.kind in UNWATCHABLE:
        return Refusal("unusable_column", f"{relation.display}: {UNWATCHABLE[relation.kind]}")
    if relation.is_partition:
        return Refusal("unknown_table", _notice(catalogue, relation, may_name=may_name) or "")
    key = {column.name: column for column in relation.key}
    settings = installed_settings(catalogue, relation)
    carried = {
        name: relation.columns[name]
        for name in (settings.columns if settings is not None else None) or ()
        if name in relation.columns
    }
    chosen: Sequence[Column]
    if len(columns) == len(key) and set(columns) == key.keys():
        chosen = [key[name] for name in columns]
    elif len(columns) == 1 and columns[0] in carried:
        chosen = [carried[columns[0]]]
    else:
        return Refusal("unknown_column", _unknown(relation, columns, [*key], [*carried]))
    problem = next((column.problem for column in chosen if not column.has_text), None)
    if problem is not None:
        return Refusal("unusable_column", f"{relation.display}: {problem}")
    return tuple(column.type for column in chosen)


def _unknown(relation: Relation, columns: tuple[str, ...], key: list[str], carried: list[str]) -> str:
    has = (
        f"its key is ({', '.join(key)})"
        if key
        else "it has no key: no primary key, no unique index on NOT NULL columns"
    )
    carries = f", and its events carry {', '.join(carried)}" if carried else ""
    asked = ", ".join(columns)
    text = f"rows of {relation.display} can not be told apart by ({asked}): {has}{carries}"
    known = [*key, *carried]
    close = {near: None for name in columns for near in difflib.get_close_matches(name, known, CLOSE_MATCHES)}
    if close and not set(columns) <= set(known):
        text += f"; did you mean {', '.join(close)}?"
    if len(columns) > 1:
        return f"{text}; name the whole key, or one column that the events carry"
    further = ",".join(dict.fromkeys([*carried, *columns]))
    return f"{text}; to carry it too: pgcachewatch install {relation.display} --columns {further} --commit"
