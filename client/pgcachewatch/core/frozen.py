"""A hashable stand-in for any argument, equal for equal arguments of one type and for no others.

`1 == True == 1.0 == Decimal(1)` in Python, and a dict would take them for one key; a function may well tell them apart.
So a frozen value carries its type, at every depth. Values of the PLAIN types stand for themselves, because no two of
these types have equal members; everything else becomes a tuple that begins with the type, which no plain value equals.

What is mutable is frozen by content (list, dict, set, dataclass, pydantic model). An object that is only equal to
itself becomes a token that does not keep it alive. What is left and hashable stands for itself, with its type. Anything
else raises Unfreezable.

Bound: DEPTH levels.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import types
import uuid
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import pydantic

from pgcachewatch.core.identity import Identities

PLAIN = frozenset({int, str, type(None), datetime.date, uuid.UUID})
DEPTH = 50


class Unfreezable(Exception):
    """There is no stand-in for this value; the text says why, and is meant to follow "because"."""


def freeze(value: object, identities: Identities, depth: int = DEPTH) -> Hashable:
    """The stand-in for `value`.

    >>> freeze([1, True], Identities())
    (<class 'list'>, 1, (<class 'bool'>, True))
    >>> freeze({"b": 1, "a": 2}, Identities()) == freeze({"a": 2, "b": 1}, Identities())
    True
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    if depth == 0:
        raise Unfreezable(f"it is nested more than {DEPTH} levels deep, or contains itself")

    def inner(part: object) -> Hashable:
        return freeze(part, identities, depth - 1)

    by_type = _BY_TYPE.get(kind)
    if by_type is not None:
        return (kind, by_type(value, inner))
    content = _content(value, inner)
    if content is not None:
        return (kind, *content)
    return _whole(value, identities)


Inner = Callable[[object], Hashable]


def _content(value: object, inner: Inner) -> Iterable[Hashable] | None:
    """What a container is made of, in an order that does not matter to its equality; None for no container."""
    match value:
        case enum.Flag():
            return (inner(value.value),)  # a combination of flags may have no name
        case enum.Enum():
            return (value.name,)
        case pydantic.BaseModel():
            return (_mapping(value.__dict__ | dict(value.model_extra or ()), inner),)
        case collections.OrderedDict():
            return [(inner(key), inner(item)) for key, item in value.items()]
        case dict() | types.MappingProxyType():
            return (_mapping(value, inner),)
        case tuple() | list() | collections.deque():
            return [inner(item) for item in value]
        case set() | frozenset():
            return (frozenset(inner(item) for item in value),)
        case bytearray():
            return (bytes(value),)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and _compares_by_field(value):
        return [inner(getattr(value, each.name)) for each in dataclasses.fields(value)]
    return None


def _mapping(value: Mapping[Any, object], inner: Inner) -> Hashable:
    return frozenset((inner(key), inner(item)) for key, item in value.items())


def _compares_by_field(value: object) -> bool:
    return bool(type(value).__dataclass_params__.eq)  # type: ignore[attr-defined]  # every dataclass has it


def _whole(value: object, identities: Identities) -> Hashable:
    kind = type(value)
    if kind.__eq__ is object.__eq__ and kind.__hash__ is object.__hash__:
        try:
            return identities.token(value)
        except TypeError:
            # It can not be referred to weakly, so the key keeps it; it is still equal to itself only.
            return (kind, value)
    try:
        hash(value)
    except Exception as error:
        raise Unfreezable(f"a {kind.__module__}.{kind.__qualname__} can not be hashed") from error
    return (kind, value)


def _moment(value: datetime.datetime, inner: Inner) -> Hashable:
    # Two aware datetimes are equal when they name one instant, but they print differently.
    return (value.replace(tzinfo=None).isoformat(), value.fold, inner(value.tzinfo))


# Types whose members are equal to members of other types, or equal to each other though they print differently.
_BY_TYPE: dict[type, Callable[..., Hashable]] = {
    bool: lambda value, inner: value,
    float: lambda value, inner: repr(value),  # 0.0 == -0.0, and nan is not equal to itself
    complex: lambda value, inner: repr(value),
    decimal.Decimal: lambda value, inner: str(value),
    fractions.Fraction: lambda value, inner: value,
    bytes: lambda value, inner: value,
    datetime.datetime: _moment,
    datetime.time: lambda value, inner: (value.replace(tzinfo=None).isoformat(), value.fold, inner(value.tzinfo)),
    datetime.timedelta: lambda value, inner: value,
    type: lambda value, inner: value,
    types.FunctionType: lambda value, inner: value,
}
