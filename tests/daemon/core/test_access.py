"""What a grant allows: names, modes, operations, and nothing that speaks of more than its limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol.messages import Consume, Want
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.access import ALLOWED, ANYBODY, Forbidden, Grant, check_names


def wish(table: str | None = None, schema: str | None = None, **more: Any) -> Subscription:  # Any: of Subscription
    return Subscription(1, 1, more.pop("channel", "c"), table, schema, **more)


def consume(consumer: str, *tables: str) -> Consume:
    return Consume(id=1, consumer=consumer, wants=[Want(channel="c", table=table) for table in tables])


def why(judged: object) -> str:
    assert isinstance(judged, Forbidden), "it was allowed"
    return judged.text


@pytest.mark.parametrize(
    ("pattern", "table", "schema"),
    [
        ("orders", "orders", None),
        ("orders", "orders", "shop"),
        ("shop.orders", "orders", "shop"),
        ("tenant7_*", "tenant7_orders", None),
        ("tenant7_*", "tenant7_orders", "shop"),
        ("tenant7.*", "orders", "tenant7"),
        ("shop.o*", "orders", "shop"),
        ("*", "anything", None),
    ],
)
def test_a_table_is_allowed_by_its_name_its_schema_or_how_it_begins(
    pattern: str, table: str, schema: str | None
) -> None:
    assert Grant("x", tables=(pattern,)).judge(wish(table, schema)) == ALLOWED


@pytest.mark.parametrize(
    ("pattern", "table", "schema"),
    [
        ("orders", "orders2", None),
        ("orders", "Orders", None),
        ("shop.orders", "orders", None),
        ("shop.orders", "orders", "shop2"),
        ("shop.orders", "shop.orders", None),
        ("tenant7_*", "tenant8_orders", "tenant7_x"),
        ("tenant7.*", "tenant7.orders", None),
        ("tenant7.*", "orders", "tenant77"),
        ("shop.*", "orders", None),
        ("orders", None, None),
        ("*", None, None),
        ("tenant7.*", None, "tenant7"),
    ],
)
def test_nothing_else_is(pattern: str, table: str | None, schema: str | None) -> None:
    assert why(Grant("x", tables=(pattern,)).judge(wish(table, schema)))


def test_a_refusal_says_what_is_allowed_and_that_a_schema_is_missing() -> None:
    text = why(Grant("x", tables=("shop.orders", "a", "b", "c", "d", "e")).judge(wish("orders")))

    assert text == (
        "this token does not allow table 'orders', only shop.orders, a, b, c, d and 1 more; name the schema"
    )


def test_an_empty_list_allows_nothing() -> None:
    assert why(Grant("x", tables=()).judge(wish("orders"))).endswith("only nothing")
    assert why(Grant("x", channels=()).judge(wish("orders")))
    assert why(Grant("x", modes=frozenset()).judge(wish("orders")))


def test_a_subscription_has_to_stay_within_channels_modes_and_operations() -> None:
    grant = Grant("x", channels=("app_*",), modes=frozenset({"stream"}), operations=frozenset("iu"))

    assert grant.judge(wish(channel="app_1", mode="stream", ops=frozenset("i"))) == ALLOWED
    assert "channel 'other'" in why(grant.judge(wish(channel="other", mode="stream", ops=frozenset("i"))))
    assert "mode 'invalidate'" in why(grant.judge(wish(channel="app_1", ops=frozenset("i"))))
    assert "insert, update" in why(grant.judge(wish(channel="app_1", mode="stream", ops=frozenset("id"))))
    assert "insert, update" in why(grant.judge(wish(channel="app_1", mode="stream"))), "no operations means each"


def test_the_plain_path_is_for_grants_without_a_limit_on_what_a_channel_tells() -> None:
    assert Grant("x", channels=("app",)).judge_plain("app") == ALLOWED
    assert why(Grant("x", channels=("app",)).judge_plain("other"))
    assert why(Grant("x", tables=("*",)).judge_plain("app"))
    assert why(Grant("x", operations=frozenset("i")).judge_plain("app"))
    assert why(Grant("x", modes=frozenset({"invalidate"})).judge_plain("app"))


def test_a_grant_limited_to_tables_allows_those_consumers_only_that_it_names() -> None:
    assert Grant("x").judge_consumer(consume("mailer", "orders")) == ALLOWED
    assert "consumers" in why(Grant("x", tables=("orders",)).judge_consumer(consume("mailer", "orders")))
    named = Grant("x", tables=("orders",), consumers=("mail*",))
    assert named.judge_consumer(consume("mailer", "orders")) == ALLOWED
    assert "'audit'" in why(named.judge_consumer(consume("audit", "orders")))
    assert "'users'" in why(named.judge_consumer(consume("mailer", "orders", "users")))
    assert why(Grant("x", modes=frozenset({"stream"})).judge_consumer(consume("mailer", "orders")))
    assert why(Grant("x", channels=("d",)).judge_consumer(consume("mailer", "orders")))
    assert why(Grant("x", operations=frozenset("i")).judge_consumer(consume("mailer", "orders")))


@pytest.mark.parametrize(
    "limited",
    [
        Grant("x", tables=("orders",)),
        Grant("x", channels=("of_x",)),
        Grant("x", operations=frozenset("i")),
    ],
)
def test_no_limited_grant_can_take_up_a_name_and_move_the_place_of_whoever_uses_it(limited: Grant) -> None:
    """Taken up for what the grant does allow: a consumer's place moves past all that its taker does not want."""
    wish = Consume(id=1, consumer="of_somebody_else", wants=[Want(channel="of_x", table="orders")], ops=["i"])

    assert "`consumers`" in why(limited.judge_consumer(wish))
    assert replace(limited, consumers=("of_*",)).judge_consumer(wish) == ALLOWED


def test_the_state_of_the_relay_has_to_be_granted_by_name() -> None:
    assert not Grant("x").may_see_status
    assert Grant("x", modes=frozenset({"status"})).may_see_status
    assert ANYBODY.may_see_status


def test_without_authentication_everything_is_allowed() -> None:
    assert ANYBODY.judge(wish()) == ANYBODY.judge_plain("c") == ANYBODY.judge_consumer(consume("x", "t")) == ALLOWED
    assert ANYBODY.may_name("public", "secrets")
    assert ANYBODY.is_unlimited
    assert not Grant("x", tables=("*",)).is_unlimited


def test_names_of_other_tables_are_secrets() -> None:
    grant = Grant("x", tables=("a.*", "b_*"))

    assert grant.may_name("a", "anything")
    assert grant.may_name("public", "b_1")
    assert not grant.may_name("public", "c")


@pytest.mark.parametrize("name", ["", "*x", "a*b", "*.orders", "x" * 201, "a\0b", "\ud800", "**"])
def test_a_name_that_does_not_mean_what_it_seems_to_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        check_names([name])


def test_the_names_of_one_limit_are_bounded() -> None:
    with pytest.raises(ConfigurationError, match="1001 names"):
        check_names(["x"] * 1_001)


def test_a_grant_does_not_show_how_its_token_is_found() -> None:
    assert "\\x01" not in repr(Grant("x", credential=b"\x01" * 32))
