"""`make run`: a collector on loopback unless one is named, the agent, and a live summary on a terminal.

Arguments go to `otel-netmon run`. Without a terminal the agent's log lines go to stderr. SIGINT, SIGTERM and SIGHUP
end the summary first, then the agent (which flushes), then the collector, each by its own process id. The agent and the
collector also end when this process is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from otel_netmon.cli import run as run_command
from otel_netmon.cli.main import Parser, report
from otel_netmon.cli.options import load_config
from otel_netmon.config.load import Loaded
from otel_netmon.errors import NetmonError
from scripts.local_collector import ROOT, rotel_command, rotel_environment

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLLECTOR_SECONDS = 10  # until its ports accept
READY_SECONDS = 30  # until the agent has attached everything; a compile takes 4
FLUSH_SECONDS = 15  # the OTLP exporters give a last batch 10
SUMMARY_SECONDS = 3
CYCLE_MILLISECONDS = "2000"  # on a terminal somebody waits for the first rates
COMMAND = [sys.executable, "-m", "otel_netmon"]
LOGS = ROOT / ".cache" / "run"


class CannotRunError(Exception):
    """What keeps `make run` from running, with a remedy, and the exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stopped(Exception):
    """A signal asked to stop before all was started."""


def say(text: str) -> None:
    print(f"run: {text}", file=sys.stderr, flush=True)


class Signals:
    """Waits without polling: the arrival of a signal makes a descriptor readable (signal.set_wakeup_fd)."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self.stopped = False

    def wait(self, seconds: float | None = None) -> None:
        """Returns when a signal arrived or the time is over; `stopped` tells whether one asked to stop."""
        if select.select([self._read], [], [], seconds)[0]:
            self.stopped = self.stopped or any(number in STOP_SIGNALS for number in self._read.recv(4096))


def start(
    command: list[str], environment: Mapping[str, str], log: int | None, *, own_session: bool = True
) -> subprocess.Popen[bytes]:
    """Starts a child that also ends when this process dies.

    With a session of its own it is out of reach of the terminal's Ctrl-C and ended in its turn; what it writes goes to
    the log, or to stderr where that is None. Without, it has the terminal.
    """
    error = sys.stderr.fileno() if log is None else log
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "--", *command],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL if own_session else None,
        stdout=error if own_session else None,
        stderr=error if own_session else None,
        start_new_session=own_session,
    )


def end(name: str, process: subprocess.Popen[bytes] | None, seconds: float) -> None:
    """Ends a child by its process id: SIGTERM, and SIGKILL with a word about it when that took too long."""
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        say(f"the {name} (pid {process.pid}) did not end within {seconds:g} s of SIGTERM: killing it")
        process.kill()
        process.wait()


def tail(path: Path, lines: int = 10) -> str:
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def complaint(path: Path) -> str:
    """What the agent's log says of its end: its errors without the JSON around them, else its last lines."""
    errors = []
    for line in path.read_text(errors="replace").splitlines():
        if not line.startswith("{"):
            errors.append(line)
        elif (record := json.loads(line))["level"] == "error":
            errors.append(f"{record['event']}: {record.get('error') or record.get('detail') or record}")
    return "\n".join(errors[-20:]) or tail(path)


def event(path: Path, name: str) -> dict[str, Any] | None:
    """The last event of this name in the agent's log, None while there is none; a line that is being written is not read."""
    complete = path.read_text(errors="replace").rpartition("\n")[0]
    found = (json.loads(line) for line in complete.splitlines() if line.startswith("{") and f'"{name}"' in line)
    return next((each for each in reversed(list(found)) if each["event"] == name), None)


