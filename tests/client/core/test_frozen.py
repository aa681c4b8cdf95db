"""Stand-ins for arguments: hashable, and equal exactly for equal values of one type, at every depth."""

from __future__ import annotations

import collections
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.core.frozen import DEPTH, PLAIN, Unfreezable, freeze
from pgcachewatch.core.identity import Identities

leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(-2, 2), st.text("ab", max_size=2), st.binary(max_size=2)
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    ),
    max_leaves=8,
)


def same(left: Any, right: Any) -> bool:
    """Equality that also compares types, at every depth: the definition that freezing must match."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return repr(left) == repr(right)


@given(values, values)
def test_two_values_have_equal_stand_ins_exactly_when_they_are_the_same(left: Any, right: Any) -> None:
    identities = Identities()

    assert (freeze(left, identities) == freeze(right, identities)) == same(left, right)


@given(values)
def test_a_stand_in_can_be_hashed(value: Any) -> None:
    assert hash(freeze(value, Identities())) == hash(freeze(value, Identities()))


def test_plain_values_stand_for_themselves_and_nothing_else_looks_like_them() -> None:
    identities = Identities()

    assert freeze("text", identities) == "text"
    for value in (True, 1.0, b"1", [], object(), int, len):
        assert type(freeze(value, identities)) not in PLAIN


def test_containers_of_the_standard_library_are_frozen_by_content() -> None:
    identities = Identities()
    for left, right, is_same in (
        (collections.OrderedDict(a=1, b=2), collections.OrderedDict(b=2, a=1), False),
        (collections.deque([1]), collections.deque([1]), True),
        (types.MappingProxyType({"a": 1}), types.MappingProxyType({"a": 1}), True),
        (collections.Counter("ab"), collections.Counter("ba"), True),
        (range(3), range(3), True),
    ):
        assert (freeze(left, identities) == freeze(right, identities)) is is_same


def test_nesting_is_limited() -> None:
    value: list[Any] = []
    for _ in range(DEPTH - 1):
        value = [value]
    freeze(value, Identities())

    with pytest.raises(Unfreezable, match=f"{DEPTH} levels"):
        freeze([value], Identities())
