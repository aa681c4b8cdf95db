"""A real Prometheus with our configuration and alerts beside a real relay, whose PostgreSQL is killed.

Scraping, evaluating and waiting are made shorter, targets and places those of the test; expressions and rules are ours.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import yaml

from pgcachewatch_daemon.embedded import EmbeddedPostgres
from tests.raw_client import CHANNEL, payload
from tests.relay_process import RelayProcess, free_port
from tests.tidy.tree import ROOT
from tests.waiting import eventually, wait_until

PROMETHEUS = shutil.which("prometheus")
FOLDER = ROOT / "deploy" / "prometheus"
FIRING = 'ALERTS{alertstate="firing"}'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not here; Debian has it"),
]


class Prometheus:
    """Asked over its own interface."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def series(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that the expression gives now."""
        url = f"{self._address}/api/v1/query?query={quote(expression)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]  # Any: as JSON has it
        return [(one["metric"], float(one["value"][1])) for one in result]

    def value(self, expression: str) -> float | None:
        found = self.series(expression)
        return found[0][1] if len(found) == 1 else None


@contextmanager
def running(folder: Path, relay: RelayProcess) -> Iterator[Prometheus]:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{relay.port}"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    rules = (FOLDER / "alerts.yml").read_text(encoding="utf-8")
    (folder / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 1s", rules), encoding="utf-8")
    port = free_port()
    assert PROMETHEUS is not None
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = [PROMETHEUS, *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(port)
            wait_until(prometheus.is_ready)
            yield prometheus
        finally:
            process.kill()  # its data is of no use to anybody


async def test_it_sees_events_flow_and_cries_when_postgresql_is_killed(
    private_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    with RelayProcess(private_server.dsn) as relay, running(tmp_path, relay) as prometheus:
        await eventually(lambda: prometheus.value('up{job="pgcachewatch"}') == 1)
        await eventually(lambda: prometheus.value("pgcachewatch_source_up") == 1)

        connection = await asyncpg.connect(private_server.dsn)
        try:
            while not prometheus.value("rate(pgcachewatch_events_received_total[2s])"):
                await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, payload())
        finally:
            await connection.close()
        await eventually(lambda: prometheus.series(FIRING) == [])  # before its first look it knew of no relay

        private_server.kill()
        await eventually(lambda: bool(prometheus.series(FIRING)))
        ((labels, _),) = prometheus.series(FIRING)
        assert labels["alertname"] == "PGCacheWatchSourceDown"
        assert labels["severity"] == "critical"
        assert prometheus.value("pgcachewatch_ready") == 0
