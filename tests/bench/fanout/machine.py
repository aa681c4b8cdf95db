"""What a table of figures has to say about where it was made."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path


def description() -> dict[str, str]:
    """Of this machine, now: nothing that names it, all that explains figures."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")}
    return {
        "at": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "cpu": ", ".join(sorted(models)) or platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load average": load_average(),
    }


def load_average() -> str:
    """Over 1, 5 and 15 minutes."""
    return " ".join(f"{each:.2f}" for each in os.getloadavg())
