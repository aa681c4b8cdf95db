"""A table is in doubt while something is wrong, once more afterwards, and when its rows moved without a write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pgcachewatch_daemon.sql.assessment import DOUBTS, Assessment, Doubt, assess
from pgcachewatch_daemon.sql.catalogue import PARTITIONED, Catalogue
from pgcachewatch_daemon.sql.keytext import Column
from tests.daemon.sql.catalogues import CHANNEL, changed, empty, installed, table

TREE = [
    table(1, "root", kind=PARTITIONED),
    table(2, "leaf", parents=(1,), is_partition=True),
    table(3, "plain"),
]
RIGHT = installed(TREE)


def disabled(oid: int, name: str = "zz_pgcachewatch_update") -> Catalogue:
    triggers = RIGHT.relations[oid].triggers
    return changed(RIGHT, oid, triggers={**triggers, name: replace(triggers[name], enabled="D")})


def doubted(assessment: Assessment) -> set[str]:
    return {doubt.table for doubt in assessment.doubts}


def test_what_is_right_puts_nothing_in_doubt_and_is_not_judged_twice() -> None:
    first = assess(None, RIGHT)
    again = assess(first, Catalogue(dict(RIGHT.relations), dict(RIGHT.functions)))

    assert (first.findings, first.doubts, again.doubts, again.retyped) == ((), (), (), frozenset())
    assert again.findings is first.findings


def test_a_fault_is_in_doubt_at_each_look_and_once_more_when_it_is_over() -> None:
    looks = [assess(None, disabled(3))]
    for catalogue in (disabled(3), RIGHT, RIGHT):
        looks.append(assess(looks[-1], catalogue))

    assert [doubted(look) for look in looks] == [{"plain"}, {"plain"}, {"plain"}, set()]
    assert [len(look.appeared) for look in looks] == [1, 0, 0, 0]
    assert [len(look.gone) for look in looks] == [0, 0, 1, 0]
    assert looks[2].doubts == (
        Doubt("public", "plain", CHANNEL, "until now trigger zz_pgcachewatch_update is disabled"),
    )


def test_a_partition_is_in_doubt_under_the_name_it_is_read_by() -> None:
    assert doubted(assess(None, disabled(2))) == {"root"}


def test_a_child_is_in_doubt_with_all_that_inheritance_joins_to_it() -> None:
    family = [table(1, "parent"), table(2, "child", parents=(1,))]
    was = installed(family)

    assert doubted(assess(None, changed(was, 2, triggers={}))) == {"parent", "child"}


@pytest.mark.parametrize(
    "catalogue",
    [
        replace(RIGHT, relations={1: RIGHT.relations[1], 2: RIGHT.relations[2]}),
        replace(
            RIGHT, functions={**RIGHT.functions, "t_3_update": replace(RIGHT.functions["t_3_update"], settings={})}
        ),
    ],
)
def test_what_loses_no_events_is_a_finding_without_a_doubt_of_its_own(catalogue: Catalogue) -> None:
    first = assess(None, catalogue)

    assert first.findings
    assert first.doubts == ()


def test_rows_that_moved_without_a_write_put_their_table_in_doubt() -> None:
    before = assess(None, RIGHT)
    rewritten, dropped = changed(RIGHT, 3, filenode=7), replace(RIGHT, relations={3: RIGHT.relations[3]})

    assert assess(before, rewritten).doubts == (Doubt("public", "plain", CHANNEL, "rewritten"),)
    assert {"root"} <= doubted(assess(before, dropped))


def test_a_table_nobody_watches_is_in_doubt_too_and_has_no_channel() -> None:
    bare = empty(TREE)

    assert assess(assess(None, bare), changed(bare, 3, filenode=7)).doubts == (
        Doubt("public", "plain", None, "rewritten"),
    )


@pytest.mark.parametrize(("count", "is_everything"), [(DOUBTS, False), (DOUBTS + 1, True)])
def test_too_many_tables_in_doubt_are_everything(count: int, *, is_everything: bool) -> None:
    bare = empty([table(oid, f"t{oid}") for oid in range(1, count + 1)])
    moved = Catalogue({oid: replace(one, filenode=1) for oid, one in bare.relations.items()}, {}, has_schema=False)

    look = assess(assess(None, bare), moved)

    assert (look.is_everything, len(look.doubts)) == (is_everything, 0 if is_everything else count)


def test_events_of_a_table_are_distrusted_while_its_triggers_are_for_other_columns() -> None:
    column = Column("id", "timestamptz")
    look = assess(None, changed(RIGHT, 3, key=(column,), columns={"id": column}))

    assert look.distrusted == {("public", "plain")}
    assert assess(look, RIGHT).distrusted == frozenset()


def test_a_table_whose_columns_are_not_what_they_were_is_named() -> None:
    before = assess(None, RIGHT)
    column = Column("id", "text")

    assert assess(before, changed(RIGHT, 3, key=(column,), columns={"id": column})).retyped == {"plain"}
    new = replace(RIGHT, relations={**RIGHT.relations, 9: table(9, "new")})
    assert assess(before, new).retyped == {"new"}
