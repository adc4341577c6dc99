"""Fixtures of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import collectors

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _root_for_kernel_tests(request: pytest.FixtureRequest) -> None:
    """A test marked ``kernel`` needs root: it is skipped without, and fails in continuous integration."""
    if request.node.get_closest_marker("kernel") is None or os.geteuid() == 0:
        return
    reason = "loads eBPF programs and makes network namespaces: needs root"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the source tree."""
    return ROOT


@pytest.fixture(scope="session")
def command() -> list[str]:
    """``otel-netmon`` in the environment that runs the tests; arguments are appended."""
    return [sys.executable, "-m", "otel_netmon"]


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return collectors.free_ports(1)[0]


@pytest.fixture
def uninstrumented() -> dict[str, str]:
    """The environment without coverage's variables: for a child whose time or memory is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE_", "COV_CORE_"))}


@pytest.fixture
def otelcol(tmp_path: Path) -> Iterator[collectors.Collector]:
    """The OpenTelemetry Collector, running on free loopback ports."""
    with collectors.otelcol(tmp_path) as collector:
        yield collector


@pytest.fixture
def rotel(tmp_path: Path) -> Iterator[collectors.Collector]:
    """rotel, running on free loopback ports."""
    with collectors.rotel(tmp_path) as collector:
        yield collector
