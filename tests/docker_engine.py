"""The Docker engine of this machine, for the tests that want one: is it there, and what images does it have.

It is asked where testcontainers asks: DOCKER_HOST, else the current docker context, else the default socket. Nothing
here starts a container. Unavailable is raised, in ENGINE_TIMEOUT_S, when nobody answers; its text says what to do.

The packages that speak to it take half a second to import, so they are imported by the first who asks.
"""

from __future__ import annotations

import gc
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import pytest

from tests.tidy.tree import ROOT

ENGINE_TIMEOUT_S = 2
PULL_TIMEOUT_S = 120
REQUIRED_VARIABLE = "PGCW_CONTAINER_REQUIRED"
BASE = re.compile(r"^ARG BASE_IMAGE=(\S+)$", re.MULTILINE)

Client = Any  # docker.DockerClient, which has no types
Image = Any  # docker's, likewise


class Unavailable(Exception):
    """Something that the tests can do without is not on this machine; the text says why."""


@contextmanager
def engine() -> Iterator[Client]:
    """The engine's client, closed at the end."""
    from testcontainers.core.docker_client import DockerClient, get_docker_host

    client: Client = None
    with warnings.catch_warnings():
        # The docker package leaves its socket to the collector when nobody answers.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = DockerClient(timeout=ENGINE_TIMEOUT_S).client
        except _errors():
            pass  # said below, because the exception keeps the socket alive
        if client is None:
            gc.collect()
            address = get_docker_host() or "the default socket"
            raise Unavailable(f"no engine answers at {address}; start one, or say in DOCKER_HOST where it is")
    try:
        yield client
    finally:
        client.close()


def image(client: Client, name: str) -> Image:
    """The image that the engine has, or gets in PULL_TIMEOUT_S."""
    try:
        return present_image(client, name)
    except Unavailable:
        patience_s, client.api.timeout = client.api.timeout, PULL_TIMEOUT_S
    try:
        return client.images.pull(name)
    except _errors() as error:
        raise Unavailable(f"the engine answers, but the image {name} can not be had: {error}") from error
    finally:
        client.api.timeout = patience_s


def present_image(client: Client, name: str) -> Image:
    """The image if the engine has it; nothing is pulled."""
    try:
        return client.images.get(name)
    except _errors() as error:
        raise Unavailable(f"the engine answers, but does not have the image {name}: {error}") from error


def environment_of(found: Image) -> dict[str, str]:
    """The variables that the image sets for its programs."""
    return dict(pair.partition("=")[::2] for pair in found.attrs["Config"].get("Env") or ())


@contextmanager
def engine_with(*names: str) -> Iterator[Client]:
    """The engine, for a test marked `container`: without it, or without one of the images, the test is skipped."""
    try:
        with engine() as client:
            for name in names:
                present_image(client, name)
            yield client
    except Unavailable as reason:
        skip(str(reason))


def skip(reason: str) -> NoReturn:
    """Skip the test; in the container lane, which brings an engine of its own, fail it."""
    if os.environ.get(REQUIRED_VARIABLE):
        pytest.fail(f"{REQUIRED_VARIABLE} is set, but {reason}")
    pytest.skip(reason)


def base_image() -> str:
    """What the Dockerfile is built on."""
    found = BASE.search((ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert found, "the Dockerfile names its base image"
    return found[1]


def _errors() -> tuple[type[Exception], ...]:
    import docker
    import requests

    return docker.errors.DockerException, requests.RequestException, OSError
