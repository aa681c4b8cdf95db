"""What a table's capture ought to be, and which tables can have one at all.

A family (a partition tree, or tables joined by inheritance) is covered as a whole, because a write to one of its
members may change rows that are read through another. Pure: from a catalogue to plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pgcachewatch_daemon.sql.capture import (
    DEFAULT_MAX_KEYS,
    MODES,
    OPERATIONS,
    WAKES,
    Capture,
    Mode,
    Operation,
    Wake,
)
from pgcachewatch_daemon.sql.catalogue import (
    FOREIGN,
    MATERIALIZED_VIEW,
    PARTITIONED,
    TABLE,
    VIEW,
    Catalogue,
    Function,
    Relation,
)
from pgcachewatch_daemon.sql.keytext import Column
from pgcachewatch_daemon.sql.shapes import Shape, shape_id

ORIGIN, ALWAYS, REPLICA = "O", "A", "R"
ROW_LEVEL: Operation = "row"

UNWATCHABLE = {
    VIEW: "a view has no rows of its own: watch the tables it reads",
    MATERIALIZED_VIEW: "a materialized view can not have triggers, so REFRESH raises no event: watch what it reads",
    FOREIGN: "a foreign table's rows are written elsewhere, where no trigger of this database sees it",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What somebody asked for. None: what the table has already, else the default."""

    channel: str | None = None
    columns: tuple[str, ...] | None = None
    max_keys: int | None = None
    mode: Mode | None = None
    wake: Wake | None = None
    is_fail_open: bool | None = None

    def over(self, kept: Settings) -> Settings:
        """These where they say something, else `kept`."""
        return Settings(
            channel=self.channel or kept.channel,
            columns=kept.columns if self.columns is None else self.columns,
            max_keys=self.max_keys or kept.max_keys,
            mode=self.mode or kept.mode,
            wake=self.wake or kept.wake,
            is_fail_open=kept.is_fail_open if self.is_fail_open is None else self.is_fail_open,
        )


def problem_with(relation: Relation) -> str:
    """Why a relation can not be watched; empty when it can."""
    if relation.kind in UNWATCHABLE:
        return UNWATCHABLE[relation.kind]
    if not (relation.is_owned or relation.may_trigger):
        return "neither owned by this role nor with the TRIGGER privilege for it"
    return ""


def is_watchable_kind(relation: Relation) -> bool:
    return relation.kind in (TABLE, PARTITIONED)


def installed_settings(catalogue: Catalogue, relation: Relation) -> Settings | None:
    """What the functions on this relation's triggers say; None when it has none of ours."""
    for operation in (*OPERATIONS, ROW_LEVEL):
        for trigger in relation.triggers.values():
            if trigger.function is None or not trigger.function.endswith(f"_{operation}"):
                continue
            return settings_of(catalogue.functions.get(trigger.function))
    return None


def settings_of(function: Function | None) -> Settings:
    """What a function's comment says; anything may stand in it."""
    said = function.settings if function else {}
    columns, max_keys, is_fail_open = said.get("columns"), said.get("max_keys"), said.get("is_fail_open")
    return Settings(
        channel=said["channel"] if isinstance(said.get("channel"), str) else None,
        columns=tuple(map(str, columns)) if isinstance(columns, list) else None,
        max_keys=max_keys if isinstance(max_keys, int) else None,
        mode=next((mode for mode in MODES if mode == said.get("mode")), None),
        wake=next((wake for wake in WAKES if wake == said.get("wake")), None),
        is_fail_open=is_fail_open if isinstance(is_fail_open, bool) else None,
    )


def key_of(catalogue: Catalogue, relation: Relation) -> tuple[tuple[Column, ...], str]:
    """The columns of a table's key, or none and the reason why its events are table-wide."""
    root = catalogue.root(relation)
    if not root.key:
        return (), "no primary key, and no unique index on NOT NULL columns"
    for column in root.key:
        if not column.has_text:
            return (), f"key {column.problem}"
    return root.key, ""


def captures(
    catalogue: Catalogue, family: Sequence[Relation], settings: Settings, *, default_channel: str
) -> dict[int, Capture]:
    """The capture of each member that can have one, by OID."""
    has_transition = all(member.kind != FOREIGN for member in family)
    related = _related(family)
    wanted: dict[int, Capture] = {}
    for member in filter(is_watchable_kind, family):
        names = settings.columns or ()
        capture = Capture(
            oid=member.oid,
            channel=settings.channel or default_channel,
            key=key_of(catalogue, member)[0],
            columns=tuple(member.columns[name] for name in names if _can_carry(member.columns, name)),
            max_keys=settings.max_keys or DEFAULT_MAX_KEYS,
            is_partition=member.is_partition,
            has_relatives=member.oid in related,
            has_transition=has_transition,
            table=member.display,
        )
        if settings.mode == "journal":
            capture = replace(
                capture,
                mode="journal",
                shape_id=shape_id(shape_of(catalogue, capture), catalogue.journal.shapes or {}),
                wake=settings.wake or "gated",
                is_fail_open=settings.is_fail_open or False,
            )
        wanted[member.oid] = capture
    return wanted


def shape_of(catalogue: Catalogue, capture: Capture) -> Shape:
    """What the keys of a capture's rows are made of. Its events name the root of a partition, and so does this."""
    root = catalogue.root(catalogue.relations[capture.oid])
    names = tuple(column.name for column in capture.key) if capture.has_keys else ()
    further = tuple(column.name for column in capture.columns) if capture.has_keys else ()
    return Shape(capture.channel, names, further, root.schema, root.name)


def _can_carry(columns: Mapping[str, Column], name: str) -> bool:
    return name in columns and columns[name].has_text


def _related(family: Sequence[Relation]) -> set[int]:
    """Those joined to another by inheritance; a partition's rows are its root's, and it needs no further event."""
    related: set[int] = set()
    for member in family:
        if not member.is_partition and member.parents:
            related |= {member.oid, *member.parents}
    return related


def enabled_wanted(relation: Relation) -> dict[Operation, frozenset[str]]:
    """Which triggers a relation ought to have, and in which states they are right; the first choice is `firing_of`.

    ALWAYS also fires under session_replication_role = replica, and needs ownership. What a subscription applies fires
    no statement triggers for rows, ALWAYS or not; so its tables have row triggers for that, and statement triggers
    for everybody else.
    """
    is_applied = relation.is_replicated and relation.kind == TABLE and relation.is_owned
    usual = frozenset({ORIGIN, ALWAYS}) if is_applied or not relation.is_owned else frozenset({ALWAYS})
    wanted: dict[Operation, frozenset[str]] = dict.fromkeys(OPERATIONS, usual)
    if is_applied:
        wanted["truncate"] = frozenset({ALWAYS})
        wanted[ROW_LEVEL] = frozenset({REPLICA})
    return wanted


def firing_of(relation: Relation, operation: Operation) -> str:
    """The state that `install` gives a trigger."""
    states = enabled_wanted(relation)[operation]
    return ORIGIN if ORIGIN in states else next(iter(states))
