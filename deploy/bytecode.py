"""Imports whatever a relay may import, so that the bytecode of just that is written (PYTHONPYCACHEPREFIX).

Run while the image is built, by the interpreter that it will have. What is missed here is compiled at each start, which
costs time and harms nothing.
"""

import importlib
import pkgutil

import pgcachewatch
import pgcachewatch.protocol
import pgcachewatch_config
import pgcachewatch_daemon

# Loaded only when they are needed.
LATE = (
    "jwt",
    "cryptography.hazmat.primitives.serialization",
    "cryptography.x509",
    "encodings.idna",
    "ssl",
    "uvloop",
    "tomllib",
)
# Programs that run when they are imported, and what a production install does not use.
LEFT_OUT = (".__main__", ".embedded", ".demo")


def main() -> None:
    for package in (pgcachewatch_daemon, pgcachewatch_config, pgcachewatch.protocol):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in f"{module.name}." for part in (f"{name}." for name in LEFT_OUT)):
                load(module.name)
    for name in (*LATE, "pgcachewatch.__main__", "pgcachewatch.commands"):
        importlib.import_module(name)


def load(name: str) -> None:
    """Import it, unless it is for an extra whose packages are not here, as traces are."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("pgcachewatch"):
            raise


if __name__ == "__main__":
    main()
