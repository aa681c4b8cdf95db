"""From a call to the key of its entry, by the rules of the function's own signature.

However a call is spelled, positional or by keyword, with a default left out or written out, it has one key:

    get(5)   get(user_id=5)   get(5, "en")   get(5, language="en")   get(language="en", user_id=5)

A key is the shortest positional spelling of the call, without the ignored parameters: trailing defaults are left out.
When only one parameter of a plain `def` is left it is that value alone, no tuple around it, so that the hit path can
look up what it was given. Values are frozen (core/frozen.py), so calls whose arguments only compare equal, as 1 and
True, do not share. Of the instance a method is called on there is only a token in the key: it is neither compared nor
kept alive.

How the arguments of one shape of call (so many positional ones, these keywords) are put in order is worked out once.
Bound: SHAPES shapes are remembered.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgcachewatch.core.frozen import PLAIN, Unfreezable, freeze
from pgcachewatch.core.identity import Identities, Token
from pgcachewatch.errors import ConfigurationError

SHAPES = 64

Arguments = tuple[Any, ...]  # Any: of a function nobody knows yet
Keywords = Mapping[str, Any]
Quick = Callable[[Arguments], Hashable]

NO_KEY = Token()  # no entry has it


class Ignore:
    """Marks a parameter that does not tell two calls apart: `session: Annotated[AsyncSession, Ignore]`."""


class DoesNotBind(TypeError):
    """The function can not be called like this. Calling it tells the caller why."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """Where the values of a key come from, for one shape of call.

    `sources` has, for each kept positional parameter, an index into the positional arguments, a keyword, or None where
    the default holds. Positional arguments from `rest_from` on belong to `*args`; `named` are the keywords that have
    no place among the positional ones.
    """

    sources: tuple[tuple[str, int | str | None], ...]
    rest_from: int | None
    named: tuple[str, ...]


class Keys:
    """The keys of one function. `is_method`: its first argument is the instance it is called on.

    >>> def get(user_id, language="en"): ...
    >>> keys = Keys(get)
    >>> keys.of((5,), {}) == keys.of((), {"language": "en", "user_id": 5}) == keys.of((5, "en"), {})
    True
    >>> keys.of((5, "de"), {})
    (5, 'de')
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        ignore: Collection[str] = (),
        key: Callable[..., Hashable] | None = None,
        is_method: bool = False,
    ) -> None:
        self.name = getattr(function, "__qualname__", repr(function))
        self._signature = _signature(function, self.name)
        self._ignored = _checked(ignore, self._signature, self.name) | _marked(function, self._signature)
        self._key = key
        self._identities = Identities()
        self._plans: dict[tuple[int, tuple[str, ...]], _Plan] = {}
        parameters = self._signature.parameters
        self._required = {
            name for name, one in parameters.items() if one.default is one.empty and one.kind not in _COLLECTING
        }
        kept = [one for name, one in parameters.items() if name not in self._ignored]
        self._all = [one.name for one in parameters.values() if one.kind in _BY_PLACE]
        self._positional = [one.name for one in kept if one.kind in _BY_PLACE]
        self._rest = next((one.name for one in kept if one.kind is one.VAR_POSITIONAL), None)
        # Only when the instance itself is in the key; a method may ignore it.
        self._instance = self._all[0] if is_method and self._all[:1] == self._positional[:1] else None
        self._defaults = {one.name: self._default(one) for one in kept if one.default is not one.empty}
        is_one = len(kept) == 1 == len(self._positional)
        self.is_single = is_one and key is None and self._instance is None and _says_its_signature(function)

    @property
    def is_as_given(self) -> bool:
        """True when positional arguments of PLAIN types are their own key: `args`, or when `is_single`, `args[0]`."""
        return self._key is None and self._instance is None and not self._ignored

    def of(self, args: Arguments, kwargs: Keywords) -> Hashable:
        """The key of this call. Raises DoesNotBind, and ConfigurationError for an argument no key can be made of."""
        if self._key is not None:
            self._bind(args, kwargs)
            return (_Named, self._freeze("key=", self._key(*args, **kwargs)))
        shape = (len(args), tuple(kwargs))
        plan = self._plans.get(shape) or self._new_plan(shape)
        values: list[Hashable] = []
        length = 0  # of `values`, up to the last one that is not its default
        for name, source in plan.sources:
            if source is None:
                values.append(self._defaults[name])
                continue
            given = args[source] if isinstance(source, int) else kwargs[source]
            value = given if given.__class__ in PLAIN else self._freeze(name, given)
            values.append(value)
            if name not in self._defaults or value != self._defaults[name]:
                length = len(values)
        if plan.rest_from is not None:
            values += [self._freeze(self._rest or "", value) for value in args[plan.rest_from :]]
            length = len(values)
        del values[length:]
        if plan.named:
            values += self._named(plan.named, kwargs)
        return values[0] if self.is_single and values else tuple(values)

    def quick(self) -> Quick | None:
        """For calls that are not `is_as_given`: a function from positional arguments to their key, or to NO_KEY.

        It is for the hit path, and freezes nothing, so it only knows calls whose arguments are all of PLAIN types. What
        it gives may be a longer spelling that finds no entry. None when every call of this function needs `of`.
        """
        if self._key is not None or self.is_as_given:
            return None
        if self._instance is not None:
            return None if self._ignored else _quick_method(self._identities)
        places = [place for place, name in enumerate(self._all) if name in self._positional]
        return _quick_places(places, len(self._all), is_single=self.is_single) if places else None

    def _named(self, names: Iterable[str], kwargs: Keywords) -> list[Hashable]:
        named = [(name, self._freeze(name, kwargs[name])) for name in sorted(names)]
        kept = [(name, value) for name, value in named if name not in self._defaults or value != self._defaults[name]]
        # It begins with a class that has no instances: no positional argument is frozen to something like this.
        return [(_Named, *kept)] if kept else []

    def _freeze(self, name: str, value: object) -> Hashable:
        try:
            if name == self._instance and self._identities.can_hold(value):
                return self._identities.token(value)
            return freeze(value, self._identities)
        except Exception as error:
            # Whatever it is: to take an object apart may run code of its class.
            reason = error if isinstance(error, Unfreezable) else f"reading it raised {error!r}"
            raise ConfigurationError(
                f"argument {name!r} of {self.name} can not be part of a cache key, because {reason}; leave it out of "
                f"the key with ignore=({name!r},), or make the key yourself with key=lambda ...: ..."
            ) from error

    def _default(self, parameter: inspect.Parameter) -> Hashable:
        try:
            return freeze(parameter.default, self._identities)
        except Exception:
            return Token()  # a default that is used is always the same object

    def _new_plan(self, shape: tuple[int, tuple[str, ...]]) -> _Plan:
        if len(self._plans) >= SHAPES:
            self._plans.clear()
        plan = self._plans[shape] = self._work_out(*shape)
        return plan

    def _work_out(self, count: int, keywords: tuple[str, ...]) -> _Plan:
        # Bound with places and names where the values would be.
        found = self._bind(range(count), {name: name for name in keywords}).arguments
        sources = tuple((name, found.get(name)) for name in self._positional)
        rest = found.get(self._rest, ()) if self._rest is not None else ()
        named: list[str] = []
        for name, parameter in self._signature.parameters.items():
            if name in found and name not in self._ignored:
                if parameter.kind is parameter.KEYWORD_ONLY:
                    named.append(name)
                elif parameter.kind is parameter.VAR_KEYWORD:
                    named += found[name]
        return _Plan(sources, rest[0] if rest else None, tuple(named))

    def _bind(self, args: Sequence[Any], kwargs: Keywords) -> inspect.BoundArguments:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise DoesNotBind(str(error)) from None
        # CPython 3.13.0 lets a positional-only parameter go missing when a keyword of its name goes to **kwargs.
        missing = self._required - bound.arguments.keys()
        if missing:
            raise DoesNotBind(f"missing a required argument: {', '.join(sorted(missing))}")
        return bound


