"""`python3 tests`: set up `.venv` and run pytest in the checkout's root. Needs nothing but Python.

Arguments are pytest's: `python3 tests -k resume -x`. Runs in parallel, unless an argument needs one process
or says how many to use.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "deploy"))

import bootstrap

ONE_PROCESS = (
    "-n",
    "--numprocesses",
    "--dist",
    "--pdb",
    "--trace",
    "-s",
    "--capture",
    "--co",
    "--setup",
    "-p",
    "-h",
)
ONE_PROCESS += ("--help", "--version", "--fixtures", "--markers")

arguments = sys.argv[1:]
parallel = [] if any(word.startswith(ONE_PROCESS) for word in arguments) else ["-n", "auto", "--maxprocesses", "8"]
bootstrap.run("pytest", [*parallel, *arguments], bootstrap.ROOT)
