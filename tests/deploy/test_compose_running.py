"""compose.yaml brought up by a real engine: an update reaches cache and WebSocket, and whatever dies comes back.

Runs where an engine answers that has the images (`make lane-container` makes stand-ins); Grafana and Prometheus are
left out where their image is missing. The tests share one stack, and each leaves it as it found it: running.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

import pgcachewatch
from pgcachewatch.models import Event
from tests import docker_engine
from tests.docker_engine import Client
from tests.postgres import DEFAULT_IMAGE
from tests.relay_process import free_port
from tests.tidy.tree import ROOT
from tests.waiting import eventually, wait_until

COMPOSE = ROOT / "deploy" / "compose.yaml"
UP_TIMEOUT_S = 300
OPTIONAL = ("prometheus", "grafana")
Container = Any  # docker's, which has no types

pytestmark = [pytest.mark.container, pytest.mark.slow]


@dataclass(frozen=True)
class Stack:
    """A project that is up. `services` are those whose images could be had."""

    engine: Client
    project: str
    command: list[str]
    environment: dict[str, str]
    services: list[str]

    def compose(self, *arguments: str) -> str:
        answer = subprocess.run(
            [*self.command, "-f", str(COMPOSE), "-p", self.project, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    def container(self, service: str) -> Container:
        labels = [f"com.docker.compose.project={self.project}", f"com.docker.compose.service={service}"]
        (found,) = self.engine.containers.list(all=True, filters={"label": labels})
        return found

    def sql(self, statement: str) -> None:
        code, output = self.container("postgres").exec_run(["psql", "-qU", "postgres", "-c", statement])
        assert code == 0, output.decode()

    def get(self, service: str, path: str) -> tuple[int, Any]:
        """Status and JSON; status 0 when nobody answers."""
        port = self.environment[f"{service.upper()}_PORT"]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, None
        except OSError:
            return 0, None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.environment['PGCACHEWATCH_PORT']}"

    def is_ready(self) -> bool:
        return self.get("pgcachewatch", "/readyz")[0] == 200

    def is_healthy(self, service: str) -> bool:
        return bool(self.container(service).attrs["State"].get("Health", {}).get("Status") == "healthy")


def compose_command() -> list[str]:
    """Version 2 where the client has it, else version 1."""
    with suppress(FileNotFoundError):
        if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
            return ["docker", "compose"]
    program = shutil.which("docker-compose")
    if program is None:
        docker_engine.skip("Compose is not installed; Debian has version 1.29 as docker-compose")
    return [program]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with docker_engine.engine_with(docker_engine.base_image(), DEFAULT_IMAGE) as engine:
        engine.api.timeout = UP_TIMEOUT_S
        ports = {name: str(free_port()) for name in ("PGCACHEWATCH", "EXAMPLE", "PROMETHEUS", "GRAFANA")}
        environment = {
            **os.environ,
            "COMPOSE_DOCKER_CLI_BUILD": "0",
            "DOCKER_BUILDKIT": "0",
            "BUILD_NETWORK": "host",
            "RELAY_IMAGE": f"pgcachewatch-test:{uuid.uuid4().hex}",
            **{f"{name}_PORT": port for name, port in ports.items()},
        }
        stack = Stack(engine, f"pgcw{uuid.uuid4().hex[:8]}", compose_command(), environment, services(engine))
        try:
            stack.compose("up", "--detach", "--build", *stack.services)
            wait_until(lambda: stack.get("example", "/products/1")[0] == 200)
            yield stack
        finally:
            stack.compose("down", "--volumes", "--timeout", "5")
            with suppress(Exception):
                engine.images.remove(environment["RELAY_IMAGE"], force=True)


def services(engine: Client) -> list[str]:
    """All but those that can be done without and whose image the engine does not have."""
    chosen = []
    for name, service in yaml.safe_load(COMPOSE.read_text())["services"].items():
        if name in OPTIONAL:
            image = service["image"].partition(":-")[2].rstrip("}")
            with suppress(docker_engine.Unavailable):
                docker_engine.present_image(engine, image)
                chosen.append(name)
        else:
            chosen.append(name)
    return chosen


def price(stack: Stack) -> float:
    return float(stack.get("example", "/products/1")[1]["price"])


def test_answer_comes_from_the_cache_until_its_row_changes(stack: Stack) -> None:
    wait_until(lambda: bool(stack.get("example", "/products/2")[1]["from"] == "cache"))
    stack.sql("UPDATE products SET name = 'pot' WHERE id = 2")

    wait_until(lambda: bool(stack.get("example", "/products/2")[1]["name"] == "pot"))


async def test_notification_in_the_database_comes_out_of_the_websocket(stack: Stack) -> None:
    async with pgcachewatch.connect(stack.url) as client, asyncio.timeout(60):
        await client.wait_live()
        events = client.events("products")
        async with events:
            stack.sql("INSERT INTO products VALUES (77, 'sieve', 7)")

            async for event in events:
                if isinstance(event, Event) and event.keys == ("77",):
                    break


def test_restart_of_the_database_is_survived(stack: Stack) -> None:
    before = stack.container("relay").attrs["State"]["StartedAt"]

    stack.container("postgres").restart(timeout=10)

    wait_until(lambda: stack.is_ready())
    stack.sql("UPDATE products SET price = 1000 WHERE id = 1")
    wait_until(lambda: stack.get("example", "/products/1")[0] == 200 and price(stack) >= 1000)
    assert stack.container("relay").attrs["State"]["StartedAt"] == before


def test_killed_relay_is_started_again_and_its_clients_come_back(stack: Stack) -> None:
    relay = stack.container("relay")
    if not relay.attrs["State"]["Pid"] or os.geteuid() != 0:
        docker_engine.skip("killing a container's process from outside needs root on the engine's machine")

    # Not through the engine, which would take it for a wish and not start it again.
    os.kill(relay.attrs["State"]["Pid"], signal.SIGKILL)

    wait_until(lambda: stack.container("relay").attrs["RestartCount"] == 1 and stack.is_ready())
    stack.sql("UPDATE products SET price = 2000 WHERE id = 1")
    wait_until(lambda: stack.get("example", "/products/1")[0] == 200 and price(stack) >= 2000)


async def test_stop_tells_clients_and_ends_cleanly(stack: Stack) -> None:
    async with pgcachewatch.connect(stack.url) as client:
        await client.wait_live()

        await asyncio.to_thread(stack.compose, "stop", "relay")
        await eventually(lambda: client.status.state != "live")

    relay = stack.container("relay")
    log = relay.logs(tail=20).decode()
    assert relay.attrs["State"]["ExitCode"] == 0
    assert "relay draining" in log
    assert "relay stopped" in log
    assert "relay cuts" not in log
    await asyncio.to_thread(stack.compose, "start", "relay")
    await eventually(stack.is_ready)


def test_prometheus_sees_the_relay(stack: Stack) -> None:
    if "prometheus" not in stack.services:
        pytest.skip("the engine has no image of Prometheus")

    def is_scraped() -> bool:
        _, answer = stack.get("prometheus", "/api/v1/query?query=pgcachewatch_source_up")
        return bool(answer and [each for each in answer["data"]["result"] if each["value"][1] == "1"])

    wait_until(is_scraped)
