"""What `make run` starts, on a terminal and without one, in network namespaces of the test: the ports are always free there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from otel_netmon.cli.top_view import scaled
from support.netns import NetNs, Veth, veth_pair
from support.points import Point, points_of_rotel_log

pytestmark = [pytest.mark.kernel, pytest.mark.collector]

PACKETS = 1009
PAYLOAD = 64
PORT = 9
SECONDS = 40.0
QUICK = ("--set", "export.shutdown_seconds=0.5")
"""Where nobody takes the last points."""
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Run:
    """`python -m scripts.run` in a namespace, as the Makefile starts it.

    Args:
        place: where it runs.
        project: the source tree.
        terminal: whether it has one; without, its output goes to a file.
    """

    def __init__(
        self,
        place: NetNs,
        project: Path,
        output: Path,
        *arguments: str,
        terminal: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.logs = project / ".cache" / "run"
        self._output = output
        self._seen = b""
        self._master = -1
        line = place.command(sys.executable, "-m", "scripts.run", *arguments)
        every = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "ROTEL_"))}
        every |= {"ROTEL_DEBUG_LOG_VERBOSITY": "detailed", "TERM": "xterm-256color", **(environment or {})}
        if terminal:
            self._master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            self.settings = termios.tcgetattr(self._master)
            line = ["setsid", "--ctty", *line]
            self.process = subprocess.Popen(line, cwd=project, env=every, stdin=slave, stdout=slave, stderr=slave)
            os.close(slave)
        else:
            with output.open("wb") as file:
                self.process = subprocess.Popen(
                    line, cwd=project, env=every, stdin=subprocess.DEVNULL, stdout=file, stderr=file
                )

    def text(self) -> str:
        """All that it wrote so far; of a terminal without what moves its cursor."""
        if self._master < 0:
            return self._output.read_text(errors="replace")
        while select.select([self._master], [], [], 0)[0]:
            try:
                self._seen += os.read(self._master, 1 << 16)
            except OSError:  # EIO: nobody has the other end any more
                break
        return ESCAPES.sub(b"", self._seen).decode(errors="replace")

    @property
    def raw(self) -> bytes:
        """What a terminal got."""
        return self._seen

    def terminal_settings(self) -> list[object]:
        return termios.tcgetattr(self._master)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"no {what}:\n{self.text()[-4000:]}"
            assert self.process.poll() is None or condition(), f"it ended before {what}:\n{self.text()[-4000:]}"
            time.sleep(0.02)

    def points(self) -> list[Point]:
        """What the collector says that it received."""
        return points_of_rotel_log((self.logs / "collector.log").read_text(errors="replace"))

    def end(self) -> int:
        code = self.process.wait(SECONDS)
        self.text()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(SECONDS)
        if self._master >= 0:
            os.close(self._master)


def inhabitants(place: NetNs) -> set[int]:
    """Processes in a network namespace."""
    wanted = place.path.stat().st_ino
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.stat().st_ino == wanted:
                found.add(int(path.parts[2]))
    return found


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.fixture
def veth() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    """A pair of namespaces; nobody is left in them at the end."""
    with veth_pair() as (left, right, pair):
        yield left, right, pair
        assert [command_of(pid) for place in (left, right) for pid in inhabitants(place)] == []


@contextlib.contextmanager
def running(run: Run) -> Iterator[Run]:
    try:
        yield run
    finally:
        run.close()


def send(place: NetNs, address: str) -> None:
    """PACKETS UDP datagrams to the port that nobody answers."""
    with place.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(PACKETS):
            with contextlib.suppress(ConnectionRefusedError):  # an ICMP message of before
                sender.sendto(bytes(PAYLOAD), (address, PORT))


def counted(points: list[Point], name: str) -> float:
    """The last value of a flow metric for the datagrams of `send`."""
    values = [
        point.value
        for point in points
        if point.name == name
        and point.attributes.get("server.port") == PORT
        and point.attributes["network.transport"] == "udp"
    ]
    return float(values[-1]) if values and isinstance(values[-1], int | float) else 0.0


def test_without_a_terminal_log_lines_come_and_every_packet_arrives_in_the_collector(
    veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    left, _, pair = veth
    with running(Run(left, project, tmp_path / "out", environment={"OTEL_METRIC_EXPORT_INTERVAL": "500"})) as run:
        run.wait(lambda: '"agent.ready"' in run.text(), "agent.ready")
        send(left, pair.right_address)
        run.wait(lambda: counted(run.points(), "netmon.flow.packets") == PACKETS, "the packets at the collector")
        assert counted(run.points(), "netmon.flow.io") == PACKETS * (14 + 20 + 8 + PAYLOAD)
        assert len(inhabitants(left)) == 4  # the script, the supervisor, the pipeline, the collector
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 0
    lines = run.text().splitlines()
    assert lines[0].startswith("run: collector: rotel on 127.0.0.1:4317")
    assert all(line.startswith("{") for line in lines[1:]), lines
    assert '"agent.stopped"' in lines[-1]


def test_on_a_terminal_a_live_summary_comes_and_ctrl_c_ends_all(
    veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    left, _, pair = veth
    with running(Run(left, project, tmp_path / "out", terminal=True)) as run:
        run.wait(lambda: "Ctrl-C ends" in run.text(), "the summary")
        assert "rates over 2 s" in run.text() or "first rates after 2 s" in run.text()
        send(left, pair.right_address)
        row = rf"{pair.left_address}\s+{pair.right_address}:{PORT}\s+udp\s.*\s{scaled(PACKETS * (42 + PAYLOAD), 'B')}"
        run.wait(lambda: re.search(row, run.text()) is not None, "the flow on the screen")
        assert re.search(r"left\s.*\s100 %\s+tcx", run.text())
        taken = re.compile(r"otlp\s+delivering: ([1-9][\d,]*) points taken, 0 waiting")
        run.wait(lambda: taken.search(run.text()) is not None, "points taken")
        assert len(inhabitants(left)) == 5
        run.press(b"\x03")
        assert run.end() == 0
        assert run.terminal_settings() == run.settings
        text = run.text()
    took = re.search(r"run: the collector took ([\d,]+) points; dropped: none", text)
    assert took is not None, text[-2000:]
    assert len(run.points()) == int(took[1].replace(",", ""))
    assert run.raw.count(b"\x1b[?1049h") == run.raw.count(b"\x1b[?1049l") == 1
    assert "Traceback" not in text


def test_q_ends_all_too(veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path) -> None:
    with running(Run(veth[0], project, tmp_path / "out", terminal=True)) as run:
        run.wait(lambda: "Ctrl-C ends" in run.text(), "the summary")
        run.press(b"q")
        assert run.end() == 0


def test_a_killed_script_takes_agent_and_collector_with_it(
    veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    left = veth[0]
    with running(Run(left, project, tmp_path / "out", *QUICK, terminal=True)) as run:
        run.wait(lambda: "Ctrl-C ends" in run.text(), "the summary")
        run.process.kill()
        run.process.wait()
        deadline = time.monotonic() + SECONDS
        while inhabitants(left):
            assert time.monotonic() < deadline, [command_of(pid) for pid in inhabitants(left)]
            time.sleep(0.02)


@pytest.mark.parametrize("by", ["variable", "flag", "set"])
def test_where_a_collector_is_named_none_is_started(
    by: str, veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    url = "http://127.0.0.1:4319"
    arguments = {"variable": [], "flag": ["--otlp-endpoint", url], "set": ["--set", f"otlp.endpoint={url}"]}[by]
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": url} if by == "variable" else {}
    with running(Run(veth[0], project, tmp_path / "out", *QUICK, *arguments, environment=environment)) as run:
        run.wait(lambda: '"agent.ready"' in run.text(), "agent.ready")
        assert len(inhabitants(veth[0])) == 3
        assert f'"otlp": "{url}' in run.text()
        run.process.send_signal(signal.SIGTERM)
        assert run.end() == 0
    assert "collector:" not in run.text()


def test_a_port_that_is_taken_is_told_with_its_holder(
    veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    with veth[0].socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.bind(("127.0.0.1", 4318))
        taken.listen()
        with running(Run(veth[0], project, tmp_path / "out")) as run:
            assert run.end() == 1
    assert "run: the collector cannot listen on 127.0.0.1:4318: Address already in use (" in run.text()
    assert f"pid={os.getpid()}" in run.text()
    assert (
        "remedy: stop what listens there, or send to it: OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
        in run.text()
    )


def test_an_agent_that_cannot_start_is_told_in_its_words(
    veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    with running(Run(veth[0], project, tmp_path / "out", "--interface", "absent0", terminal=True)) as run:
        assert run.end() == 78
        text = run.text()
    assert "run: the agent did not start:" in text
    assert "absent0" in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "flows.top_k=many"], 78, "otel-netmon: error: --set flows.top_k: "),
        (["--interfaec", "lo"], 2, "did you mean --interface?"),
    ],
)
def test_a_wrong_argument_starts_nothing(
    arguments: list[str], code: int, message: str, veth: tuple[NetNs, NetNs, Veth], project: Path, tmp_path: Path
) -> None:
    with running(Run(veth[0], project, tmp_path / "out", *arguments)) as run:
        assert run.end() == code
    assert message in run.text()
    assert "collector" not in run.text()
