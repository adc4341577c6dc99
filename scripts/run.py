"""`make run`: a collector on loopback unless one is named, the agent, and a live summary on a terminal.

Arguments go to `otel-netmon run`. Without a terminal the agent's log lines go to stderr. SIGINT, SIGTERM and SIGHUP
end the summary first, then the agent (which flushes), then the collector, each by its own process id.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from scripts.local_collector import ROOT, rotel_command, rotel_environment

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COLLECTOR_SECONDS = 10  # until its ports accept
READY_SECONDS = 30  # until the agent has attached everything; a compile takes 4
FLUSH_SECONDS = 15  # the OTLP exporters give a last batch 10
SUMMARY_SECONDS = 3
COMMAND = str(ROOT / ".venv" / "bin" / "otel-netmon")
LOGS = ROOT / ".cache" / "run"


class CannotRunError(Exception):
    """What keeps `make run` from running, with a remedy."""


class Stopped(Exception):
    """A signal asked to stop before all was started."""


def say(text: str) -> None:
    print(f"run: {text}", file=sys.stderr, flush=True)


class Signals:
    """Waits without polling: the arrival of a signal makes a descriptor readable (signal.set_wakeup_fd)."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno())
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self.stopped = False

    def wait(self, seconds: float | None = None) -> None:
        """Returns when a signal arrived or the time is over; `stopped` tells whether one asked to stop."""
        if select.select([self._read], [], [], seconds)[0]:
            self.stopped = self.stopped or any(number in STOP_SIGNALS for number in self._read.recv(4096))


def start(
    command: list[str], environment: dict[str, str], output: int | None, log: int | None
) -> subprocess.Popen[bytes]:
    """Starts a child out of reach of the terminal's Ctrl-C: it is ended in its turn, and also when this process dies."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "--", *command],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=log,
        start_new_session=True,
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


def start_collector(signals: Signals) -> tuple[subprocess.Popen[bytes], str]:
    """Starts rotel as collector-config/rotel.env says; returns it and the endpoint that the agent shall use."""
    environment = rotel_environment()
    grpc, http = environment["ROTEL_OTLP_GRPC_ENDPOINT"], environment["ROTEL_OTLP_HTTP_ENDPOINT"]
    for address in (grpc, http):
        require_free(address)
    path = LOGS / "collector.log"
    with path.open("wb") as log:
        collector = start(rotel_command(), environment | {"NO_COLOR": "1"}, log.fileno(), log.fileno())
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
    over_http = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").startswith("http")
    return collector, f"http://{http if over_http else grpc}"


def names_a_collector(arguments: list[str]) -> bool:
    """Whether the user said where the metrics go: then no collector is started."""
    variables = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    return any(os.environ.get(name) for name in variables) or any(
        argument.partition("=")[0] == "--otlp-endpoint" for argument in arguments
    )


def wait_ready(agent: subprocess.Popen[bytes], path: Path, signals: Signals) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while b"agent.ready" not in path.read_bytes():
        if signals.stopped:
            raise Stopped
        if agent.poll() is not None:
            msg = f"the agent ended at start (exit code {agent.returncode}):\n{tail(path)}"
            raise CannotRunError(msg)
        if time.monotonic() > deadline:
            msg = f"the agent was not ready within {READY_SECONDS} s:\n{tail(path)}"
            raise CannotRunError(msg)
        signals.wait(0.05)


def watch(
    agent: subprocess.Popen[bytes],
    collector: subprocess.Popen[bytes] | None,
    summary: subprocess.Popen[bytes] | None,
    signals: Signals,
) -> None:
    """Returns when a signal asks to stop, or the agent or the summary has ended."""
    told = False
    while not signals.stopped:
        if agent.poll() is not None or (summary is not None and summary.poll() is not None):
            return
        if collector is not None and collector.poll() is not None and not told:
            told = True
            say(
                f"the collector ended by itself (exit code {collector.returncode}); the agent counts what it cannot send"
            )
        signals.wait()


def run(arguments: list[str]) -> int:
    signals = Signals()
    LOGS.mkdir(parents=True, exist_ok=True)
    terminal = sys.stdout.isatty()
    environment: dict[str, str] = {}
    collector = agent = summary = None
    try:
        if not names_a_collector(arguments):
            collector, endpoint = start_collector(signals)
            environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        command = [COMMAND, "run", *arguments]
        if terminal:
            path = LOGS / "agent.log"
            with path.open("wb") as log:
                agent = start(command, environment, log.fileno(), log.fileno())
            say(f"agent: pid {agent.pid}, log in {path.relative_to(ROOT)}")
            wait_ready(agent, path, signals)
            summary = subprocess.Popen([COMMAND, "top"])
        else:
            agent = start(command, environment, None, None)
        watch(agent, collector, summary, signals)
        if terminal and agent.poll() is not None and agent.returncode != 0:
            msg = f"the agent ended (exit code {agent.returncode}):\n{tail(LOGS / 'agent.log')}"
            raise CannotRunError(msg)
    finally:
        if summary is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                summary.wait(SUMMARY_SECONDS / 6)  # Ctrl-C reached it too: it is restoring the terminal
        end("summary", summary, SUMMARY_SECONDS)
        end("agent", agent, FLUSH_SECONDS)
        end("collector", collector, COLLECTOR_SECONDS)
    return agent.returncode if agent.returncode >= 0 else 128 - agent.returncode


def main() -> int:
    try:
        return run(sys.argv[1:])
    except Stopped:
        return 0
    except (CannotRunError, FileNotFoundError) as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
