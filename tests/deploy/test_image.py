"""The relay's image, built from the Dockerfile and run by a real engine: what is in it, and how it lives and ends.

Runs where an engine answers that has the base image: nothing is pulled here (`make lane-container` brings both). The
packages come from Debian and from the package index; where these can not be reached, the tests are skipped too.
Containers share the machine's network, so that the address of the tests' database holds inside. The build's own layers
stay behind, to make the next one short.
"""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import pgcachewatch
from pgcachewatch.models import DEFAULT_PG_CHANNEL
from tests import docker_engine
from tests.docker_engine import Client, Image
from tests.postgres import Database
from tests.raw_client import payload
from tests.relay_process import free_port
from tests.tidy.tree import ROOT
from tests.waiting import eventually, wait_until

BUILD_TIMEOUT_S = 600
STOP_TIMEOUT_S = 30
LOCKED = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)
LOCKED_VERSION = re.compile(r"^([a-z0-9-]+)==([^ \\]+)", re.MULTILINE)
OFFLINE = ("after connection broken by", "Temporary failure resolving", "Could not connect to")  # pip, then apt
SIZE_LIMIT_BYTES = 150_000_000
NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
Container = Any  # docker's, which has no types

pytestmark = [pytest.mark.container, pytest.mark.slow]


@pytest.fixture(scope="module")
def engine() -> Iterator[Client]:
    with docker_engine.engine_with(docker_engine.base_image()) as client:
        client.api.timeout = BUILD_TIMEOUT_S
        yield client


@pytest.fixture(scope="module")
def image(engine: Client) -> Iterator[Image]:
    import docker

    tag = f"pgcachewatch-test:{uuid.uuid4().hex}"
    try:
        built, _ = engine.images.build(path=str(ROOT), tag=tag, rm=True, forcerm=True, network_mode="host")
    except docker.errors.BuildError as error:
        log = "".join(line.get("stream", "") for line in error.build_log)
        if any(sign in log for sign in OFFLINE):
            docker_engine.skip("the engine has the base image, but a build can not reach Debian and the package index")
        pytest.fail(f"{error}\n{log}")
    yield built
    engine.images.remove(tag)


@contextmanager
def container(engine: Client, image: Image, **options: Any) -> Iterator[Container]:  # Any: docker's own options
    """Started, and removed at the end; as unprivileged as deploy/compose.yaml has it."""
    started = engine.containers.run(
        image.id,
        detach=True,
        network_mode="host",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        **options,
    )
    try:
        yield started
    finally:
        started.remove(force=True, v=True)


@contextmanager
def relay(engine: Client, image: Image, dsn: str) -> Iterator[tuple[Container, int]]:
    port = free_port()
    environment = {
        "PGCACHEWATCH_DSN": dsn,
        "PGCACHEWATCH_PORT": str(port),
        "PGCACHEWATCH_ALLOW_ANONYMOUS": "true",
    }
    with container(engine, image, environment=environment) as started:
        yield started, port


def log_of(started: Container) -> str:
    return str(started.logs().decode())


def printed_by(engine: Client, image: Image, program: str) -> str:
    with container(engine, image, entrypoint=["python", "-c", program]) as started:
        assert started.wait()["StatusCode"] == 0, log_of(started)
        return log_of(started)


def test_image_holds_the_locked_packages_and_ours_and_no_installer(engine: Client, image: Image) -> None:
    program = "from importlib import metadata; print(*(each.name for each in metadata.distributions()))"

    inside = {name.lower().replace("_", "-") for name in printed_by(engine, image, program).split()}

    locked = set(LOCKED.findall((ROOT / "deploy/locks/daemon.txt").read_text()))
    assert inside == locked | {"pgcachewatch"}


def test_image_is_small_and_says_where_it_comes_from(engine: Client, image: Image) -> None:
    labels = image.attrs["Config"]["Labels"]

    assert image.attrs["Size"] < SIZE_LIMIT_BYTES
    assert {
        f"org.opencontainers.image.{name}" for name in ("title", "source", "version", "revision", "licenses")
    } < set(labels)


