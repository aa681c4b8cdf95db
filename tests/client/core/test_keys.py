"""One call, one key: however it is spelled, and never shared with a call that is different."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import inspect
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.core.keys import NO_KEY, SHAPES, DoesNotBind, Keys
from pgcachewatch.errors import ConfigurationError


def get(user_id: Any, language: Any = "en", *, limit: Any = 10) -> None: ...


def everything(a: Any, /, b: Any = 2, *rest: Any, c: Any = 3, **more: Any) -> None: ...


def one(value: Any) -> None: ...


class Color(enum.IntEnum):
    RED = 1


class Word(enum.StrEnum):
    A = "a"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Number(int):
    pass


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


class Model(pydantic.BaseModel):
    name: str
    tags: list[str] = []


def key(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return Keys(function).of(args, kwargs)


def test_five_spellings_of_one_call_are_one_key() -> None:
    keys = Keys(get)

    spelled = {
        keys.of((5,), {}),
        keys.of((5, "en"), {}),
        keys.of((), {"user_id": 5}),
        keys.of((5,), {"limit": 10, "language": "en"}),
        keys.of((), {"language": "en", "limit": 10, "user_id": 5}),
    }

    assert spelled == {(5,)}


def test_arguments_in_other_places_are_other_keys() -> None:
    keys = Keys(everything)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((1,), {}),
        ((2,), {}),
        ((1, 1), {}),
        ((1, 2, 3), {}),
        ((1, 2, 3, 4), {}),
        ((1, 2), {"c": 4}),
        ((1, 2), {"d": 4}),
        ((1, 2), {"d": 4, "e": 5}),
        ((1, 2, ("d", 4)), {}),
        ((1, 2, 3), {"d": 4}),
        ((1,), {"b": 1, "c": 4}),
    ]

    found = [keys.of(*call) for call in calls]

    assert len(set(found)) == len(calls)


LOOKALIKES: list[Any] = [
    1,
    True,
    1.0,
    decimal.Decimal(1),
    Number(1),
    complex(1),
    Color.RED,
    Permission.READ,
    "1",
    b"1",
    "a",
    Word.A,
    b"a",
    bytearray(b"a"),
    (1,),
    (True,),
    (1.0,),
    [1],
    [True],
    {1},
    {True},
    frozenset({1}),
    {1: 1},
    {1: True},
    {True: 1},
    Point(1),
    Point(True),
    None,
    (),
    [],
    {},
    set(),
    "",
    0.0,
    -0.0,
    0,
    False,
    decimal.Decimal("1.0"),
    datetime.date(2030, 1, 1),
    datetime.datetime(2030, 1, 1),
    datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC),
    datetime.datetime(2030, 1, 1, 14, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
    datetime.time(12),
    datetime.timedelta(seconds=1),
    uuid.UUID(int=1),
    int,
    bool,
    (int, 1),
    (bool, True),
    (list, 1),
    Model(name="a"),
    Model(name="a", tags=["b"]),
    Permission.READ | Permission.WRITE,
]


@pytest.mark.parametrize("function", [one, get])
def test_values_of_different_types_never_share_a_key_however_equal_they_are(function: Callable[..., Any]) -> None:
    keys = [key(function, value) for value in LOOKALIKES]

    for left, left_key in zip(LOOKALIKES, keys, strict=True):
        sharing = [right for right, right_key in zip(LOOKALIKES, keys, strict=True) if left_key == right_key]
        assert len(sharing) == 1, f"{left!r} shares its key with {sharing!r}"


def test_equal_values_of_one_type_share_a_key() -> None:
    for make in (
        lambda: [1, {"a": {2, 3}}],
        lambda: Point([1], {"b": 2}),
        lambda: Model(name="a", tags=["b"]),
        lambda: {"x": 1, "y": 2},
        lambda: float("nan"),
        lambda: datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC),
        lambda: bytearray(b"x"),
        lambda: Word.A,
    ):
        assert key(one, make()) == key(one, make())
        assert hash(key(one, make())) == hash(key(one, make()))


def test_the_order_of_a_dict_or_of_keywords_does_not_matter() -> None:
    assert key(one, {"a": 1, "b": 2}) == key(one, {"b": 2, "a": 1})
    assert key(everything, 1, d=1, e=2) == key(everything, 1, e=2, d=1)


def test_an_argument_that_changes_changes_its_key() -> None:
    keys, items = Keys(one), [1]
    before = keys.of((items,), {})
    items.append(2)

    assert keys.of((items,), {}) != before


class Unhashable:
    __hash__ = None  # type: ignore[assignment]  # as a class with __eq__ and no __hash__ has it

    def __eq__(self, other: object) -> bool:
        return True


def test_an_argument_no_key_can_be_made_of_is_named_with_the_remedies() -> None:
    with pytest.raises(ConfigurationError, match=r"'language' of get .*ignore=\('language',\).*key="):
        key(get, 1, Unhashable())


def test_a_container_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(ConfigurationError, match="contains itself"):
        key(one, endless)


def test_code_of_an_argument_that_raises_is_a_configuration_error() -> None:
    @dataclasses.dataclass
    class Broken:
        field: int

        def __getattribute__(self, name: str) -> Any:
            if name == "field":
                raise ZeroDivisionError
            return object.__getattribute__(self, name)

    broken = Broken.__new__(Broken)
    with pytest.raises(ConfigurationError, match="ZeroDivisionError"):
        key(one, broken)


def test_an_object_that_is_only_equal_to_itself_is_told_apart_and_not_kept_alive() -> None:
    class Session: ...

    keys = Keys(one)
    first, second = Session(), Session()
    keys_of_first = {keys.of((first,), {}) for _ in range(3)}
    assert len(keys_of_first) == 1
    assert keys.of((second,), {}) not in keys_of_first
    reference = weakref.ref(first)

    del first
    gc.collect()

    assert reference() is None
    # Its address may be used again, its key may not.
    assert all(keys.of((Session(),), {}) not in keys_of_first for _ in range(100))


def test_ignored_arguments_do_not_tell_calls_apart() -> None:
    keys = Keys(get, ignore=["user_id", "limit"])

    assert keys.of((1, "de"), {}) == keys.of((2,), {"language": "de", "limit": Unhashable()})
    assert keys.of((1, "de"), {}) != keys.of((1, "fr"), {})


def test_a_name_to_ignore_that_is_no_parameter_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'session'.*user_id, language, limit"):
        Keys(get, ignore=["session"])
    with pytest.raises(ConfigurationError, match="not the text"):
        Keys(get, ignore="language")


def test_a_key_function_decides_alone() -> None:
    keys = Keys(get, key=lambda user_id, language="en", **rest: (user_id % 2,))

    assert keys.of((1,), {}) == keys.of((3, Unhashable()), {})
    assert keys.of((1,), {}) != keys.of((2,), {})


def test_a_call_that_does_not_fit_is_told_apart_from_one_that_does() -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((), {}),
        ((1, 2, 3), {}),
        ((1,), {"user_id": 1}),
        ((1,), {"unknown": 1}),
    ]
    for args, kwargs in calls:
        with pytest.raises(DoesNotBind):
            Keys(get).of(args, kwargs)


def test_a_default_that_can_not_be_frozen_is_no_obstacle() -> None:
    unhashable = Unhashable()

    def endpoint(user: Any = unhashable, page: int = 1) -> None: ...

    keys = Keys(endpoint)

    assert keys.of((), {}) == keys.of((), {"page": 1})
    assert keys.of((), {"page": 2}) == keys.of((), {"page": 2})
    assert keys.of((), {"page": 2}) != keys.of((), {})


def test_partials_and_callable_objects_have_keys() -> None:
    class Invoked:
        def __call__(self, a: int, b: int = 2) -> None: ...

    assert Keys(functools.partial(get, 1)).of((), {"language": "en"}) == ()
    assert Keys(Invoked()).of((1, 2), {}) == (1,)


def test_methods_tell_instances_apart_without_comparing_or_keeping_them() -> None:
    keys = Keys(Point.__init__, is_method=True)
    first, second = Point(1), Point(1)
    assert first == second
    of_first = keys.of((first, 1), {})

    assert of_first == keys.of((first,), {"x": 1})
    assert of_first != keys.of((second, 1), {})
    reference = weakref.ref(first)
    del first
    gc.collect()
    assert reference() is None


def test_a_method_of_a_class_with_slots_has_keys_too() -> None:
    class Slotted:
        __slots__ = ()

        def method(self, x: int) -> None: ...

    keys, instance = Keys(Slotted.method, is_method=True), Slotted()

    assert keys.of((instance, 1), {}) == keys.of((instance,), {"x": 1})
    assert keys.of((instance, 1), {}) != keys.of((Slotted(), 1), {})


def test_shapes_of_calls_are_remembered_up_to_a_limit() -> None:
    keys = Keys(everything)
    for number in range(SHAPES * 3):
        keys.of(tuple(range(number + 1)), {})

    assert len(keys._plans) <= SHAPES


@pytest.mark.parametrize(
    ("function", "options", "calls"),
    [
        (get, {"ignore": ["language"]}, [((1, "x"), {}), ((None, "x"), {}), ((1,), {}), ((True, "x"), {}), ((), {})]),
        (get, {"ignore": ["user_id", "limit"]}, [((1, "x"), {}), ((1, None), {}), ((1, 1.0), {})]),
        (Point.__init__, {"is_method": True}, [((Point(1), 1, 2), {}), ((Point(1), True, 2), {}), ((), {})]),
    ],
)
def test_the_quick_way_gives_the_same_key_or_none_that_any_entry_has(
    function: Callable[..., Any], options: dict[str, Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
) -> None:
    keys = Keys(function, **options)
    quick = keys.quick()
    assert quick is not None
    for args, kwargs in calls:
        assert quick(args) is NO_KEY or len(args) > 0
        if args and quick(args) is not NO_KEY:
            assert quick(args) == keys.of(args, kwargs)


plain = st.one_of(st.integers(0, 3), st.sampled_from(["en", "de"]), st.none(), st.booleans(), st.floats(0, 3))
calls = st.tuples(
    st.lists(plain, max_size=4), st.dictionaries(st.sampled_from(["a", "b", "c", "user_id", "limit"]), plain)
)


def received(function: Callable[..., Any], call: tuple[list[Any], dict[str, Any]]) -> Any:
    """What the function would get, in a form that tells types apart; None when it can not be called like this."""
    signature = inspect.signature(function)
    try:
        bound = signature.bind(*call[0], **call[1])
    except TypeError:
        return None
    bound.apply_defaults()
    if bound.arguments.keys() != signature.parameters.keys():
        return None  # CPython 3.13.0 binds what the function itself refuses
    return [
        (name, sorted(map(repr, value.items())) if name == "more" else repr(value))
        for name, value in bound.arguments.items()
    ]


@given(calls, calls)
def test_two_calls_share_a_key_exactly_when_the_function_gets_the_same(
    first: tuple[list[Any], dict[str, Any]], second: tuple[list[Any], dict[str, Any]]
) -> None:
    for function in (get, everything, one):
        keys = Keys(function)
        if None not in (received(function, first), received(function, second)):
            is_shared = keys.of(tuple(first[0]), first[1]) == keys.of(tuple(second[0]), second[1])
            assert is_shared == (received(function, first) == received(function, second))


@given(calls)
def test_a_call_has_the_key_of_its_fullest_spelling(call: tuple[list[Any], dict[str, Any]]) -> None:
    for function in (get, everything, one):
        if received(function, call) is None:
            with pytest.raises(DoesNotBind):
                Keys(function).of(tuple(call[0]), call[1])
            continue
        bound = inspect.signature(function).bind(*call[0], **call[1])
        bound.apply_defaults()
        assert Keys(function).of(tuple(call[0]), call[1]) == Keys(function).of(bound.args, bound.kwargs)
