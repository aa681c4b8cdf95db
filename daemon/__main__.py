"""`python3 daemon`: set up `.venv` and run the relay. Needs nothing but Python; see deploy/bootstrap.py.

With PGCACHEWATCH_DSN set (or --dsn given) it serves that database; without, it shows the demo on a PostgreSQL
of its own. Arguments are passed on.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "deploy"))

import bootstrap

arguments = sys.argv[1:]
has_database = bool(os.environ.get("PGCACHEWATCH_DSN")) or any(word.split("=")[0] == "--dsn" for word in arguments)
bootstrap.run("pgcachewatch", ["serve" if has_database else "demo", *arguments])
