"""Names of tables: how they are put into SQL, and which tables somebody means by what they typed.

Everything that goes into a statement goes through here, so a table called `a"; drop table x; --` is a table of that
name. What is typed is `table`, `schema.table`, a part in double quotes where it has a dot or a star, and `*` for any
characters: `public.*`. Capitals are kept: `Users` is the table "Users", not users, as in the original.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pgcachewatch.errors import ConfigurationError

NAME_BYTES = 63  # NAMEDATALEN - 1
CLOSE_MATCHES = 3

_PART = re.compile(r'"((?:[^"]|"")+)"(?=\.|$)|([^".][^.]*)')


class Named(Protocol):
    """What can be chosen by name."""

    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def is_visible(self) -> bool: ...


One = TypeVar("One", bound=Named)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What somebody typed, as regular expressions; `schema` None stands for the search_path."""

    text: str
    schema: re.Pattern[str] | None
    name: re.Pattern[str]
    is_many: bool

    def chooses(self, table: Named) -> bool:
        if self.schema is None:
            return table.is_visible and self.name.fullmatch(table.name) is not None
        return self.schema.fullmatch(table.schema) is not None and self.name.fullmatch(table.name) is not None


def parse_pattern(text: str) -> Pattern:
    """What `text` means. Raises ConfigurationError for what is no name.

    >>> parse_pattern("public.*").is_many, parse_pattern('"odd.name"').name.pattern
    (True, 'odd\\\\.name')
    """
    parts: list[tuple[re.Pattern[str], bool]] = []
    at = 0
    while at <= len(text):
        found = _PART.match(text, at)
        if found is None or "\0" in text:
            raise ConfigurationError(f"{text!r} is no name; write table, schema.table, or quote a part that has a dot")
        quoted, plain = found.groups()
        parts.append(_expression(quoted, plain))
        at = found.end() + 1
    if len(parts) > 2:
        raise ConfigurationError(
            f"{text!r} has {len(parts)} parts; write table or schema.table, and quote a dot in a name"
        )
    name, is_many_names = parts[-1]
    schema, is_many_schemas = parts[0] if len(parts) == 2 else (None, False)
    return Pattern(text, schema, name, is_many_names or is_many_schemas)


def _expression(quoted: str | None, plain: str) -> tuple[re.Pattern[str], bool]:
    if quoted is not None:
        return re.compile(re.escape(quoted.replace('""', '"')), re.DOTALL), False
    pieces = plain.split("*")
    return re.compile(".*".join(map(re.escape, pieces)), re.DOTALL), len(pieces) > 1


def choose(texts: Iterable[str], tables: Sequence[One]) -> list[One]:
    """The tables that `texts` name, each once, in order. Raises ConfigurationError for a text that names none."""
    chosen: dict[tuple[str, str], One] = {}
    for text in texts:
        pattern = parse_pattern(text)
        found = [table for table in tables if pattern.chooses(table)]
        if not found:
            raise ConfigurationError(f"there is no table {text!r}; {advice(text, tables)}")
        chosen.update({(table.schema, table.name): table for table in found})
    return list(chosen.values())


def advice(text: str, tables: Sequence[Named]) -> str:
    """What whoever typed the name of no table may have meant. It compares with each: 10,000 take 0.1 s."""
    folded: dict[str, list[str]] = {}
    for table in tables:
        shown = display(table.schema, table.name)
        for spelling in {shown.lower(), table.name.lower()}:
            folded.setdefault(spelling, []).append(shown)
    close = [shown for each in difflib.get_close_matches(text.lower(), folded, CLOSE_MATCHES) for shown in folded[each]]
    names = ", ".join(dict.fromkeys(close))
    return f"did you mean {names}?" if names else "`pgcachewatch status` lists all tables"


def display(schema: str, name: str) -> str:
    """A table's name as it can be typed again.

    >>> display("public", "odd.name")
    'public."odd.name"'
    """
    return ".".join(part if re.fullmatch(r"\w+", part) else quote_identifier(part) for part in (schema, name))


def quote_identifier(name: str) -> str:
    """A name as an SQL identifier.

    >>> quote_identifier('a"; drop table x; --')
    '"a""; drop table x; --"'
    """
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def qualified(schema: str, name: str) -> str:
    """
    >>> qualified("s2", "kv")
    '"s2"."kv"'
    """
    return f"{quote_identifier(schema)}.{quote_identifier(name)}"


def quote_literal(text: str) -> str:
    """A text as an SQL literal, whatever standard_conforming_strings says.

    >>> quote_literal("it's")
    "'it''s'"
    """
    escaped = text.replace("'", "''")
    if "\\" not in text:
        return f"'{escaped}'"
    doubled = escaped.replace("\\", "\\\\")
    return f"E'{doubled}'"


def check_channel(name: str) -> str:
    """`name`, which PostgreSQL can notify; else raises ConfigurationError."""
    if not name or "\0" in name or len(name.encode()) > NAME_BYTES:
        raise ConfigurationError(f"channel {name[:80]!r} can not be used: it has 1 to {NAME_BYTES} bytes and no NUL")
    return name
