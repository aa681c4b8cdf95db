"""Values for people: nothing of a secret is left."""

from __future__ import annotations

import pydantic
import pytest

from pgcachewatch_daemon.showing import shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(8420, "8420"), (0.5, "0.5"), (True, "true"), (False, "false"), (None, "not set"), (("a", "b"), "a,b"), ("", "")],
)
def test_a_value_is_shown_as_it_would_be_given(value: object, text: str) -> None:
    assert shown("option", value) == text


def test_a_dsn_says_who_and_where() -> None:
    value = pydantic.SecretStr("postgresql://u:hunter2@h:5/d")
    assert shown("listen_dsn", value) == "postgresql://u:***@h:5/d"


def test_an_address_is_shown_without_the_password_in_it() -> None:
    assert shown("jwt_jwks_url", "https://u:hunter2@h/keys") == "https://u:***@h/keys"


def test_nothing_is_left_of_another_secret() -> None:
    assert shown("jwt_secret", pydantic.SecretStr("hunter2")) == "***"
