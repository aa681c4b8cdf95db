"""Workers are sent a catalogue once, and whoever comes later is given the last one."""

from __future__ import annotations

import pickle
from typing import cast

from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.sql.assessment import Assessment
from pgcachewatch_daemon.sql.catalogue import Catalogue
from pgcachewatch_daemon.workers.looks import Looks
from pgcachewatch_daemon.workers.messages import Looked
from tests.daemon.sql.catalogues import empty, table

ONE = empty([table(1, "users")])
OTHER = empty([table(1, "users"), table(2, "orders")])


class Inspected:
    """An inspection that finds nothing, and the order in which it and the workers were told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def assess(self, catalogue: Catalogue) -> Assessment:
        return Assessment(catalogue, retyped=frozenset({"users"}))

    def tell(self, assessment: Assessment, began_s: float) -> None:
        self.told.append((assessment.catalogue, began_s))


def looks_at(*catalogues: Catalogue) -> tuple[Looks, list[object]]:
    """One look at each, a second apart."""
    inspected = Inspected()
    looks = Looks(cast(Inspection, inspected), inspected.told.append)
    for began_s, catalogue in enumerate(catalogues, start=1):
        looks.tell(looks.judge(catalogue), float(began_s))
    return looks, inspected.told


def test_the_inspection_hears_of_a_look_before_workers_do() -> None:
    _, told = looks_at(ONE)
    assert told == [(ONE, 1.0), Looked(1.0, pickle.dumps(ONE, pickle.HIGHEST_PROTOCOL), frozenset({"users"}))]


def test_a_catalogue_that_has_not_changed_is_not_sent_again() -> None:
    looks, told = looks_at(ONE, ONE, OTHER)
    assert [pickle.loads(each.catalogue or b"N.") for each in told if isinstance(each, Looked)] == [ONE, None, OTHER]
    assert looks.began_s == 3.0


def test_whoever_comes_after_a_look_that_changed_nothing_is_given_the_whole_catalogue() -> None:
    looks, _ = looks_at(ONE, ONE)
    assert pickle.loads(looks.pickled) == ONE


def test_before_the_first_look_there_is_no_catalogue() -> None:
    looks, _ = looks_at()
    assert (looks.pickled, looks.began_s) == (b"", 0.0)
