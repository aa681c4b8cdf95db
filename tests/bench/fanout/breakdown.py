"""Where the microseconds go: a profile of our fan-out in one case, function by function, beside the table.

The profiler's own cost is in the times, most of all in those of small functions; it tells shares, not costs. What the
kernel takes is in the functions that call it, as `write`.
"""

from __future__ import annotations

import io
import os
import pstats
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.fanout.cases import Case
from tests.bench.fanout.places import PROFILE_VARIABLE, RESULTS
from tests.bench.fanout.servers import Peer
from tests.bench.fanout.trial import run_trial

FUNCTIONS = 30


def run_profile(peer: Peer, case: Case) -> str:
    """Returns the text, which is also kept with the results."""
    with TemporaryDirectory() as folder:
        dumped = Path(folder) / "profile"
        os.environ[PROFILE_VARIABLE] = str(dumped)
        try:
            figures = run_trial(peer, case)
        finally:
            del os.environ[PROFILE_VARIABLE]
        listed = io.StringIO()
        pstats.Stats(str(dumped), stream=listed).strip_dirs().sort_stats("tottime").print_stats(FUNCTIONS)
    lines = [line for line in listed.getvalue().splitlines() if re.match(r"\s+(ncalls|[\d/]+\s)", line)]
    head = f"{case.name}: {figures['deliveries']:,} deliveries, {figures['cpu_us']:.2f} us each under the profiler"
    text = "\n".join((head, *lines)) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"fanout-profile-{case.name}.txt").write_text(text)
    return text
