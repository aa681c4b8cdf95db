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
# Programs that run when they are imported, and what needs packages that the image does not have.
LEFT_OUT = (".__main__", ".embedded", ".demo")


def main() -> None:
    for package in (pgcachewatch_daemon, pgcachewatch_config, pgcachewatch.protocol):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not any(part in f"{module.name}." for part in (f"{name}." for name in LEFT_OUT)):
                importlib.import_module(module.name)
    for name in (*LATE, "pgcachewatch.__main__"):
        importlib.import_module(name)


if __name__ == "__main__":
    main()
