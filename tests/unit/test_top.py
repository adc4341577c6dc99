"""otel-netmon top: numbers, rows, the page, the screen, and what it does to a terminal."""

from __future__ import annotations

import copy
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, strategies as st
from rich.cells import cell_len
from rich.console import Console

from otel_netmon import attachments
from otel_netmon.cli import top, top_view
from otel_netmon.cli.main import main
from otel_netmon.cli.top_screen import screen
from otel_netmon.errors import NetmonError, UsageError
from otel_netmon.selfmon import status

HOSTILE = "eth0\x1b]0;owned\x07\x1b[2J[red]\u202ex\n"
SHOWN = "eth0\\x1b]0;owned\\x07\\x1b[2J[red]\\x202ex\\x0a"
ESCAPE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def side(octets: float = 0.0, coverage: float | None = 1.0) -> status.DirectionStatus:
    return {
        "packets": 10,
        "bytes": 1000,
        "skb_packets": 10,
        "skb_bytes": 1000,
        "wire_packets": 10,
        "wire_bytes": 1000,
        "packets_per_second": octets / 100,
        "bytes_per_second": octets,
        "coverage": coverage,
    }


def interface(
    name: str = "eth0", octets: float = 125_000.0, hooks: dict[str, str] | None = None
) -> status.InterfaceStatus:
    return {
        "name": name,
        "index": 2,
        "namespace": "",
        "kind": "physical",
        "edge": True,
        "hooks": hooks or {"tc_receive": "tcx", "tc_transmit": "tcx"},
        "receive": side(octets),
        "transmit": side(octets / 10, 0.5),
    }


def flow(client: str, octets: float, direction: Any = "receive", port: int | None = 443) -> status.FlowStatus:
    return {
        "client": client,
        "server": "2001:db8::2",
        "port": port,
        "transport": "tcp",
        "direction": direction,
        "bytes_per_second": octets,
        "packets_per_second": 2.0,
        "bytes": 1000,
        "packets": 10,
    }


def receiver(name: str = "default", **parts: Any) -> Any:
    """One receiver of OTLP; every part can be replaced."""
    none = {"offered": 0, "delivered": 0, "dropped": {}, "pending": 0}
    built: status.OtlpStatus = {
        "name": name,
        "endpoint": "http://127.0.0.1:4318",
        "protocol": "http/protobuf",
        "state": "delivering",
        "points_offered": 174,
        "points_delivered": 174,
        "points_dropped": {},
        "points_pending": 0,
        "spans": dict(none),  # type: ignore[typeddict-item]
        "log_records": dict(none),  # type: ignore[typeddict-item]
        "queue_bytes": 0,
        "spool": None,
        "requests": 3,
        "last_error": None,
        "last_success_unix_nano": 1_700_000_000_000_000_000,
    }
    return {**built, **parts}


def document(**parts: Any) -> Any:
    """A whole document; every part can be replaced."""
    built: Any = status.build(
        uptime_seconds=3723.4,
        interval_seconds=10.0,
        probes=[
            {"name": "flows", "state": "ok", "reason": "", "detail": ""},
            {"name": "xdp", "state": "off", "reason": "not_enabled", "detail": "probes.xdp.enabled is false"},
        ],
        stages={"kernel": {"delivered": 2867, "dropped": {"unattributed": 0}}},
        interfaces=[interface()],
        flows={"live": 2, "capacity": 65536, "top": [flow("192.0.2.1", 1250.0), flow("192.0.2.1", 125.0, "transmit")]},
        export={
            "otlp": receiver(),
            "prometheus": {"listen": "127.0.0.1:9464"},
        },
    )
    built.update(parts)
    assert status.problems(built) == []
    return built


@contextmanager
def agent(answer: Callable[[], tuple[int, bytes]]) -> Iterator[str]:
    """A web server on loopback that gives this answer to every GET of /status."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answer() if self.path == "/status" else (404, b"")
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_request(self, *_: object) -> None:
            """Nothing goes to the tests' output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def agent_of(built: Any) -> Any:
    return agent(lambda: (200, json.dumps(built).encode()))


