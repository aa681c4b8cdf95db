"""The catalogue against what was installed: what is missing, disabled, old or in the way, each with its remedy.

`findings` looks at one instant, `changes` at two: rows that a rewrite, a DETACH or a rename took away or brought raise
no event of their own, and whoever watches declares those tables changed. Both are pure and need no privilege for what
they read; call them once a minute.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pgcachewatch_daemon.sql.capture import OPERATIONS, Capture, Operation
from pgcachewatch_daemon.sql.catalogue import FOREIGN, TABLE, Catalogue, Relation
from pgcachewatch_daemon.sql.coverage import (
    ORIGIN,
    REPLICA,
    ROW_LEVEL,
    Settings,
    captures,
    enabled_wanted,
    installed_settings,
    is_watchable_kind,
    settings_of,
)
from pgcachewatch_daemon.sql.functions import SHARED, SHARED_DIGEST, VERSION, comment_values, trigger_name
from pgcachewatch_daemon.sql.journal_tables import journal_problem

DISABLED = "D"
REPAIR = "pgcachewatch install --repair --commit"
FUNCTION_NAME = re.compile(r"t_(\d+)_(insert|update|delete|truncate|row)")

Kind = Literal[
    "not_covered",  # a partition or relative of a watched table has none of our triggers
    "trigger_missing",
    "trigger_disabled",
    "not_always",  # writes under session_replication_role = replica raise no event
    "not_applied",  # writes that a subscription applies raise no event
    "old_version",
    "key_changed",
    "restored",  # the function is named for another table: this is a restored dump
    "orphaned",  # the function's table is gone
    "replaced",  # and another one has its name, which nobody watches
    "journal_broken",  # writes to tables in journal mode can not be recorded, or not be understood
]


KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it ought to be. `table` as it can be typed; empty when it concerns none."""

    kind: Kind
    table: str
    detail: str
    remedy: str = REPAIR
    oid: int = 0

    @property
    def may_lose_events(self) -> bool:
        """True when writes to the table may raise no event, or one that says too little."""
        return self.kind not in ("restored", "orphaned", "old_version")


@dataclass(frozen=True, slots=True)
class Change:
    """A table whose rows may have changed without an event, by its names before and after."""

    schema: str
    name: str
    reason: str


def findings(catalogue: Catalogue) -> list[Finding]:
    """All that is wrong with what is installed, by table. Empty when nothing is, or nothing is installed."""
    found = [finding for family in watched_families(catalogue) for finding in _family(catalogue, family)]
    return [*found, *_functions(catalogue), *_journal(catalogue)]


def watched_families(catalogue: Catalogue) -> list[list[Relation]]:
    """Each family that has a trigger of ours, or had: a function that is still there names its table."""
    families: list[list[Relation]] = []
    found: set[int] = set()
    for oid in sorted(_watched(catalogue)):
        if oid not in found:
            families.append(catalogue.family(oid))
            found.update(member.oid for member in families[-1])
    return families


def family_settings(catalogue: Catalogue, family: Sequence[Relation]) -> Settings:
    """What was asked for when the family was installed."""
    for member in sorted(family, key=lambda one: (one.is_partition, one.oid)):
        settings = installed_settings(catalogue, member)
        if settings is not None:
            return settings
    # Its triggers are gone, with ALTER TABLE or by hand: the functions still say how it was watched.
    names = [f"t_{member.oid}_{operation}" for member in family for operation in OPERATIONS]
    left = [name for name in names if name in catalogue.functions]
    wrong = misnamed(catalogue) if left else set()
    for name in left:
        if name not in wrong:
            return settings_of(catalogue.functions[name])
    oids = {member.oid for member in family}
    for name, relation in replaced(catalogue).items():
        if relation.oid in oids:
            return settings_of(catalogue.functions[name])
    return Settings()


