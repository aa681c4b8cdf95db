"""`python -m tests.checker`: run the stale-read checker and print what it found.

    make checker DURATION=600 SEED=1         our client, relay and protocol
    make checker MODE=journal                the same with triggers that write the journal
    make checker-original DURATION=600       the original library (PyPI pgcachewatch 0.4.2) under the same faults

Exit code 0 when nothing promised was broken. For the original it is 0 whatever was found, as finding it is the point;
when the original can not be installed here, that is said and nothing is run.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.checker.outcome import report
from tests.checker.plan import MODES, RunSettings
from tests.checker.run import run
from tests.original import OriginalUnavailable, original_python


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description=__doc__.splitlines()[0])
    parser.add_argument("--duration", type=float, default=60.0, help="seconds during which faults happen")
    parser.add_argument("--seed", type=int, default=None, help="of the faults; random when left out")
    parser.add_argument("--original", action="store_true", help="check the original library instead")
    parser.add_argument("--mode", choices=MODES, default="direct", help="of the triggers")
    parser.add_argument("--keep", type=Path, default=None, help="folder to leave the records in")
    options = parser.parse_args()
    if options.original:
        try:
            original_python()
        except OriginalUnavailable as reason:
            sys.stdout.write(f"skipped: {reason}\n")
            return 0
    with tempfile.TemporaryDirectory(prefix="pgcachewatch-checker-") as temporary:
        directory = options.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        seed = random.randrange(10**6) if options.seed is None else options.seed
        settings = RunSettings(seed, options.duration, directory, is_original=options.original, mode=options.mode)
        outcome = asyncio.run(run(settings))
    sys.stdout.write(report(outcome) + "\n")
    return 0 if outcome.is_clean or options.original else 1


if __name__ == "__main__":
    sys.exit(main())
