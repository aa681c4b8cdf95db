"""How often something may be done: so many at once, and so many a second after that.

Used where a stranger can make the relay work: the check of a signature costs a tenth of a millisecond, and nothing is
known of whoever asks for it. Bound: KEYS_LIMIT keys; the one that was used longest ago is forgotten, which gives it its
whole burst back.
"""

from __future__ import annotations

KEYS_LIMIT = 10_000


class Allowance:
    """A bucket that fills with `rate` a second up to `burst`.

    >>> allowance = Allowance(rate=1.0, burst=2)
    >>> [allowance.take(now_s) for now_s in (0.0, 0.0, 0.0, 1.0, 1.0)]
    [True, True, False, True, False]
    """

    __slots__ = ("_burst", "_left", "_rate", "_seen_s")

    def __init__(self, *, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._left = float(burst)
        self._seen_s = float("-inf")

    def has_any(self, now_s: float) -> bool:
        """True when `take` would succeed."""
        if now_s > self._seen_s:
            if self._seen_s > float("-inf"):
                self._left = min(self._burst, self._left + (now_s - self._seen_s) * self._rate)
            self._seen_s = now_s
        return self._left >= 1.0

    def take(self, now_s: float) -> bool:
        """Use one. False when there is none."""
        if not self.has_any(now_s):
            return False
        self._left -= 1.0
        return True


class Allowances:
    """One for each key, such as an address."""

    def __init__(self, *, rate: float, burst: float, keys_limit: int = KEYS_LIMIT) -> None:
        self._rate = rate
        self._burst = burst
        self._keys_limit = keys_limit
        self._by_key: dict[str, Allowance] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def has_any(self, key: str, now_s: float) -> bool:
        known = self._by_key.get(key)
        return known is None or known.has_any(now_s)

    def take(self, key: str, now_s: float) -> bool:
        known = self._by_key.pop(key, None) or Allowance(rate=self._rate, burst=self._burst)
        self._by_key[key] = known
        if len(self._by_key) > self._keys_limit:
            del self._by_key[next(iter(self._by_key))]
        return known.take(now_s)
