"""Catalogues as a database would tell them, for tests of what is pure: tables installed right, and then changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pgcachewatch_daemon.sql.catalogue import Catalogue, Function, Journal, Relation, Trigger
from pgcachewatch_daemon.sql.coverage import Settings, captures, enabled_wanted, firing_of, shape_of
from pgcachewatch_daemon.sql.drift import has_transition
from pgcachewatch_daemon.sql.functions import SHARED, SHARED_DIGEST, VERSION, comment_values, trigger_name
from pgcachewatch_daemon.sql.journal_tables import GUARD, JOURNAL_DIGEST, TABLES
from pgcachewatch_daemon.sql.keytext import Column
from pgcachewatch_daemon.sql.shapes import Shape

CHANNEL = "ch"
ID = Column("id", "int8")


def table(oid: int, name: str, **changes: object) -> Relation:
    relation = Relation(oid, "public", name, key=(ID,), columns={"id": ID})
    return replace(relation, **changes)  # type: ignore[arg-type]  # the fields have as many types


def empty(relations: Iterable[Relation]) -> Catalogue:
    """Nothing installed."""
    return Catalogue({one.oid: one for one in relations}, {}, has_schema=False)


def installed(relations: Iterable[Relation], settings: Settings | None = None) -> Catalogue:
    """Everything installed, as `install` leaves it."""
    bare = empty(relations)
    functions = {name: Function(name, {"v": VERSION, "body": SHARED_DIGEST}) for name in SHARED}
    covered: dict[int, Relation] = {}
    shapes: dict[int, Shape] = {}
    for relation in bare.relations.values():
        capture = captures(bare, bare.family(relation.oid), settings or Settings(), default_channel=CHANNEL).get(
            relation.oid
        )
        if capture is not None and capture.mode == "journal":
            shapes[capture.shape_id] = shape_of(bare, capture)
        triggers: dict[str, Trigger] = {}
        for operation in enabled_wanted(relation) if capture else ():
            assert capture is not None
            function = capture.function_name(operation)
            functions[function] = Function(function, comment_values(capture, operation))
            state, name = firing_of(relation, operation), trigger_name(operation)
            triggers[name] = Trigger(name, state, has_transition(capture, operation), function)
        covered[relation.oid] = replace(relation, triggers=triggers)
    if not shapes:
        return Catalogue(covered, functions)
    functions[GUARD] = Function(GUARD, {})
    return Catalogue(covered, functions, journal=Journal(frozenset(TABLES), JOURNAL_DIGEST, shapes=shapes))


def changed(catalogue: Catalogue, oid: int, **changes: object) -> Catalogue:
    """The same with one relation changed."""
    relation = replace(catalogue.relations[oid], **changes)  # type: ignore[arg-type]  # as above
    return replace(catalogue, relations={**catalogue.relations, oid: relation})
