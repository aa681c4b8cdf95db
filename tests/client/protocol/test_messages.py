"""The models agree with the table in PROTOCOL.md, field by field."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

import pgcachewatch.protocol
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import TokenOffered

SPECIFICATION = Path(pgcachewatch.protocol.__path__[0]) / "PROTOCOL.md"
ROW = re.compile(r"^\| `(?P<type>[a-z]+)` \| (?P<fields>[^|]*) \|", re.MULTILINE)


def documented_fields() -> dict[str, set[str]]:
    """Message type -> names of its fields, as the two tables list them (without the parts in brackets and braces)."""
    rows: dict[str, set[str]] = {}
    for row in ROW.finditer(SPECIFICATION.read_text()):
        flat = re.sub(r"\[[^\]]*\]|\{.*?\}", "", row["fields"])
        rows[row["type"]] = set(re.findall(r"`([a-z_]+)`", flat))
    return rows


def modelled_fields() -> dict[str, set[str]]:
    kinds = (*typing.get_args(messages.ClientMessage), *typing.get_args(messages.RelayMessage))
    return {
        kind.model_fields["t"].default: {
            field.alias or name for name, field in kind.model_fields.items() if name != "t"
        }
        for kind in kinds
    }


def test_the_specification_lists_each_message_with_its_fields() -> None:
    assert documented_fields() == modelled_fields()


@pytest.mark.rule("W-LIMIT-1")
@pytest.mark.rule("W-LIMIT-2")
@pytest.mark.rule("W-LIMIT-3")
@pytest.mark.rule("W-LIMIT-4")
@pytest.mark.rule("W-LIMIT-5")
def test_the_specification_lists_each_limit_with_its_value() -> None:
    rows = re.findall(r"^\| \*\*W-LIMIT-\d\*\* \| [^|]+ \| ([\d,]+)", SPECIFICATION.read_text(), re.MULTILINE)
    assert [int(value.replace(",", "")) for value in rows] == [
        messages.CLIENT_FRAME_BYTES,
        messages.RELAY_FRAME_BYTES,
        messages.SUBSCRIPTIONS_PER_CONNECTION,
        messages.KEY_BYTES,
        messages.HELLO_TIMEOUT_S,
    ]


def test_a_token_is_no_part_of_what_a_message_looks_like() -> None:
    said = [messages.Hello(token="s3cret"), messages.Auth(token="s3cret"), TokenOffered("s3cret")]
    assert "s3cret" not in repr(said)
