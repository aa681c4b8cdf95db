"""Places within pages, and what a consumer is for."""

from __future__ import annotations

from pgcachewatch.models import Gap, Scope
from pgcachewatch.protocol.messages import Want
from pgcachewatch_daemon.core.pages import Filter, Page, Place

START = Place("e", "10:10:")


def test_a_page_that_was_cut_ends_at_its_last_row_and_a_whole_one_at_its_snapshot() -> None:
    assert Page((), START, "20:20:", 7).end == Place("e", "10:10:", "20:20:", 7)
    assert Page((), START, "20:20:").end == Place("e", "20:20:")


def test_a_filter_takes_what_it_names() -> None:
    wanted = Filter((Want(channel="c", table="t"), Want(channel="c", table="u", schema_name="s")), frozenset("iu"))
    assert wanted.wants_row("c", "any", "t", "i")
    assert wanted.wants_row("c", "s", "u", "u")
    assert not wanted.wants_row("c", "other", "u", "u")
    assert not wanted.wants_row("d", "any", "t", "i")
    assert not wanted.wants_row("c", "any", "t", "d")


def test_a_gap_that_names_less_may_concern_it() -> None:
    wanted = Filter((Want(channel="c", table="t"),))
    assert wanted.may_want(Gap(Scope(), "pruned"))
    assert wanted.may_want(Gap(Scope(table="t"), "table_wide"))
    assert not wanted.may_want(Gap(Scope(table="u"), "table_wide"))
