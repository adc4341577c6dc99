"""The agent as a user starts it: a process, its log, its pages. Nothing of it is imported here."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class AgentError(Exception):
    """The agent did not do what it has to; the message holds the end of its log."""


class Agent:
    """`otel-netmon run` on one interface.

    Args:
        interface: its --interface.
        port: of the Prometheus page on 127.0.0.1.
        log: a file that receives its stderr.
        sets: further --set KEY=VALUE.
    """

    def __init__(self, interface: str, port: int, log: Path, sets: list[str]) -> None:
        command = [sys.executable, "-m", "otel_netmon", "run", "--interface", interface]
        command += ["--prometheus", f"127.0.0.1:{port}"]
        for pair in ("otlp.enabled=false", "export.interval_seconds=1", *sets):
            command += ["--set", pair]
        self._port = port
        self._started = time.monotonic()
        self._log = log.open("w")
        self._lines: list[str] = []
        self._ready: dict[str, Any] | None = None
        self._said = threading.Event()
        ours, theirs = os.pipe()
        self._stderr = os.fdopen(ours)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def _read(self) -> None:
        for line in self._stderr:
            self._lines.append(line)
            self._log.write(line)
            self._log.flush()
            if line.startswith("{") and json.loads(line)["event"] == "agent.ready":
                self._ready = json.loads(line)
                self._said.set()
        self._said.set()
        self._log.close()
        self._stderr.close()

    def _failure(self, what: str) -> AgentError:
        return AgentError(f"{what}; its log ends: {''.join(self._lines[-12:]).strip()}")

    def wait_ready(self, seconds: float) -> tuple[dict[str, Any], float]:
        """Waits for the event agent.ready; gives it and the seconds from exec to it."""
        if not self._said.wait(seconds):
            raise self._failure(f"not ready after {seconds:.0f} s")
        if self._ready is None:
            raise self._failure(f"ended with {self._process.wait()} before it was ready")
        return self._ready, round(time.monotonic() - self._started, 2)

    def processes(self) -> list[int]:
        """The supervisor and its descendants."""
        parents: dict[int, int] = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                text = path.read_text()
            except (FileNotFoundError, ProcessLookupError):  # it has ended since the folder was listed
                continue
            parents[int(path.parent.name)] = int(text.rpartition(")")[2].split()[1])
        family = {self.pid}
        while True:
            more = {pid for pid, parent in parents.items() if parent in family} - family
            if not more:
                return sorted(family)
            family |= more

    def page(self, path: str) -> str:
        """GET of one of its pages."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        finally:
            connection.close()
        if response.status != 200:
            raise self._failure(f"GET {path}: {response.status} {body.strip()}")
        return body

    def samples(self, metric: str) -> list[tuple[dict[str, str], int]]:
        """Labels and value of a metric's samples on /metrics."""
        rows = []
        for line in self.page("/metrics").splitlines():
            if line.startswith(f"{metric}{{"):
                labels, _, value = line.rpartition("} ")
                rows.append((dict(_LABEL.findall(labels)), int(float(value))))
        return rows

    def total(self, metric: str, **labels: str) -> int:
        """Sum of a metric's samples with these labels."""
        return sum(value for found, value in self.samples(metric) if labels.items() <= found.items())

    def stop(self, seconds: float) -> int:
        """SIGTERM; gives the exit code."""
        return self._end(signal.SIGTERM, seconds)

    def kill(self) -> int:
        """SIGKILL for the supervisor alone, as the kernel's out-of-memory killer would; gives the exit code."""
        return self._end(signal.SIGKILL, 10.0)

    def _end(self, number: signal.Signals, seconds: float) -> int:
        self._process.send_signal(number)
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise self._failure(f"has not ended {seconds:.0f} s after {number.name}") from None

    def abandon(self, pids: list[int]) -> None:
        """Ends what is left of it after a failure: these processes, which it started."""
        for pid in {self.pid, *pids}:
            subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)
        self._process.wait()
