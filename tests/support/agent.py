"""The agent as a user runs it, for tests: started by its command line, read through its pages, ended by its pid."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.collectors import free_ports

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 60.0

_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Sample = tuple[dict[str, str], float]


class Agent:
    """A running agent.

    Attributes:
        process: the supervisor, leader of a session of its own.
        port: of the Prometheus page, on 127.0.0.1 of its namespace.
    """

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path, enter: Sequence[str], port: int) -> None:
        self.process = process
        self.port = port
        self._log_path = log_path
        self._enter = enter

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self.process.pid

    @property
    def log(self) -> list[dict[str, Any]]:
        """Events so far."""
        lines = self._log_path.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def log_text(self) -> str:
        """All that the agent has written."""
        return self._log_path.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of one name."""
        return [event for event in self.log if event["event"] == name]

    def wait_event(self, name: str, count: int = 1, seconds: float = START_SECONDS) -> dict[str, Any]:
        """Waits until an event has been logged so often; gives the last one."""
        self.wait(lambda: len(self.events(name)) >= count, seconds, f"event {name}")
        return self.events(name)[count - 1]

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Polls until a condition holds; fails when its time is up or the agent has ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {seconds} s\n{self.log_text[-4000:]}")
            if self.process.poll() is not None:
                if condition():
                    return
                raise AssertionError(
                    f"the agent ended ({self.process.returncode}) before {what}\n{self.log_text[-4000:]}"
                )
            time.sleep(0.005)

    def becomes(self, read: Callable[[], object], expected: object, seconds: float = 60.0) -> None:
        """Waits until what is read is what is expected; shows how they differ when it never is."""
        deadline = time.monotonic() + seconds
        while read() != expected and time.monotonic() < deadline:
            time.sleep(0.05)
        assert read() == expected, self.log_text[-2000:]

    def get(self, path: str, accept: str = "") -> str:
        """A page of the agent, fetched inside its namespace.

        Raises:
            ConnectionError: nobody answers, or not with 200.
        """
        headers = ["-H", f"Accept: {accept}"] if accept else []
        done = subprocess.run(
            [
                *self._enter,
                "curl",
                "-sS",
                "--fail",
                "--max-time",
                "10",
                *headers,
                f"http://127.0.0.1:{self.port}{path}",
            ],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise ConnectionError(done.stderr.decode())
        return done.stdout.decode()

    def status(self) -> dict[str, Any]:
        """The document of /status."""
        document: dict[str, Any] = json.loads(self.get("/status"))
        return document

    def samples(self, name: str, **labels: str) -> list[Sample]:
        """Samples of a metric on /metrics whose labels hold the given ones."""
        return [
            (have, value)
            for have, value in parse_samples(self.get("/metrics"), name)
            if all(have.get(key) == wanted for key, wanted in labels.items())
        ]

    def total(self, name: str, **labels: str) -> int:
        """Sum of the samples of a metric."""
        return int(sum(value for _, value in self.samples(name, **labels)))

    def items(self, stage: str, signal_name: str) -> Counter[str]:
        """Items of a stage: delivered, and dropped by reason."""
        found: Counter[str] = Counter()
        for have, value in self.samples("netmon_pipeline_items_total", netmon_stage=stage, netmon_signal=signal_name):
            found[have.get("netmon_reason", have["netmon_outcome"])] += int(value)
        return +found

    def pipeline_pid(self) -> int:
        """The pid of the pipeline process."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def members(self) -> set[int]:
        """Pids of the processes of this agent that live, also of those whose supervisor is gone."""
        found = set()
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self.pid and fields[0] not in "ZX":  # session, state
                found.add(int(stat.parent.name))
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


def parse_samples(page: str, name: str) -> list[Sample]:
    """Samples of a metric in the Prometheus text format."""
    found = []
    for line in page.splitlines():
        match = _SAMPLE.match(line)
        if match and match[1] == name:
            found.append((dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return found


def command(*arguments: str) -> list[str]:
    """The argument list of an otel-netmon command under the interpreter of the tests."""
    return [sys.executable, "-m", "otel_netmon", *arguments]


@contextmanager
def agent(
    *arguments: str,
    enter: Sequence[str] = (),
    interval: float = 1.0,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
    otlp: bool = False,
    wait_ready: bool = True,
) -> Iterator[Agent]:
    """A running agent.

    Args:
        arguments: of ``otel-netmon run``.
        enter: a command prefix, for example ``NetNs.command()``.
        interval: export interval in seconds.
        port: of the Prometheus page; a free one when not given.
        otlp: whether to export by OTLP; the endpoint is in the arguments or the environment.
    """
    port = port or free_ports(1)[0]
    line = [
        *enter,
        *command(
            "run", *arguments, "--prometheus", f"127.0.0.1:{port}", "--set", f"export.interval_seconds={interval}"
        ),
        *([] if otlp else ["--set", "otlp.enabled=false"]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "agent.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                line,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {}), "NO_COLOR": "1"},
            )
        running = Agent(process, log_path, enter, port)
        try:
            if wait_ready:
                running.wait_event("agent.ready")
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