class _Named:
    """Begins the part of a key that was given by name."""


_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _quick_method(identities: Identities) -> Quick:
    known_token = identities.known

    def quick(args: Arguments) -> Hashable:  # hot path
        if not args:
            return NO_KEY
        instance, *rest = args
        token = known_token(instance)
        if token is None:
            return NO_KEY
        for value in rest:
            if value.__class__ not in PLAIN:
                return NO_KEY
        return (token, *rest)

    return quick


def _quick_places(places: Sequence[int], count: int, *, is_single: bool) -> Quick:
    def quick(args: Arguments) -> Hashable:  # hot path
        if len(args) != count:
            return NO_KEY
        picked = [args[place] for place in places]
        for value in picked:
            if value.__class__ not in PLAIN:
                return NO_KEY
        return picked[0] if is_single else tuple(picked)

    return quick


def _says_its_signature(function: Callable[..., Any]) -> bool:
    """True for a `def` whose own parameters are its signature, and not those of something it wraps."""
    is_def = isinstance(function, types.FunctionType)
    return is_def and not hasattr(function, "__wrapped__") and not hasattr(function, "__signature__")


def _signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} has no signature to make keys from: {error}; wrap it in a def") from error


def _marked(function: Callable[..., Any], signature: inspect.Signature) -> frozenset[str]:
    """The parameters that are annotated with Ignore."""
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    return frozenset(
        name
        for name, parameter in signature.parameters.items()
        if Ignore in getattr(_annotation(parameter.annotation, scope), "__metadata__", ())
    )


def _annotation(annotation: Any, scope: dict[str, Any]) -> Any:  # Any: what somebody wrote there
    """What an annotation means. One by one: a name that is there for type checkers only must not hide the others."""
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, scope)
    except Exception:
        return annotation


def _checked(ignore: Collection[str], signature: inspect.Signature, name: str) -> frozenset[str]:
    if isinstance(ignore, str):
        raise ConfigurationError(f"ignore must be a collection of names, not the text {ignore!r}; write [{ignore!r}]")
    for one in ignore:
        if one not in signature.parameters:
            known = ", ".join(signature.parameters) or "none"
            raise ConfigurationError(f"{name} has no parameter {one!r} to ignore; its parameters are: {known}")
    return frozenset(ignore)
