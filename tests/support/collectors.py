"""Real OpenTelemetry Collectors on loopback, and what they say that they received."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from scripts.local_collector import ROOT, rotel_command, rotel_environment
from support.points import Point, Span, points_of_otlp_json, points_of_rotel_log, spans_of_otlp_json

OTELCOL = ROOT / ".cache" / "otelcol"
START_SECONDS = 20.0
STOP_SECONDS = 15.0

ALL_SIGNALS = """
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [file]}
    logs: {receivers: [otlp], exporters: [file]}
"""
"""Beside what collector-config/otelcol.yaml has: its file then holds all signals in the order of arrival."""


SOCKET = """
receivers:
  otlp/socket:
    protocols:
      grpc: {{endpoint: "{path}", transport: unix}}
service:
  pipelines:
    traces: {{receivers: [otlp, otlp/socket], exporters: [file]}}
"""
"""Takes traces by a Unix socket too: from processes in network namespaces of a test."""


@dataclass(frozen=True)
class Collector:
    """A collector that runs.

    Attributes:
        grpc: endpoint for OTLP over gRPC, ``http://127.0.0.1:port``.
        http: base endpoint for OTLP over HTTP, ``http://127.0.0.1:port`` (exporters add ``/v1/metrics``).
        log: its log, for the message of a failed assertion.
        output: where it writes what it receives.
    """

    name: str
    grpc: str
    http: str
    log: Path
    process: subprocess.Popen[bytes]
    _read: Callable[[], list[Point]]
    output: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def received(self, name: str | None = None) -> list[Point]:
        """Every point so far in the order of arrival, those of one metric if a name is given."""
        return [point for point in self._read() if name is None or point.name == name]

    def ends(self) -> list[Point]:
        """Every mark of a series that ended, of an otelcol."""
        return points_of_otlp_json(self.output.read_text(), ends=True)

    def spans(self) -> list[Span]:
        """Every span so far in the order of arrival, of an otelcol with all signals."""
        return spans_of_otlp_json(self.output.read_text())

    def wait_for(self, wanted: Callable[[list[Point]], bool], seconds: float = 20.0) -> list[Point]:
        """Reads until ``wanted(points)`` holds; fails with what was received and the end of the log when it does not."""
        deadline = time.monotonic() + seconds
        while not wanted(points := self.received()):
            if time.monotonic() > deadline:
                names = sorted({point.name for point in points})
                end = self.log.read_text(errors="replace")[-2000:]
                msg = f"{self.name} did not receive it within {seconds:g} s; it has {len(points)} points of {names}\n{end}"
                raise AssertionError(msg)
            time.sleep(0.02)
        return points


def free_ports(count: int) -> list[int]:
    """TCP ports of 127.0.0.1 that nobody listens on, different from each other."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


@contextlib.contextmanager
def otelcol(
    directory: Path,
    ports: tuple[int, int] | None = None,
    *,
    all_signals: bool = False,
    socket_path: Path | None = None,
) -> Iterator[Collector]:
    """Runs the OpenTelemetry Collector with ``collector-config/otelcol.yaml``, built by ``make collector``.

    Args:
        directory: where its output and its log go.
        ports: for gRPC and HTTP; free ones when not given.
        all_signals: take traces and logs too.
        socket_path: take traces over gRPC there, too.
    """
    if not OTELCOL.exists():
        msg = f"{OTELCOL} is not there; remedy: make collector"
        raise FileNotFoundError(msg)
    grpc, http = ports or free_ports(2)
    output = directory / f"otelcol-{grpc}.json"
    output.touch()
    environment = {
        "OTELCOL_GRPC": f"127.0.0.1:{grpc}",
        "OTELCOL_HTTP": f"127.0.0.1:{http}",
        "OTELCOL_FILE": str(output),
    }
    command = [str(OTELCOL), "--config", str(ROOT / "collector-config" / "otelcol.yaml")]
    added = {"all-signals": ALL_SIGNALS if all_signals else ""}
    added["socket"] = SOCKET.format(path=socket_path) if socket_path is not None else ""
    for name, text in added.items():
        if text:
            more = directory / f"{name}.yaml"
            more.write_text(text)
            command += ["--config", str(more)]

    def read() -> list[Point]:
        return points_of_otlp_json(output.read_text())

    with _running("otelcol", command, environment, (grpc, http), directory, read, output) as collector:
        yield collector


@contextlib.contextmanager
def rotel(directory: Path, ports: tuple[int, int] | None = None) -> Iterator[Collector]:
    """Runs rotel with ``collector-config/rotel.env``, on other ports and with every point in its log.

    Args:
        directory: where its log goes, which is its output too.
        ports: for gRPC and HTTP; free ones when not given.
    """
    grpc, http = ports or free_ports(2)
    environment = rotel_environment() | {
        "ROTEL_OTLP_GRPC_ENDPOINT": f"127.0.0.1:{grpc}",
        "ROTEL_OTLP_HTTP_ENDPOINT": f"127.0.0.1:{http}",
        "ROTEL_DEBUG_LOG_VERBOSITY": "detailed",
        "NO_COLOR": "1",
    }
    log = directory / f"rotel-{grpc}.log"

    def read() -> list[Point]:
        return points_of_rotel_log(log.read_text())

    with _running("rotel", rotel_command(), environment, (grpc, http), directory, read) as collector:
        yield collector


@contextlib.contextmanager
def _running(
    name: str,
    command: list[str],
    environment: dict[str, str],
    ports: tuple[int, int],
    directory: Path,
    read: Callable[[], list[Point]],
    written: Path | None = None,
) -> Iterator[Collector]:
    log = directory / f"{name}-{ports[0]}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_listening(name, process, ports, log)
        grpc, http = (f"http://127.0.0.1:{port}" for port in ports)
        yield Collector(name, grpc, http, log, process, read, written or log)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait_listening(name: str, process: subprocess.Popen[bytes], ports: tuple[int, int], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    for port in ports:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"{name} does not listen (exit code {process.returncode}):\n{log.read_text(errors='replace')}"
                raise AssertionError(msg)
            time.sleep(0.02)
