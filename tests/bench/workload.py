"""A load for caches: reads of single rows, and now and then an update of one. The same in every interpreter.

Only the standard library is imported here: the original library runs in an environment of its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

ROWS = 1_000
READS_PER_UPDATE = 100
ZIPF_EXPONENT = 1.9  # a whole flush per 100 reads leaves 85 % hits

Distribution = Literal["zipf", "uniform"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("zipf", "uniform")


def operations(distribution: Distribution, reads: int) -> Iterator[tuple[bool, int]]:
    """(is it an update, row's number), always the same ones."""
    chance = random.Random(distribution)
    exponent = ZIPF_EXPONENT if distribution == "zipf" else 0.0
    numbers = list(range(1, ROWS + 1))
    chance.shuffle(numbers)
    weights = [1 / rank**exponent for rank in range(1, ROWS + 1)]
    for place, number in enumerate(chance.choices(numbers, weights, k=reads)):
        if place and place % READS_PER_UPDATE == 0:
            yield True, chance.choices(numbers, weights)[0]
        yield False, number