def replaced(catalogue: Catalogue) -> dict[str, Relation]:
    """Functions whose table is gone while another one has its name and is not watched, with that one.

    `DROP TABLE` and `CREATE TABLE` in a migration are enough: the triggers went with the table.
    """
    watched = {member.oid for family in watched_families(catalogue) for member in family}
    bare = {
        one.display: one for one in catalogue.relations.values() if is_watchable_kind(one) and one.oid not in watched
    }
    wrong = misnamed(catalogue)
    found: dict[str, Relation] = {}
    for name, function in catalogue.functions.items():
        oid, table = function_table(name), function.settings.get("table")
        if oid and name not in wrong and not is_there(catalogue, oid) and isinstance(table, str) and table in bare:
            found[name] = bare[table]
    return found


def misnamed(catalogue: Catalogue) -> set[str]:
    """Functions that serve a table other than the one they are named for: their database is a restored dump."""
    return {
        trigger.function
        for relation in catalogue.relations.values()
        for trigger in relation.triggers.values()
        if trigger.function is not None and function_table(trigger.function) != relation.oid
    }


def function_table(name: str) -> int:
    """The OID of the table that a function is named for; 0 for none.

    >>> function_table("t_16402_update"), function_table("send")
    (16402, 0)
    """
    match = FUNCTION_NAME.fullmatch(name)
    return int(match[1]) if match else 0


def changes(before: Catalogue, after: Catalogue) -> list[Change]:
    """Tables whose rows may have changed without an event between two looks at the catalogue.

    A new file is what a rewrite, TRUNCATE, VACUUM FULL or REFRESH leaves; too many of them only cost fills. REFRESH
    CONCURRENTLY leaves the file and is seen in the statistics, a second or so after its commit. Triggers that were off
    for a moment, as a bulk load likes them, have another stamp.
    """
    found: dict[Change, None] = {}
    for oid in before.relations.keys() | after.relations.keys():
        old, new = before.relations.get(oid), after.relations.get(oid)
        for reason in _reasons(old, new):
            for catalogue, relation in ((before, old), (after, new)):
                for reader in catalogue.readers(relation.oid) if relation is not None else ():
                    found[Change(reader.schema, reader.name, reason)] = None
    return sorted(found, key=lambda change: (change.schema, change.name, change.reason))


def _reasons(old: Relation | None, new: Relation | None) -> Iterator[str]:
    if old is None or new is None:
        one = old or new
        if one is not None and (old is not None or one.parents):
            yield "dropped" if new is None else "attached"
        return
    if old.filenode != new.filenode:
        yield "rewritten"
    if old.refreshed != new.refreshed:
        yield "refreshed"
    if old.parents != new.parents:
        yield "attached or detached"
    if (old.schema, old.name) != (new.schema, new.name):
        yield "renamed"
    if _stamps(old) != _stamps(new):
        yield "its triggers were changed"


def _stamps(relation: Relation) -> set[str]:
    return {trigger.stamp for trigger in relation.triggers.values()}


def _watched(catalogue: Catalogue) -> set[int]:
    with_triggers = {
        relation.oid
        for relation in catalogue.relations.values()
        if any(trigger.function is not None for trigger in relation.triggers.values())
    }
    wrong = misnamed(catalogue)
    named = {function_table(name) for name in catalogue.functions if name not in wrong}
    return with_triggers | (named & catalogue.relations.keys())


def _family(catalogue: Catalogue, family: Sequence[Relation]) -> Iterator[Finding]:
    wanted = captures(catalogue, family, family_settings(catalogue, family), default_channel="")
    for member in family:
        if member.oid in wanted:
            yield from _relation(catalogue, member, wanted[member.oid])
        elif member.kind == FOREIGN:
            detail = "a foreign table in a watched family: what is written to it directly raises no event"
            yield Finding("not_covered", member.display, detail, "write through the family's other tables", member.oid)


