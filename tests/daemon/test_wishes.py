"""A wish is judged by the token first, and the answer names nothing that the token hides."""

from __future__ import annotations

import pytest

from pgcachewatch.protocol.messages import Err
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon import wishes
from pgcachewatch_daemon.core.access import ANYBODY, Forbidden, Grant
from pgcachewatch_daemon.core.granted import Answer, Granted
from pgcachewatch_daemon.sql.catalogue import Catalogue
from tests.daemon.sql.catalogues import CHANNEL, installed, table
from tests.daemon.test_inspection import Stage

TABLES = installed(
    [
        table(1, "a_orders"),
        table(2, "b_orders"),
        table(3, "b_order"),
        table(4, "b_all", kind="p"),
        table(5, "a_part", parents=(4,), is_partition=True),
    ]
)
GRANT = Grant("a", tables=("a_*",))


def judged(subscription: Subscription, grant: Grant = GRANT, catalogue: Catalogue = TABLES) -> Answer:
    stage = Stage()
    stage.look(catalogue)
    stage.look(catalogue)
    wishes.judge(subscription, grant, stage.inspection)  # a table that is not known is looked for once
    stage.look(catalogue)
    return wishes.judge(subscription, grant, stage.inspection)


def text(answer: Answer) -> str:
    return answer.message if isinstance(answer, Err) else answer.notice or ""


def wish(name: str, *columns: str) -> Subscription:
    return Subscription(1, 7, CHANNEL, table=name, columns=columns or None)


def test_what_is_allowed_is_answered_by_what_is_known_of_the_table() -> None:
    answer = judged(wish("a_orders", "id"))

    assert isinstance(answer, Granted)
    assert answer.types == ("int8",)


def test_what_is_not_allowed_is_answered_alike_whether_or_not_there_is_such_a_table() -> None:
    there, nowhere = judged(wish("b_orders", "id")), judged(wish("b_nothing", "id"))

    assert isinstance(there, Err)
    assert isinstance(nowhere, Err)
    assert (there.id, there.code, there.retry) == (nowhere.id, nowhere.code, nowhere.retry) == (7, "forbidden", False)
    assert text(there).replace("b_orders", "?") == text(nowhere).replace("b_nothing", "?")


@pytest.mark.parametrize("columns", [(), ("id",)])
def test_advice_names_only_tables_that_are_no_secret(columns: tuple[str, ...]) -> None:
    hidden = judged(wish("a_order", *columns))

    assert "a_orders" in text(hidden)
    assert "b_order" not in text(hidden)
    assert "b_order" in text(judged(wish("a_order", *columns), ANYBODY)), "there is something to hide"


@pytest.mark.parametrize("columns", [(), ("id",)])
def test_the_table_of_a_partition_is_named_to_whoever_may_know_it(columns: tuple[str, ...]) -> None:
    hidden = judged(wish("a_part", *columns))

    assert "b_all" not in text(hidden)
    assert "partition" in text(hidden)
    assert "b_all" in text(judged(wish("a_part", *columns), ANYBODY)), "there is something to hide"


def test_a_table_that_is_not_known_yet_may_be_asked_for_again() -> None:
    answer = wishes.judge(wish("a_orders", "id"), GRANT, Stage().inspection)

    assert isinstance(answer, Err)
    assert (answer.code, answer.retry) == ("not_ready", True)


def test_a_refusal_carries_the_number_of_the_request() -> None:
    assert wishes.forbidden(9, Forbidden("no")) == Err(id=9, code="forbidden", message="no")
