"""How often something may happen: so many a second, and after a pause so many at once.

Used where somebody else makes the relay work: a handshake, a barrier, the check of a token's signature. Pure: `now_s`
is a parameter, of any clock; one that goes back gives nothing. Bound: one number, and KEYS_LIMIT of them by key; that
which was used longest ago is forgotten, and may then have all at once again.
"""

from __future__ import annotations

KEYS_LIMIT = 10_000
ROUNDING_S = 1e-9  # what sums of fractions are off by


class Allowance:
    """A bucket that fills with `per_s`, which may be another each time, and holds `at_once`.

    >>> allowance = Allowance()
    >>> [allowance.take(per_s=2, now_s=0.0) for _ in range(3)], allowance.take(per_s=2, now_s=0.5)
    ([0.0, 0.0, 0.5], 0.0)
    """

    __slots__ = ("_full_at_s",)

    def __init__(self) -> None:
        self._full_at_s = float("-inf")  # when it is full again if nothing more is taken

    def wait_s(self, *, per_s: float, now_s: float, at_once: float | None = None) -> float:
        """0 when `take` would take one; else the seconds until it would."""
        cost_s = 1 / per_s
        holds_s = max(1.0, cost_s) if at_once is None else at_once * cost_s
        wait_s = max(0.0, self._full_at_s - now_s) + cost_s - holds_s
        return wait_s if wait_s > ROUNDING_S else 0.0

    def take(self, *, per_s: float, now_s: float, at_once: float | None = None) -> float:
        """0 when it may happen now; else the seconds until one more may, and nothing was taken.

        Without `at_once` one second's worth may happen at once, and one in any case.
        """
        wait_s = self.wait_s(per_s=per_s, now_s=now_s, at_once=at_once)
        if not wait_s:
            self._full_at_s = max(self._full_at_s, now_s) + 1 / per_s
        return wait_s


class Allowances:
    """One for each key, such as an address."""

    def __init__(self, *, keys_limit: int = KEYS_LIMIT) -> None:
        self._keys_limit = keys_limit
        self._by_key: dict[str, Allowance] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def wait_s(self, key: str, *, per_s: float, now_s: float, at_once: float | None = None) -> float:
        known = self._by_key.get(key)
        return known.wait_s(per_s=per_s, now_s=now_s, at_once=at_once) if known is not None else 0.0

    def take(self, key: str, *, per_s: float, now_s: float, at_once: float | None = None) -> float:
        known = self._by_key.pop(key, None) or Allowance()
        self._by_key[key] = known
        if len(self._by_key) > self._keys_limit:
            del self._by_key[next(iter(self._by_key))]
        return known.take(per_s=per_s, now_s=now_s, at_once=at_once)
