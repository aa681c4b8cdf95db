"""Looks at the catalogue, handed on to workers: judged here, and each catalogue that is new as bytes.

A worker that comes later is given the catalogue of the last look. Bound: one catalogue, and its bytes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass

from pgcachewatch_daemon.inspection import Inspection
from pgcachewatch_daemon.sql.assessment import Assessment
from pgcachewatch_daemon.sql.catalogue import Catalogue
from pgcachewatch_daemon.workers.messages import Looked


@dataclass(frozen=True, slots=True)
class Look:
    """An assessment, and its catalogue pickled; empty when it is the one of the last look."""

    assessment: Assessment
    catalogue: bytes


class Looks:
    """What a primary's watcher calls. `pickled` and `began_s` are of the last look: empty and 0 before the first."""

    def __init__(self, inspection: Inspection, say: Callable[[Looked], None]) -> None:
        self._inspection = inspection
        self._say = say
        self._catalogue: Catalogue | None = None
        self.pickled = b""
        self.began_s = 0.0

    def judge(self, catalogue: Catalogue) -> Look:
        """Beside the loop, as the pickling of a large catalogue takes a while."""
        assessment = self._inspection.assess(catalogue)
        is_known = self._catalogue is not None and self._catalogue == catalogue
        return Look(assessment, b"" if is_known else pickle.dumps(catalogue, pickle.HIGHEST_PROTOCOL))

    def tell(self, look: Look, began_s: float) -> None:
        """In the loop: what it means for caches first, then what workers judge wishes by."""
        self._inspection.tell(look.assessment, began_s)
        self.began_s = began_s
        if look.catalogue:
            self._catalogue, self.pickled = look.assessment.catalogue, look.catalogue
        self._say(Looked(began_s, look.catalogue, look.assessment.retyped))