def _relation(catalogue: Catalogue, relation: Relation, capture: Capture) -> Iterator[Finding]:
    states = dict(enabled_wanted(relation))
    ours = {name: one for name, one in relation.triggers.items() if one.function is not None}
    if not ours:
        yield Finding("not_covered", relation.display, "it has none of the triggers", oid=relation.oid)
        return
    is_applied = relation.is_replicated and relation.kind == TABLE
    if is_applied and trigger_name(ROW_LEVEL) in ours:
        states[ROW_LEVEL] = frozenset({REPLICA})  # whoever looks: its owner made it
    for operation, allowed in states.items():
        name = trigger_name(operation)
        trigger = ours.get(name)
        if trigger is None or trigger.has_transition != has_transition(capture, operation):
            yield Finding("trigger_missing", relation.display, f"trigger {name} is not there", oid=relation.oid)
        elif trigger.enabled not in allowed:
            yield _wrong_state(relation, operation, trigger.enabled)
        elif trigger.function is not None:
            yield from _function(catalogue, relation, capture, operation, trigger.function)
    if is_applied and ROW_LEVEL not in states:
        detail, remedy = "a subscription writes to it, which fires only triggers that its owner can make", "install as"
        yield Finding("not_applied", relation.display, detail, f"{remedy} the table's owner", relation.oid)


def has_transition(capture: Capture, operation: Operation) -> bool:
    """True for a trigger that has transition tables."""
    return capture.has_transition and operation in ("insert", "update", "delete")


def _wrong_state(relation: Relation, operation: Operation, state: str) -> Finding:
    name = trigger_name(operation)
    if operation == ROW_LEVEL and state != DISABLED:
        detail = f"trigger {name} fires for ordinary writes too, which other triggers tell"
        return Finding("old_version", relation.display, detail, oid=relation.oid)
    if state == ORIGIN:
        detail = f"trigger {name} does not fire under session_replication_role = replica"
        return Finding("not_always", relation.display, detail, oid=relation.oid)
    how = "is disabled" if state == DISABLED else "does not fire for ordinary writes"
    return Finding("trigger_disabled", relation.display, f"trigger {name} {how}", oid=relation.oid)


def _function(
    catalogue: Catalogue, relation: Relation, capture: Capture, operation: Operation, name: str
) -> Iterator[Finding]:
    settings = catalogue.functions[name].settings if name in catalogue.functions else {}
    expected = comment_values(capture, operation)
    if function_table(name) != relation.oid:
        yield Finding("restored", relation.display, f"function {name} was made for another table", oid=relation.oid)
    elif settings.get("v") != VERSION:
        detail = f"function {name} is of version {settings.get('v')}, not {VERSION}"
        yield Finding("old_version", relation.display, detail, oid=relation.oid)
    elif settings.get("key") != expected["key"]:
        yield Finding("key_changed", relation.display, "its key is not the one it was installed with", oid=relation.oid)
    elif settings.get("body") != expected["body"]:
        detail = f"function {name} is for another shape of the table, or was generated by another release"
        yield Finding("old_version", relation.display, detail, oid=relation.oid)


def _functions(catalogue: Catalogue) -> Iterator[Finding]:
    wrong = misnamed(catalogue)
    successors = replaced(catalogue)
    for relation in dict.fromkeys(one.oid for one in successors.values()):
        display = catalogue.relations[relation].display
        detail = "it took the place of a watched table, and has none of the triggers"
        yield Finding("replaced", display, detail, oid=relation)
    for name in catalogue.functions:
        oid = function_table(name)
        if oid and name not in wrong and name not in successors and not is_there(catalogue, oid):
            yield Finding("orphaned", "", f"function {name} belongs to no table", oid=oid)
    for name in SHARED if catalogue.functions else ():
        function = catalogue.functions.get(name)
        if function is None or function.settings.get("body") != SHARED_DIGEST:
            yield Finding("old_version", "", f"function {name} is not of version {VERSION}")


def _journal(catalogue: Catalogue) -> Iterator[Finding]:
    functions = [one for one in catalogue.functions.values() if settings_of(one).mode == "journal"]
    if not functions:
        return
    shapes = catalogue.journal.shapes
    problem = journal_problem(catalogue.journal)
    if not problem and shapes is not None and any(one.settings.get("shape") not in shapes for one in functions):
        problem = "a shape that rows of the journal speak of is missing"
    if problem:
        yield Finding("journal_broken", "", problem)


def is_there(catalogue: Catalogue, oid: int) -> bool:
    return oid in catalogue.relations and is_watchable_kind(catalogue.relations[oid])
