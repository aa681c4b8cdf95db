"""The state tables are complete, and say what their theory says."""

from __future__ import annotations

import itertools
import typing

import pytest

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.transitions import (
    CLIENT_ACCEPTS,
    RELAY_ACCEPTS,
    TRUST,
    ClientState,
    CloseClass,
    RelayState,
    Trust,
    TrustInput,
    close_class,
)


def test_every_state_has_a_row_and_every_message_a_place() -> None:
    assert set(RELAY_ACCEPTS) == set(RelayState)
    assert set(CLIENT_ACCEPTS) == set(ClientState)
    assert {kind for row in RELAY_ACCEPTS.values() for kind in row} == set(typing.get_args(messages.ClientMessage))
    assert {kind for row in CLIENT_ACCEPTS.values() for kind in row} == set(typing.get_args(messages.RelayMessage))


def test_nothing_is_accepted_after_the_end() -> None:
    assert not RELAY_ACCEPTS[RelayState.CLOSED]
    assert not CLIENT_ACCEPTS[ClientState.CLOSED]


def test_trust_is_defined_for_everything_that_can_happen() -> None:
    assert set(TRUST) == set(itertools.product(Trust, TrustInput))


@pytest.mark.rule("W-LEASE-3")
def test_only_a_proof_makes_live() -> None:
    into_live = {happened for (_, happened), then in TRUST.items() if then is Trust.LIVE}
    assert into_live == {TrustInput.PROVEN}


@pytest.mark.rule("W-CLOSE-1")
@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (4000, CloseClass.RESUME_NOW),
        (4099, CloseClass.RESUME_NOW),
        (4104, CloseClass.BACK_OFF),
        (4201, CloseClass.NEW_TOKEN),
        (4399, CloseClass.STOP),
        (4400, CloseClass.BACK_OFF),
        (1006, CloseClass.BACK_OFF),
        (1012, CloseClass.BACK_OFF),
    ],
)
def test_an_unknown_code_is_acted_on_by_its_class(code: int, meaning: CloseClass) -> None:
    assert close_class(code) is meaning