def test_image_holds_its_bill_of_materials(engine: Client, image: Image) -> None:
    with container(engine, image, entrypoint=["cat", "/opt/pgcachewatch/sbom.cdx.json"]) as started:
        assert started.wait()["StatusCode"] == 0
        bill = json.loads(log_of(started))

    told = {(each["name"], each["version"]) for each in bill["components"] if each["purl"].startswith("pkg:pypi/")}
    locked = set(LOCKED_VERSION.findall((ROOT / "deploy/locks/daemon.txt").read_text()))
    assert told == locked
    assert any(each["purl"].startswith("pkg:deb/debian/libssl") for each in bill["components"])


def test_start_compiles_nothing(engine: Client, image: Image) -> None:
    """What has no bytecode is compiled at each start, because nobody may write it: that would take half a second."""
    program = (
        "import pathlib, sys; from importlib.util import cache_from_source; import pgcachewatch_daemon.cli; "
        "import pgcachewatch_daemon.workers.worker; "
        "found = [m.__spec__.origin for m in list(sys.modules.values()) if getattr(m, '__spec__', None)]; "
        "print([f for f in found if f and f.endswith('.py') and not pathlib.Path(cache_from_source(f)).exists()])"
    )

    assert printed_by(engine, image, program).strip() == "[]"


def test_image_runs_as_nobody_who_could_change_it(engine: Client, image: Image) -> None:
    program = (
        "import os, sys; folders = [each[0] for each in os.walk(sys.prefix)]; "
        "print(os.getuid(), any(os.access(folder, os.W_OK) for folder in folders))"
    )

    # By number: whoever forbids root looks at the configuration, where a name tells nothing.
    assert image.attrs["Config"]["User"] == "10001"
    assert printed_by(engine, image, program).split() == ["10001", "False"]


async def test_relay_in_the_image_becomes_healthy_serves_and_drains(
    engine: Client, image: Image, database: Database
) -> None:
    connection = await database.connect()
    runs = 0

    async def count() -> int:
        nonlocal runs
        runs += 1
        return runs

    def is_healthy() -> bool:
        started.reload()
        return bool(started.attrs["State"]["Health"]["Status"] == "healthy")

    with relay(engine, image, database.dsn) as (started, port):
        async with pgcachewatch.connect(f"ws://127.0.0.1:{port}") as client:
            counted = client.cache(count, tables=["users"])
            await client.wait_live()
            assert [await counted(), await counted()] == [1, 1]
            await connection.execute("SELECT pg_notify($1, $2)", DEFAULT_PG_CHANNEL, payload())
            await client.barrier()
            assert [await counted(), await counted()] == [2, 2]
            await eventually(is_healthy)

            await asyncio.to_thread(started.stop, timeout=STOP_TIMEOUT_S)

        assert started.wait()["StatusCode"] == 0
        assert "relay stopped" in log_of(started)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_signal_to_process_1_ends_the_container_cleanly(
    engine: Client, image: Image, database: Database, signal: str
) -> None:
    with relay(engine, image, database.dsn) as (started, _):
        wait_until(lambda: "relay listening" in log_of(started))

        started.kill(signal)

        assert started.wait(timeout=STOP_TIMEOUT_S)["StatusCode"] == 0


def test_image_does_not_serve_strangers_unless_it_is_told_to(engine: Client, image: Image) -> None:
    with container(engine, image, environment={"PGCACHEWATCH_DSN": NO_DATABASE}) as started:
        assert started.wait(timeout=STOP_TIMEOUT_S)["StatusCode"] == 2
        assert "allow_anonymous" in log_of(started)


def test_image_is_not_healthy_without_its_database(engine: Client, image: Image) -> None:
    kind, *command = image.attrs["Config"]["Healthcheck"]["Test"]
    assert kind == "CMD"
    with relay(engine, image, NO_DATABASE) as (started, _):
        wait_until(lambda: "source unavailable" in log_of(started))

        status, output = started.exec_run(command)

        assert status != 0
        assert b"503" in output


def test_dsn_that_can_not_work_ends_the_container_with_one_line_and_exit_code_2(engine: Client, image: Image) -> None:
    with relay(engine, image, "no address") as (started, _):
        assert started.wait()["StatusCode"] == 2
        assert log_of(started).count("\n") == 1
        assert "PGCACHEWATCH_DSN" in log_of(started)
