"""A real Prometheus with our configuration and alerts beside a real relay, whose PostgreSQL is killed.

Scraping, evaluating and waiting are made shorter, targets and places those of the test; expressions and rules are ours.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from tests.waiting import LIMIT_S, eventually, wait_until

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
            with urllib.request.urlopen(f"{self._address}/-/ready", timeout=LIMIT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def series(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that the expression gives now."""
        url = f"{self._address}/api/v1/query?query={quote(expression)}"
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]  # Any: as JSON has it
        return [(one["metric"], float(one["value"][1])) for one in result]

    def names(self, job: str) -> set[tuple[str, str | None]]:
        """Of a target's series, with bounds as this version and later ones spell them."""
        found = {(labels["__name__"], labels.get("le")) for labels, _ in self.series(f'{{job="{job}"}}')}
        return {(name, le and str(float(le))) for name, le in found if not name.startswith("ALERTS")}

    def units(self, job: str) -> dict[str, str]:
        """What a target said of its metrics, by name."""
        target = quote(f'{{job="{job}"}}')
        url = f"{self._address}/api/v1/targets/metadata?match_target={target}"
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            told: list[dict[str, Any]] = json.load(answer)["data"]  # Any: as JSON has it
        return {each["metric"]: each["unit"] for each in told if each["unit"]}

    def value(self, expression: str) -> float | None:
        found = self.series(expression)
        return found[0][1] if len(found) == 1 else None


@contextmanager
def as_text(relay: RelayProcess) -> Iterator[int]:
    """The port of somebody who asks the relay for no format: Prometheus itself asks for OpenMetrics."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{relay.port}/metrics", timeout=LIMIT_S) as answer:
                kind, text = answer.headers["Content-Type"], answer.read()
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def running(folder: Path, relay: RelayProcess, *, text_port: int | None = None) -> Iterator[Prometheus]:
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    configuration["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "200ms"}
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{relay.port}"]
    if text_port is not None:
        text_job = {"job_name": "text", "static_configs": [{"targets": [f"127.0.0.1:{text_port}"]}]}
        configuration["scrape_configs"].append(text_job)
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
        # Not alone, if the machine is so busy that a scrape has failed as well.
        firing = f'{FIRING[:-1]},alertname="PGCacheWatchSourceDown",severity="critical"}}'
        await eventually(lambda: bool(prometheus.series(firing)))
        await eventually(lambda: prometheus.value("pgcachewatch_ready") == 0)


async def test_it_reads_the_same_from_openmetrics_and_from_the_text(
    private_server: EmbeddedPostgres, tmp_path: Path
) -> None:
    with (
        RelayProcess(private_server.dsn) as relay,
        as_text(relay) as text_port,
        running(tmp_path, relay, text_port=text_port) as prometheus,
    ):
        await eventually(lambda: bool(prometheus.names("text")))
        await eventually(lambda: prometheus.names("text") == prometheus.names("pgcachewatch"))
        assert ("pgcachewatch_barrier_seconds_bucket", "1.0") in prometheus.names("text")
        assert prometheus.units("pgcachewatch")["pgcachewatch_barrier_seconds"] == "seconds"
        assert prometheus.units("text") == {}, "it was not OpenMetrics there"
