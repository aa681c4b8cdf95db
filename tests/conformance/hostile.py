"""Frames nobody should send: random ones, and valid messages with something wrong in them.

`Hostile(seed)` draws both kinds; equal seeds draw equal frames. A mutation removes a field, changes its type or value,
puts it into a list or far down into one, repeats it, renames its message, or damages the text itself. What JSON can
say and Python can not write by itself (ten thousand brackets, numbers of ten thousand digits) is put in as text.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

Json = Any  # what json.loads returns
Frame = str | bytes

DEEP, LONG = "@deep@", "@long@"
WRITTEN = {f'"{DEEP}"': "[" * 3_000 + "]" * 3_000, f'"{LONG}"': "9" * 5_000}
LEVELS = 60

JUNK: Sequence[Json] = (
    *(None, True, False, "", "1", "x" * 1_025, "ü" * 200, "\ud800", "\x00", "{", "*", "null", "resumed"),
    *(0, 1, -1, 7, 2**31, 2**53 - 1, 2**53, 2**63, 2**64, 10**30, -(10**30), 10**400),
    *(0.5, -0.0, 1.0, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *([], {}, [[]], [None], {"t": "ping"}, [1, "u", None], [0, "*", None], ["a"] * 40, DEEP, LONG),
)
ALPHABET = '{}[]",:0123456789-+.eEtruefalsnN \\u\x00\n/ü\ud800\U0001f600'
PIECES = ("{", "}", "[", "]", '"t"', '"', ":", ",", "ev", "mark", "hello", "null", "1", "-1", "1e999", "\\ud800", "NaN")


class Hostile:
    """A source of frames; `of(valid)` damages a frame that would be right."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def random_frame(self) -> Frame:
        """Bytes, text, or JSON of no particular meaning."""
        chance = self.chance
        match chance.randrange(4):
            case 0:
                return chance.randbytes(chance.randrange(40))
            case 1:
                return "".join(chance.choices(ALPHABET, k=chance.randrange(40)))
            case 2:
                return "".join(chance.choices(PIECES, k=chance.randrange(12)))
            case _:
                return self._written(self._junk(levels=3))

    def of(self, valid: Sequence[Json]) -> Frame:
        """One of `valid`, or several in one array, with up to three faults."""
        chance = self.chance
        count = 1 if chance.random() < 0.85 else chance.randrange(4)
        messages = [json.loads(json.dumps(chance.choice(valid))) for _ in range(count)]
        frame: Json = messages[0] if count == 1 else messages
        for _ in range(chance.randrange(1, 4)):
            frame = self._damaged(frame, valid)
        text = self._written(frame)
        return text if chance.random() < 0.85 else self._torn(text)

    def _damaged(self, frame: Json, valid: Sequence[Json]) -> Json:
        if not isinstance(frame, list | dict) or not frame:
            return self._junk(levels=2)
        chance = self.chance
        container, key = self._place(frame)
        old = container[key]
        match chance.randrange(8):
            case 0:
                del container[key]
            case 1 | 2:
                container[key] = self._junk(levels=2)
            case 3:
                container[key] = self._near(old)
            case 4:
                container[key] = [old] * chance.randrange(3)
            case 5:
                container[key] = _buried(old, chance.randrange(LEVELS))
            case 6 if isinstance(container, dict):
                container["t"] = chance.choice(valid)["t"]
            case _ if isinstance(container, dict):
                container[chance.choice(("id", "extra", "s", "", "scope", "\ud800"))] = self._junk(levels=1)
            case _:
                container.insert(key, old)
        return frame

    def _place(self, frame: Json) -> tuple[Json, Any]:
        """A container in the frame, which is not empty, and one of its keys or indices."""
        container = frame
        while True:
            key = self.chance.choice(list(container) if isinstance(container, dict) else range(len(container)))
            inner = container[key]
            if not isinstance(inner, list | dict) or not inner or self.chance.random() < 0.3:
                return container, key
            container = inner

    def _near(self, value: Json) -> Json:
        """Of the right type, and yet not right."""
        if isinstance(value, bool) or value is None:
            return not value
        if isinstance(value, int | float):
            return value + self.chance.choice((-1, 1, 2**53)) if self.chance.random() < 0.8 else 0.5
        if isinstance(value, str):
            return self.chance.choice((value.upper(), value + "x", value[1:], value * 500, value + "\ud83d"))
        return [value, value]

    def _junk(self, *, levels: int) -> Json:
        chance = self.chance
        if levels and chance.random() < 0.2:
            inner = [self._junk(levels=levels - 1) for _ in range(chance.randrange(4))]
            return inner if chance.random() < 0.5 else {str(number): each for number, each in enumerate(inner)}
        return copy.deepcopy(chance.choice(JUNK))  # it may be damaged in its turn

    def _written(self, value: Json) -> str:
        text = json.dumps(value, ensure_ascii=self.chance.random() < 0.7)
        for mark, meant in WRITTEN.items():
            text = text.replace(mark, meant)
        return text

    def _torn(self, text: str) -> str:
        chance = self.chance
        at = chance.randrange(len(text) + 1)
        to = min(len(text), at + chance.randrange(8))
        match chance.randrange(4):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + text[to:]
            case 2:
                return text[:to] + text[at:]
            case _:
                return text[:at] + chance.choice(PIECES) + text[at:]


def _buried(value: Json, levels: int) -> Json:
    for level in range(levels):
        value = [value] if level % 2 else {"t": value}
    return value
