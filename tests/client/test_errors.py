"""The exception tree is one tree, and its drawing is complete."""

from __future__ import annotations

import inspect
import re

from pgcachewatch import errors


def test_every_error_has_the_one_root_and_stands_in_the_drawing() -> None:
    defined = {
        name for name, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__
    }
    assert all(issubclass(getattr(errors, name), errors.PGCacheWatchError) for name in defined)
    assert errors.__doc__ is not None
    assert set(re.findall(r"(?:[├└]── |^    )([A-Z]\w+)", errors.__doc__, re.MULTILINE)) == defined


def test_errors_carry_their_data() -> None:
    refused = errors.Refused("no", code=4301, may_retry=False)
    assert (refused.code, refused.may_retry) == (4301, False)
    limit = errors.LimitExceeded("too long", rule="W-LIMIT-1", limit="frame", allowed=1, value=2)
    assert (limit.rule, limit.close_code, limit.allowed, limit.value) == ("W-LIMIT-1", 4308, 1, 2)
    assert errors.BarrierTimeout("late", missing="source").missing == "source"
    assert isinstance(errors.BarrierTimeout("late", missing="source"), TimeoutError)
