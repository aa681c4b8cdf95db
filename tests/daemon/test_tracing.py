"""Traces are there when they are wanted, and say what to install when they can not be."""

from __future__ import annotations

import sys

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon import tracing
from pgcachewatch_daemon.io.traces import SpanTraces
from pgcachewatch_daemon.tracing import open_traces


def test_nobody_who_does_not_want_them_has_any() -> None:
    assert open_traces(False, node="n", version="1") is None


async def test_who_wants_them_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    traces = open_traces(True, node="n", version="1")
    assert isinstance(traces, SpanTraces)
    await traces.close()


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing.check()
    monkeypatch.setattr(tracing, "EXPORTER", "no_such_package_of_opentelemetry.exporter")
    monkeypatch.delitem(sys.modules, "no_such_package_of_opentelemetry", raising=False)
    with pytest.raises(ConfigurationError, match=r"pip install 'pgcachewatch\[daemon,otel\]'.*--build-arg EXTRAS=otel"):
        tracing.check()
