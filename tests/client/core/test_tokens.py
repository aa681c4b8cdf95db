"""Tokens of transactions, and the text by which they travel."""

from __future__ import annotations

import pytest

from pgcachewatch.core.tokens import BarrierToken
from pgcachewatch.errors import ConfigurationError

NONCE = "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize("epoch", ["", "0123456789abcdef"])
def test_a_token_survives_its_text(epoch: str) -> None:
    token = BarrierToken(NONCE, epoch)

    assert BarrierToken.parse(str(token)) == token


def test_the_statement_notifies_the_nonce_alone() -> None:
    assert BarrierToken(NONCE, "0123456789abcdef").statement == f"NOTIFY pgcachewatch_token, '{NONCE}'"


@pytest.mark.parametrize("text", ["", NONCE, f"{NONCE}.x", f"{NONCE[1:]}.", f"{NONCE}'; --.", "é" * 33])
def test_what_is_no_token_is_refused_with_what_to_give(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"client\.token"):
        BarrierToken.parse(text)
