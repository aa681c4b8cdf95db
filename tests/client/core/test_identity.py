"""Tokens: one for each living object, and never one that was given to another."""

from __future__ import annotations

import gc

import pytest

from pgcachewatch.core.identity import Identities, Token


class Thing:
    """Equal to every other Thing, and not hashable: tokens must not care."""

    __hash__ = None  # type: ignore[assignment]  # as a class with __eq__ and no __hash__ has it

    def __eq__(self, other: object) -> bool:
        return True


def test_an_object_has_one_token_and_shares_it_with_nobody() -> None:
    identities, first, second = Identities(), Thing(), Thing()

    assert identities.token(first) is identities.token(first)
    assert identities.token(first) is not identities.token(second)


def test_a_token_is_not_known_before_it_was_given() -> None:
    identities, thing = Identities(), Thing()

    assert identities.known(thing) is None
    assert identities.token(thing) is identities.known(thing)


def test_no_token_outlives_its_object_and_none_is_given_twice() -> None:
    identities = Identities()
    given: set[Token] = set()
    for _ in range(200):
        thing = Thing()
        token = identities.token(thing)
        assert token not in given
        given.add(token)
        del thing
        gc.collect(0)

    assert len(identities) == 0


@pytest.mark.parametrize("value", [5, "text", (1,), None])
def test_what_can_not_be_referred_to_weakly_has_no_token(value: object) -> None:
    assert not Identities.can_hold(value)
    with pytest.raises(TypeError):
        Identities().token(value)
