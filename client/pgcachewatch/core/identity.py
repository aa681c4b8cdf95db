"""Tokens that stand for objects without keeping them alive.

A key that held the object itself would keep it, and all it refers to, for as long as the entry lives; a key that held
its `id()` would match whichever object gets that address next. A token is neither: one object, one token, until the
object dies; then the token is never given again.

Bound: one small record per living object that was asked for.
"""

from __future__ import annotations

import weakref


class Token:
    """Equal to itself only."""

    __slots__ = ()


class Identities:
    """The tokens given out.

    >>> class Session: ...
    >>> session, identities = Session(), Identities()
    >>> identities.token(session) is identities.token(session)
    True
    >>> identities.token(session) is identities.token(Session())
    False
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        # The reference is kept for its callback, which runs before the address can be used again.
        self._known: dict[int, tuple[Token, weakref.ref[object]]] = {}

    @staticmethod
    def can_hold(value: object) -> bool:
        """False for what can not be referred to weakly: numbers, tuples, objects whose class has slots."""
        return type(value).__weakrefoffset__ != 0

    def known(self, value: object) -> Token | None:  # hot path
        """The token of `value`, if it was asked for before."""
        known = self._known.get(id(value))
        return None if known is None else known[0]

    def token(self, value: object) -> Token:
        """The token of `value`. Raises TypeError when it can not be referred to weakly."""
        address = id(value)
        known = self._known.get(address)
        if known is None:
            records = self._known  # not self: the callback must not keep the function's cache alive
            reference = weakref.ref(value, lambda _: records.pop(address, None))
            # setdefault, because another thread may have come first.
            known = records.setdefault(address, (Token(), reference))
        return known[0]

    def __len__(self) -> int:
        return len(self._known)
