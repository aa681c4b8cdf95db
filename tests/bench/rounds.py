"""How much the benchmarks do: everything in `make bench`, a taste of it in an ordinary run, so that they stay runnable.

A benchmark prints its figures, each beside its target, and asserts nothing on time: a machine that is busy is no bug.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass

IS_MEASURING = os.environ.get("PGCW_BENCH") == "1"


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison. `target` is the ratio aimed at, or None where none was set."""

    name: str
    floor: float
    measured: float
    target: float | None = None

    @property
    def ratio(self) -> float:
        return self.measured / self.floor


def rounds(count: int) -> int:
    """`count` when measuring, otherwise just enough to see that it runs."""
    return count if IS_MEASURING else 2


def report(title: str, rows: Iterable[Row]) -> None:
    """Print a table; pytest shows it with `-s`."""
    sys.stdout.write(f"\n{title:<44} {'floor':>9} {'measured':>9} {'ratio':>6}  target\n")
    for row in rows:
        target = "" if row.target is None else f"<= {row.target:g}"
        sys.stdout.write(f"  {row.name:<42} {row.floor:>9.1f} {row.measured:>9.1f} {row.ratio:>6.2f}  {target}\n")
