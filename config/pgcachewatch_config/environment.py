"""Variables PGCACHEWATCH_*: which are options, and which of the others deserve a word.

A variable that nobody knows is a warning and no error, because the environment is shared: with clients in the same
container, and with Kubernetes, which describes a Service of the name "pgcachewatch" to each container beside it by
PGCACHEWATCH_PORT=tcp://10.0.0.1:8420 and a dozen others. The relay starts nevertheless: what was misspelled is at its
default, and without its options of access it serves nobody but its own machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pgcachewatch_config.settings import Settings
from pgcachewatch_config.spelling import ENVIRONMENT_PREFIX, did_you_mean, variable

FILE_SUFFIX = "_FILE"
# Not options of the relay: of the command line, of clients, and of setting up a checkout.
OTHERS = {"CONFIG", "URL", "TOKEN", "CONSUMER", "CONSUMER_TABLES", "VENV"}
SERVICE_LINK = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)")
LINKED_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that holds the value of an option, and the variable that names it."""

    path: str
    variable: str


def plain_value(name: str, environment: Mapping[str, str]) -> str | None:
    """What is said of an option itself; None when nothing is. One that is empty, or a link to a Service, is nothing."""
    value = environment.get(variable(name), "")
    return value if value and not _is_link(variable(name), value) else None


def named_file(name: str, environment: Mapping[str, str]) -> NamedFile | None:
    """The file that an option is to be read from."""
    path = environment.get(variable(name) + FILE_SUFFIX, "")
    return NamedFile(path, variable(name) + FILE_SUFFIX) if path and not _is_option(name + "_file") else None


def odd_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that looks like an option and is none."""
    found = []
    for name, value in sorted(environment.items()):
        ending = name.removeprefix(ENVIRONMENT_PREFIX)
        if ending == name or ending in OTHERS or not value:
            continue
        if _is_option(ending.lower()):
            if _is_link(name, value):
                found.append(
                    f"{name}={value} is Kubernetes' link to a Service of that name and no setting, so it is not used; "
                    "set enableServiceLinks: false in the pod, or name the Service otherwise"
                )
        elif not _is_option(ending.removesuffix(FILE_SUFFIX).lower()) and not SERVICE_LINK.fullmatch(ending):
            advice = did_you_mean(ending.lower(), spell=variable) or "see config/pgcachewatch.toml for those there are"
            found.append(f"the environment sets {name}, but there is no such option, so it is not used; {advice}")
    return found


def _is_option(name: str) -> bool:
    return name in Settings.model_fields


def _is_link(name: str, value: str) -> bool:
    return name.endswith("_PORT") and LINKED_ADDRESS.match(value) is not None