# ---- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (0.5, "0.5 B"),
        (3.999, "4 B"),
        (9.94, "9.9 B"),
        (9.96, "10 B"),
        (999.4, "999 B"),
        (999.6, "1.00 kB"),
        (1234, "1.23 kB"),
        (12_345, "12.3 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (1e18, "1000 PB"),
    ],
)
def test_quantities_have_three_digits(value: float, text: str) -> None:
    assert top_view.scaled(value, "B") == text


@given(st.floats(1.0, 1e15))
def test_a_quantity_is_what_its_text_says(value: float) -> None:
    number, _, prefix = top_view.scaled(value).partition(" ")
    shown = float(number) * 1000 ** ("", "k", "M", "G", "T", "P").index(prefix)
    assert abs(shown - value) <= max(0.0051 * value, 0.5 if value >= 9.95 else 0.05)


@pytest.mark.parametrize(
    ("coverage", "text"),
    [(None, "-"), (1.0, "100 %"), (0.999_99, "99.99 %"), (0.5, "50 %"), (0.0, "0 %"), (0.29, "29 %")],
)
def test_a_share_is_whole_only_if_all_was_seen(coverage: float | None, text: str) -> None:
    assert top_view.share(coverage) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (10.0, "10 s"), (61, "1 min 1 s"), (3723, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert top_view.duration(seconds) == text


@given(st.text())
def test_what_is_shown_has_only_printable_characters(text: str) -> None:
    shown = top_view.printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


# ---- rows


def test_the_words_of_attached_hooks_are_the_agents() -> None:
    assert top_view.ATTACHED == attachments.ATTACHED


@pytest.mark.parametrize(
    ("hooks", "text", "refused"),
    [
        ({"tc_receive": "tcx", "tc_transmit": "tcx"}, "tcx", False),
        ({"tc_receive": "clsact", "tc_transmit": "clsact", "xdp": "native"}, "clsact, xdp native", False),
        ({"tc_receive": "tcx", "tc_transmit": "not_permitted"}, "receive tcx, transmit not_permitted", True),
        ({"tc_receive": "tcx", "tc_transmit": "tcx", "xdp": "driver_has_no_xdp"}, "tcx, xdp driver_has_no_xdp", True),
    ],
)
def test_hooks_in_words(hooks: dict[str, str], text: str, refused: bool) -> None:
    row = top_view.interface_row(interface(hooks=hooks))
    assert (row.attached, row.refused) == (text, refused)


def test_an_interface_row() -> None:
    shown = copy.deepcopy(interface())
    shown["namespace"] = "blue"
    row = top_view.interface_row(shown)
    assert row[:8] == ("blue/eth0", "1.00 Mbit/s", "1.25 k", "100 %", "100 kbit/s", "125", "50 %", "50 %")
    shown["hooks"] = {}
    assert top_view.interface_row(shown).attached == "-"


def test_the_directions_of_a_conversation_are_one_row_and_the_busiest_is_first() -> None:
    rows = top_view.flow_rows(
        [
            flow("192.0.2.1", 100.0),
            flow("192.0.2.2", 90.0),
            flow("192.0.2.2", 20.0, "transmit"),
            flow("::", 0.0, port=None),
        ]
    )
    assert rows == [
        ("192.0.2.2", "[2001:db8::2]:443", "tcp", "720 bit/s", "160 bit/s", "4", "2.00 kB"),
        ("192.0.2.1", "[2001:db8::2]:443", "tcp", "800 bit/s", "-", "2", "1.00 kB"),
        ("::", "2001:db8::2", "tcp", "0 bit/s", "-", "2", "1.00 kB"),
    ]


def test_when_there_are_too_many_interfaces_the_busiest_stay_and_the_rest_is_told() -> None:
    every = [interface(f"eth{number}", number * 1000.0) for number in range(5)]
    assert top_view.busiest(every, 5) == every
    assert top_view.rest(every, every) == ""
    shown = top_view.busiest(every, 2)
    assert [each["name"] for each in shown] == ["eth4", "eth3"]
    assert top_view.rest(every, shown) == "and 3 more with 26.4 kbit/s"


def test_notes_tell_what_is_wrong() -> None:
    built = document()
    assert [note.bad for note in top_view.notes(built)] == [False] * 4
    built["probes"].append(
        {
            "name": "interfaces",
            "state": "degraded",
            "reason": "not_permitted",
            "detail": "eth0 tc_receive: not_permitted",
        }
    )
    built["stages"]["export"] = {"delivered": 7, "dropped": {"superseded": 3, "timeout": 0}}
    built["export"]["otlp"] |= {
        "state": "failing",
        "last_error": "refused\x1b[2J",
        "points_delivered": 1_200,
        "last_success_unix_nano": None,
    }
    bad = {note.title: note.text for note in top_view.notes(built) if note.bad}
    assert bad == {
        "probe interfaces": "degraded: eth0 tc_receive: not_permitted",
        "stage export": "7 delivered, 3 dropped (superseded 3)",
        "otlp": "failing: 1,200 points taken, 0 waiting; http/protobuf to http://127.0.0.1:4318",
        "last error": "refused\\x1b[2J",
    }
    built["export"] = {}
    assert top_view.notes(built)[-1] == ("export", "the metrics go nowhere", True)


def test_every_receiver_has_its_notes() -> None:
    spool = {
        "directory": "/s/backup",
        "bytes": 1_500_000,
        "max_bytes": 268_435_456,
        "records": 12,
        "oldest_unix_nano": 1_700_000_000_000_000_000,
        "dropped": {"evicted": 3, "torn": 0},
    }
    built = document()
    built["export"]["destinations"] = {
        "backup": receiver(
            "backup",
            state="rejected",
            spans={"offered": 9, "delivered": 5, "dropped": {"queue_full": 2}, "pending": 2},
            log_records={"offered": 1, "delivered": 0, "dropped": {}, "pending": 1},
            spool=spool,
            last_error="HTTP 400",
            last_success_unix_nano=None,
        ),
        "quiet": receiver("quiet", state="starting", spool={**spool, "oldest_unix_nano": None, "dropped": {"torn": 0}}),
    }
    assert status.problems(built) == []
    found = {note.title: note for note in top_view.notes(built)}
    assert found["otlp backup"] == (
        "otlp backup",
        (
            "rejected: 174 points taken, 0 waiting; 5 spans taken, 2 waiting; 0 events taken, 1 waiting; "
            "http/protobuf to http://127.0.0.1:4318"
        ),
        True,
    )
    assert found["spool backup"].text.startswith("1.50 MB of 268 MB, 12 requests, the oldest of 2023-11-1")
    assert found["spool backup"].text.endswith("; dropped: evicted 3")
    assert found["spool backup"].bad
    assert found["last error backup"] == ("last error backup", "HTTP 400", True)
    assert found["spool quiet"] == ("spool quiet", "1.50 MB of 268 MB, 12 requests", False)
    assert not found["otlp quiet"].bad


def test_the_budget_of_series_is_noted() -> None:
    family = {"name": "flows", "metrics": [], "active": 1, "limit": 1, "folded": 0, "weight": 1.0, "attributes": []}
    series = {"active": 1234, "limit": 10_000, "idle_seconds": 300.0, "families": [family, {**family, "folded": 56}]}
    found = {note.title: note.text for note in top_view.notes(document(series=series))}
    assert found["series"] == "1,234 of 10,000, 56 attribute sets folded: see otel-netmon explain --series"
    series["families"] = [family]
    assert {note.title: note.text for note in top_view.notes(document(series=series))}["series"] == "1,234 of 10,000"


def endpoint(port: int, **rates: Any) -> Any:
    quiet: Any = dict.fromkeys(
        ("bytes_per_second", "failed_per_second", "resets_per_second", "retransmits_per_second"), 0.0
    )
    return {"role": "client", "server": "2001:db8::2", "port": port, "rtt_seconds": None, **quiet, **rates}


def test_connections_are_noted_and_servers_with_trouble() -> None:
    built = document()
    built["connections"] = {
        "live": 1234, "capacity": 65536, "udp_live": 3, "udp_capacity": 16384,
        "states": {"established": 1200, "syn_sent": 0, "listen": 7},
        "top": [
            endpoint(1),
            endpoint(443, failed_per_second=2.0, rtt_seconds=0.0015),
            endpoint(80, retransmits_per_second=3.0, resets_per_second=1.0),
            {**endpoint(0, resets_per_second=1.0), "role": "unknown", "server": "", "port": None},
            endpoint(81, resets_per_second=1.0),
        ],
    }  # fmt: skip
    assert status.problems(built) == []
    found = [(note.title, note.text, note.bad) for note in top_view.notes(built)]
    assert [each for each in found if each[0] in ("connections", "client", "unknown")] == [
        ("connections", "1,234 of 65,536 followed; 1,200 established, 7 listen", False),
        ("client", "[2001:db8::2]:443: 2 failed a second, round trip 1.5 ms", True),
        ("client", "[2001:db8::2]:80: 1 reset, 3 segments sent again a second", False),
        ("unknown", "older than the agent: 1 reset a second", False),
    ]


def test_notes_that_tell_of_nothing_wrong_leave_first() -> None:
    found = [
        top_view.Note("a", ""),
        top_view.Note("b", "", bad=True),
        top_view.Note("c", ""),
        top_view.Note("d", "", bad=True),
    ]
    assert [note.title for note in top_view.gravest(found, 3)] == ["a", "b", "d"]
    assert [note.title for note in top_view.gravest(found, 1)] == ["b"]
    assert top_view.gravest(found, 4) == found


def test_the_headline_says_what_the_rates_are_over() -> None:
    assert top_view.headline(document()).split("   ")[1:] == ["up 1 h 2 min", "rates over 10 s", "2 of 65,536 flows"]
    assert "first rates after 10 s" in top_view.headline(document(uptime_seconds=2.0))


# ---- reading


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (500, b"", "gave no status of an agent (HTTP 500, 0 bytes)"),
        (200, b"<html>", "gave no status of an agent: Expecting value"),
        (200, b"{}", "is starting"),
        (200, b"[]", "gave no status that this version understands: status: [] is no object"),
        (200, b'{"version": 1}', "gave no status that this version understands: status.export: missing"),
    ],
)
def test_an_answer_that_is_no_status(code: int, body: bytes, message: str) -> None:
    with agent(lambda: (code, body)) as url, pytest.raises(NetmonError) as raised:
        top.fetch(url)
    assert message in raised.value.message
    assert raised.value.remedy
    assert raised.value.exit_code == 1