def holder(port: int) -> str:
    """Who listens on a TCP port, as ss(8) tells it; empty where it does not."""
    table = subprocess.run(["ss", "-Hltnp", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    users = table.partition("users:((")[2]
    return users.split("),")[0].rstrip(")\n ").replace('"', "").replace(",", " ") if users else ""


def require_free(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError as error:
            by = holder(int(port))
            msg = (
                f"the collector cannot listen on {address}: {error.strerror}{f' ({by})' if by else ''}; remedy: stop what "
                f"listens there, or send to it: OTEL_EXPORTER_OTLP_ENDPOINT=http://{address} make run, or change the "
                "address in collector-config/rotel.env"
            )
            raise CannotRunError(msg) from error


def accepts(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def start_collector(signals: Signals) -> tuple[subprocess.Popen[bytes], str, str]:
    """Starts rotel as collector-config/rotel.env says, or ROTEL_* of the environment; gives its gRPC and HTTP addresses."""
    environment = {name: os.environ.get(name, value) for name, value in rotel_environment().items()}
    grpc, http = environment["ROTEL_OTLP_GRPC_ENDPOINT"], environment["ROTEL_OTLP_HTTP_ENDPOINT"]
    for address in (grpc, http):
        require_free(address)
    path = LOGS / "collector.log"
    with path.open("wb") as log:
        collector = start(rotel_command(), environment | {"NO_COLOR": "1"}, log.fileno())
    deadline = time.monotonic() + COLLECTOR_SECONDS
    while not (accepts(grpc) and accepts(http)):
        if signals.stopped:
            end("collector", collector, COLLECTOR_SECONDS)
            raise Stopped
        if collector.poll() is not None or time.monotonic() > deadline:
            end("collector", collector, COLLECTOR_SECONDS)
            msg = f"the collector did not start (exit code {collector.returncode}):\n{tail(path)}"
            raise CannotRunError(msg)
        signals.wait(0.05)
    say(f"collector: rotel on {grpc} (OTLP/gRPC) and {http} (OTLP/HTTP), log in {path.relative_to(ROOT)}")
    return collector, grpc, http


def configuration(arguments: list[str]) -> Loaded:
    """What the agent will make of these arguments, its file and the environment."""
    parser = Parser("make run")
    run_command.add_arguments(parser)
    return load_config(parser.parse_args(arguments))


def needs_collector(loaded: Loaded) -> bool:
    """Whether the metrics are to be sent and nobody said where."""
    named = ("otlp.endpoint", "otlp.metrics_endpoint")
    return loaded.config.otlp.enabled and not any(key in loaded.origins for key in named)


def wait_ready(agent: subprocess.Popen[bytes], path: Path, signals: Signals) -> dict[str, Any]:
    """The agent's event agent.ready."""
    deadline = time.monotonic() + READY_SECONDS
    while (ready := event(path, "agent.ready")) is None:
        if signals.stopped:
            raise Stopped
        if agent.poll() is not None:
            raise CannotRunError(f"the agent did not start:\n{complaint(path)}", agent.returncode)
        if time.monotonic() > deadline:
            raise CannotRunError(f"the agent was not ready within {READY_SECONDS} s:\n{tail(path)}")
        signals.wait(0.05)
    return ready


def watch(
    agent: subprocess.Popen[bytes],
    collector: subprocess.Popen[bytes] | None,
    summary: subprocess.Popen[bytes] | None,
    signals: Signals,
) -> None:
    """Returns when a signal asks to stop, or the agent or the summary has ended."""
    told = summary is not None  # whose screen shows that nothing is taken any more
    while not signals.stopped:
        if agent.poll() is not None or (summary is not None and summary.poll() is not None):
            return
        if collector is not None and collector.poll() is not None and not told:
            told = True
            say(
                f"the collector ended by itself (exit code {collector.returncode}); the agent counts what it cannot send"
            )
        signals.wait()


def last_words(path: Path) -> None:
    """What became of the points, now that the summary is gone."""
    stopped = event(path, "otlp.stopped")
    if stopped is not None:
        lost = ", ".join(f"{reason} {count}" for reason, count in stopped["dropped"].items() if count)
        say(f"the collector took {stopped['delivered']:,} points; dropped: {lost or 'none'}")


def run(arguments: list[str]) -> int:
    loaded = configuration(arguments)
    signals = Signals()
    LOGS.mkdir(parents=True, exist_ok=True)
    terminal = sys.stdout.isatty()
    path = LOGS / "agent.log"
    environment: dict[str, str] = {}
    command = [*COMMAND, "run", *arguments]
    collector = agent = summary = None
    try:
        if needs_collector(loaded):
            collector, grpc, http = start_collector(signals)
            address = grpc if loaded.config.otlp.protocol == "grpc" else http
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://{address}"
            if terminal and "export.interval_seconds" not in loaded.origins:
                environment["OTEL_METRIC_EXPORT_INTERVAL"] = CYCLE_MILLISECONDS
        if terminal:
            quiet = loaded.config.log.level in ("warning", "error")
            command += ["--set", "log.format=json", *(["--set", "log.level=info"] if quiet else [])]
            with path.open("wb") as log:
                agent = start(command, environment, log.fileno())
            ready = wait_ready(agent, path, signals)
            say(f"agent: pid {agent.pid}, log in {path.relative_to(ROOT)}")
            if ready["prometheus"] is None:
                say("no summary: it reads the agent's page, and prometheus.enabled is false")
            else:
                summary = start(
                    [*COMMAND, "top", "--url", f"http://{ready['prometheus']}"], {}, None, own_session=False
                )
        else:
            agent = start(command, environment, None)
        watch(agent, collector, summary, signals)
        if terminal and agent.poll() is not None and agent.returncode != 0:
            raise CannotRunError(f"the agent ended:\n{complaint(path)}", agent.returncode)
    finally:
        if summary is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                summary.wait(SUMMARY_SECONDS / 6)  # Ctrl-C reached it too: it is restoring the terminal
        end("summary", summary, SUMMARY_SECONDS)
        end("agent", agent, FLUSH_SECONDS)
        end("collector", collector, COLLECTOR_SECONDS)
    if terminal:
        last_words(path)
    return agent.returncode


def main() -> int:
    try:
        code = run(sys.argv[1:])
    except Stopped:
        return 0
    except CannotRunError as error:
        say(str(error))
        code = error.exit_code
    except NetmonError as error:
        report(error)
        return error.exit_code
    except FileNotFoundError as error:
        say(str(error))
        return 1
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