def test_nobody_answers(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "--url", f"http://127.0.0.1:{free_port}"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"otel-netmon: error: no agent answers at http://127.0.0.1:{free_port}: [Errno 111] Connection refused; "
        "start one with otel-netmon run, or name its address with --url\n"
    )


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "http://127.0.0.1:port", "http://127.0.0.1:99999"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError):
        top.fetch(url)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_what_is_no_interval(interval: str) -> None:
    assert main(["top", f"--interval={interval}"]) == 2


def test_a_newer_agent_may_tell_more() -> None:
    built = document()
    built["interfaces"][0]["novelty"] = 1
    with agent_of(built) as url:
        assert top.fetch(url + "/") == built
        assert top.fetch(url.removeprefix("http://")) == built


def test_json_is_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    with agent_of(document()) as url:
        assert main(["top", "--url", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == document()


def test_without_a_terminal_one_page_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with agent_of(document()) as url:
        assert main(["top", "--url", url]) == 0
        first = capsys.readouterr().out
        assert main(["top", "--url", url, "--once"]) == 0
        assert capsys.readouterr().out == first
    lines = [line.split() for line in first.splitlines()]
    assert ["eth0", "1.00", "Mbit/s", "1.25", "k", "100", "%", "100", "kbit/s", "125", "50", "%", "tcx"] in lines
    assert ["192.0.2.1", "[2001:db8::2]:443", "tcp", "10.0", "kbit/s", "1.00", "kbit/s", "4", "2.00", "kB"] in lines
    assert ["stage", "kernel", "2,867", "delivered,", "0", "dropped"] in lines


def test_readings_follow_the_cycle_of_the_agent() -> None:
    assert top.next_wait(10.0, None, changed=False) == 1.0
    assert top.next_wait(10.0, None, changed=True) == 10.0
    assert top.next_wait(2.0, None, changed=False) == 0.5
    assert top.next_wait(0.1, None, changed=True) == 0.25
    assert top.next_wait(10.0, 3.0, changed=False) == 3.0
    assert top.next_wait(10.0, 0.01, changed=True) == 0.25


# ---- the screen


def drawn(built: Any, width: int, height: int, *, trouble: str = "", colour: bool = False) -> list[str]:
    """The lines that a terminal of this size gets."""
    console = Console(
        file=io.StringIO(),
        width=width,
        height=height,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    with console.capture() as capture:
        console.print(screen(built, width, height, trouble))
    return capture.get().splitlines()


def busy(receivers: int = 0) -> Any:
    """More of everything than fits anywhere."""
    built = document(interfaces=[interface(f"interface{number}", number) for number in range(300)])
    built["flows"]["top"] = [flow(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{number:x}", number) for number in range(300)]
    built["export"]["destinations"] = {f"d{n}": receiver(f"d{n}", last_error="no") for n in range(receivers)}
    return built


@pytest.mark.parametrize("width", [54, 73, 74, 95, 96, 120, 250])
@pytest.mark.parametrize("height", [16, 24, 60])
def test_the_screen_fits_and_is_filled(width: int, height: int) -> None:
    for trouble in ("", "since 12:00:00: no agent answers"):
        lines = drawn(busy(), width, height, trouble=trouble)
        assert len(lines) == height
        assert max(map(cell_len, lines)) <= width
        assert any("more with" in line for line in lines)
        assert lines[-1].startswith("q or Ctrl-C ends")
        assert (trouble in lines[1]) if trouble else not lines[1].strip()


@pytest.mark.parametrize("height", [16, 24, 60])
def test_many_receivers_leave_room_for_the_tables(height: int) -> None:
    for trouble in ("", "since 12:00:00: no agent answers"):
        lines = drawn(busy(receivers=16), 100, height, trouble=trouble)
        assert len(lines) == height
        assert any("interface299" in line for line in lines)
        assert any("last error d0" in line for line in lines)
        assert lines[-1].startswith("q or Ctrl-C ends")


@pytest.mark.parametrize(("width", "absent"), [(120, ""), (80, "bytes"), (60, "packets/s"), (50, "coverage")])
def test_a_narrow_terminal_shows_less_but_no_number_is_cut(width: int, absent: str) -> None:
    text = "\n".join(drawn(document(), width, 24))
    assert not absent or absent not in text
    for shown in ("eth0", "1.00 Mbit/s", "100 kbit/s", "10.0 kbit/s", "1.00 kbit/s"):
        assert shown in text


def test_an_agent_without_interfaces_and_flows_says_so() -> None:
    built = document(interfaces=[])
    built["flows"]["top"] = []
    lines = [line.rstrip() for line in drawn(built, 80, 24)]
    assert lines[1:6] == ["", "no interface yet", "", "no flow yet", ""]


def test_no_name_reaches_the_terminal_as_more_than_text() -> None:
    built = document(interfaces=[interface(HOSTILE, hooks={"tc_receive": HOSTILE, "tc_transmit": HOSTILE})])
    built["flows"]["top"] = [flow(HOSTILE, 1.0)]
    built["export"]["otlp"]["last_error"] = HOSTILE
    built["version"] = HOSTILE
    out = "\n".join(drawn(built, 400, 40, trouble=HOSTILE, colour=True))
    assert {kind for _, kind in ESCAPE.findall(out)} == {"m"}
    assert ESCAPE.sub("", out).replace("\n", "").isprintable()
    assert out.count(SHOWN) == 6
    page = io.StringIO()
    top_view.print_page(built, page)
    assert page.getvalue().replace("\n", "").isprintable()
    assert page.getvalue().count(SHOWN) == 5


# ---- the terminal


class Terminal:
    """The command on a terminal of its own, which is also its controlling one."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.settings = termios.tcgetattr(self.slave)
        self.output = b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "TERM": "xterm-256color", **environment},
        )

    def read_until(self, condition: Callable[[bytes], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition(self.output):
            assert time.monotonic() < deadline, self.output
            if select.select([self.master], [], [], 0.05)[0]:
                self.output += os.read(self.master, 65536)

    def finish(self) -> int:
        """Reads to the end; gives the exit code."""
        self.read_until(lambda _: self.process.poll() is not None and not select.select([self.master], [], [], 0)[0])
        assert termios.tcgetattr(self.slave) == self.settings
        os.close(self.master)
        os.close(self.slave)
        return self.process.wait()


ENTER, LEAVE, HIDE, SHOW = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25l", b"\x1b[?25h"


@pytest.mark.parametrize("way", ["q", "Ctrl-C", "SIGTERM", "SIGHUP"])
def test_the_terminal_is_given_back(way: str, command: list[str]) -> None:
    with agent_of(document()) as url:
        terminal = Terminal([*command, "top", "--url", url])
        terminal.read_until(lambda output: b"Ctrl-C ends" in output)
        assert termios.tcgetattr(terminal.slave) != terminal.settings
        if way.startswith("SIG"):
            terminal.process.send_signal(signal.Signals[way])
        else:
            os.write(terminal.master, b"q" if way == "q" else b"\x03")
        assert terminal.finish() == 0
    assert terminal.output.count(ENTER) == terminal.output.count(LEAVE) == 1
    assert terminal.output.rindex(SHOW) > terminal.output.rindex(HIDE)
    assert b"Traceback" not in terminal.output


def test_it_can_be_stopped_and_continued(command: list[str]) -> None:
    with agent_of(document()) as url:
        terminal = Terminal([*command, "top", "--url", url])
        terminal.read_until(lambda output: b"Ctrl-C ends" in output)
        terminal.process.send_signal(signal.SIGTSTP)
        _, state = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(state)
        terminal.read_until(lambda output: LEAVE in output)
        assert termios.tcgetattr(terminal.slave) == terminal.settings
        terminal.process.send_signal(signal.SIGCONT)
        terminal.read_until(lambda output: output.count(ENTER) == 2 and output.count(b"Ctrl-C ends") == 2)
        os.write(terminal.master, b"xyzq")
        assert terminal.finish() == 0


def test_an_agent_that_goes_and_comes_back(command: list[str]) -> None:
    answers = iter(range(1000))
    up = threading.Event()
    up.set()

    def answer() -> tuple[int, bytes]:
        built = document(uptime_seconds=4000.0 + next(answers))
        return (200, json.dumps(built).encode()) if up.is_set() else (503, b"")

    with agent(answer) as url:
        terminal = Terminal([*command, "top", "--url", url, "--interval", "0.25"])
        terminal.read_until(lambda output: b"Ctrl-C ends" in output)
        up.clear()
        terminal.read_until(lambda output: b"gave no status of an agent (HTTP 503" in output)
        up.set()
        last = terminal.output.rindex(b"HTTP 503")
        terminal.read_until(
            lambda output: (
                b"Ctrl-C ends" in output[last:] and b"HTTP 503" not in output[output.rindex(b"otel-netmon 0") :]
            )
        )
        os.write(terminal.master, b"q")
        assert terminal.finish() == 0


def test_no_color_leaves_the_colours_out(command: list[str]) -> None:
    found = {}
    for name, environment in (("coloured", {}), ("plain", {"NO_COLOR": "1"})):
        with agent_of(document()) as url:
            terminal = Terminal([*command, "top", "--url", url], **environment)
            terminal.read_until(lambda output: b"Ctrl-C ends" in output)
            os.write(terminal.master, b"q")
            assert terminal.finish() == 0
        found[name] = {
            code for codes, kind in ESCAPE.findall(terminal.output.decode()) if kind == "m" for code in codes.split(";")
        }
    assert "36" in found["coloured"]
    assert not {code for code in found["plain"] if code.startswith(("3", "4")) and len(code) == 2} - {"39", "49"}


def test_a_dumb_terminal_gets_one_page(command: list[str]) -> None:
    with agent_of(document()) as url:
        terminal = Terminal([*command, "top", "--url", url], TERM="dumb")
        assert terminal.finish() == 0
    assert b"\x1b" not in terminal.output
    assert b"stage kernel" in terminal.output
