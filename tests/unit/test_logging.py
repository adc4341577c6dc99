"""The event log: the same lines from both writers, rate limits that tell what they hide, a reader that may go away."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, cast

import pytest
import structlog

from otel_netmon.selfmon import journal, logging as pipeline_logging

STAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def without_coverage() -> dict[str, str]:
    """The environment without what starts a coverage measurement in a child, with imports of its own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_the_ready_line() -> None:
    stream = io.StringIO()
    journal.Journal("info", "json", stream).info("agent.ready", interfaces=3, names=["eth0"])
    (line,) = lines(stream)
    assert list(line) == ["event", "level", "timestamp", "interfaces", "names"]
    assert STAMP.fullmatch(line.pop("timestamp"))
    assert line == {"event": "agent.ready", "level": "info", "interfaces": 3, "names": ["eth0"]}


@pytest.mark.parametrize("form", ["json", "console"])
def test_both_writers_write_the_same_lines(form: journal.Format) -> None:
    def speak(log: journal.EventLog) -> None:
        log.debug("a.hidden")
        log.info("agent.ready", interfaces=3, share=0.5, names=["a", "b"], none=None, yes=True)
        log.warning("odd.text", empty="", space="a b", quote='"', control="\x1b[31m\n", unicode="é\x9b", path=os)
        log.error("x")
        for _ in range(journal.BURST):
            log.info("often")
        log.info("often")

    ours, theirs = io.StringIO(), io.StringIO()
    speak(journal.Journal("info", form, ours))
    pipeline_logging.configure("info", form, theirs)
    speak(pipeline_logging.get_logger())
    assert STAMP.sub("T", ours.getvalue()) == STAMP.sub("T", theirs.getvalue())
    assert len(ours.getvalue().splitlines()) == 3 + journal.BURST


def test_bound_fields() -> None:
    ours, theirs = io.StringIO(), io.StringIO()
    journal.Journal("info", "json", ours).bind(probe="xdp", a=1).bind(a=2).info("probe.off", reason="x")
    pipeline_logging.configure("info", "json", theirs)
    pipeline_logging.get_logger(probe="xdp", a=2).info("probe.off", reason="x")
    assert [{**line, "timestamp": ""} for line in lines(ours)] == [{**line, "timestamp": ""} for line in lines(theirs)]
    assert lines(ours)[0]["a"] == 2


def test_the_console_form() -> None:
    event = {"event": "agent.ready", "level": "info", "timestamp": "T", "interfaces": 3, "name": "a b", "none": None}
    assert journal.render_console(event) == 'T info    agent.ready interfaces=3 name="a b" none=null'
    coloured = journal.render_console(event, colour=True)
    assert re.sub(r"\x1b\[[0-9]+m", "", coloured) == journal.render_console(event)
    assert coloured != journal.render_console(event)


def test_nothing_that_is_logged_can_forge_a_line_or_move_the_cursor() -> None:
    hostile = "x\n2025 info agent.ready\r\x1b[2J\x9b1m\u2028"
    event = {"event": hostile, "level": "info", "timestamp": "T", hostile: hostile}
    for text in (journal.render_console(event), journal.render_json(event)):
        assert text.isprintable()


@pytest.mark.parametrize(
    ("stream", "environ", "form", "colour"),
    [
        (Terminal(), {}, "console", True),
        (Terminal(), {"NO_COLOR": "1"}, "console", False),
        (Terminal(), {"NO_COLOR": ""}, "console", True),
        (Terminal(), {"TERM": "dumb"}, "console", False),
        (io.StringIO(), {}, "json", False),
    ],
)
def test_auto_is_console_on_a_terminal(stream: io.StringIO, environ: dict[str, str], form: str, colour: bool) -> None:
    text = journal.renderer("auto", stream, environ)({"event": "e", "level": "info", "timestamp": "T"})
    assert text.startswith("{") is (form == "json")
    assert ("\x1b" in text) is colour


def test_a_repeated_event_is_limited_and_the_number_is_told() -> None:
    now = [100.0]
    limit = journal.RateLimit(burst=3, window_seconds=10, clock=lambda: now[0])
    assert [limit.admit("info", "e") for _ in range(8)] == [0, 0, 0, None, None, None, None, None]
    assert limit.admit("info", "other") == 0
    assert limit.admit("error", "e") == 0
    now[0] = 109.9
    assert limit.admit("info", "e") is None
    now[0] = 110.0
    assert [limit.admit("info", "e") for _ in range(4)] == [6, 0, 0, None]
    assert limit.take_suppressed() == {("info", "e"): 1}
    assert limit.take_suppressed() == {}
    assert limit.counts() == {("info", "e"): 13, ("info", "other"): 1, ("error", "e"): 1}


def test_event_names_are_bounded() -> None:
    limit = journal.RateLimit()
    for number in range(journal.MAX_EVENTS + 23):
        limit.admit("info", f"e{number}")
    counts = limit.counts()
    assert len(counts) == journal.MAX_EVENTS + 1
    assert counts["info", journal.OTHER_EVENTS] == 23


def test_events_below_the_level_are_counted_and_not_written() -> None:
    stream = io.StringIO()
    log = journal.Journal("warning", "json", stream)
    for _ in range(journal.BURST + 5):
        log.info("quiet")
    log.warning("loud")
    log.writer.tell_suppressed()
    assert [line["event"] for line in lines(stream)] == ["loud"]
    assert log.writer.limit.counts() == {("info", "quiet"): journal.BURST + 5, ("warning", "loud"): 1}


def test_suppressed_lines_are_told_at_the_end() -> None:
    stream = io.StringIO()
    log = journal.Journal("info", "json", stream)
    for _ in range(journal.BURST + 5):
        log.info("often")
    log.writer.tell_suppressed()
    last = lines(stream)[-1]
    assert (last["event"], last["suppressed_event"], last["suppressed"]) == ("log.suppressed", "often", 5)


def test_a_reader_that_went_away_is_counted_not_raised() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    log = journal.Journal("info", "json", stream)
    log.info("a")
    log.info("b")
    assert log.writer.sink.lost == 2
    with pytest.raises(BrokenPipeError):
        stream.close()
    log.info("c")
    assert log.writer.sink.lost == 3


def test_threads_write_whole_lines() -> None:
    stream = io.StringIO()
    log = journal.Journal("info", "json", stream)

    def work(name: str) -> None:
        for number in range(journal.BURST):
            log.info(name, number=number)

    workers = [threading.Thread(target=work, args=(f"worker.{number}",)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(lines(stream)) == 8 * journal.BURST


def test_libraries_speak_through_the_same_log() -> None:
    stream = io.StringIO()
    writer = pipeline_logging.configure("info", "json", stream)
    logging.getLogger("opentelemetry.x").error("failed %s", "once")
    logging.getLogger("opentelemetry.x").debug("hidden")
    try:
        raise ValueError("because")
    except ValueError:
        logging.getLogger("opentelemetry.y").exception("failed")
        pipeline_logging.get_logger().error("own.failed", exc_info=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    found = lines(stream)
    assert [(line["event"], line["level"], line.get("logger")) for line in found] == [
        ("library.log", "error", "opentelemetry.x"),
        ("library.log", "error", "opentelemetry.y"),
        ("own.failed", "error", None),
        ("library.log", "warning", "py.warnings"),
    ]
    assert found[0]["message"] == "failed once"
    assert "ValueError: because" in found[1]["exception"]
    assert "ValueError: because" in found[2]["exception"]
    assert writer.limit.counts()["error", "library.log opentelemetry.x"] == 1


def test_a_chatty_library_is_limited() -> None:
    stream = io.StringIO()
    writer = pipeline_logging.configure("info", "json", stream)
    for number in range(journal.BURST + 7):
        logging.getLogger("chatty").warning("line %d", number)
    writer.tell_suppressed()
    found = lines(stream)
    assert len(found) == journal.BURST + 1
    assert found[-1]["suppressed"] == 7


def test_configuring_twice_writes_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    pipeline_logging.configure("info", "json", first)
    pipeline_logging.configure("info", "json", second)
    logging.getLogger("x").warning("w")
    pipeline_logging.get_logger().info("e")
    cast("Any", structlog.get_logger()).critical("c")
    assert first.getvalue() == ""
    assert [(line["event"], line["level"]) for line in lines(second)] == [
        ("library.log", "warning"),
        ("e", "info"),
        ("c", "error"),
    ]


def test_the_journal_imports_little() -> None:
    program = "import sys; import otel_netmon.selfmon.journal; print([n for n in ('structlog', 'asyncio', 'logging') if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=without_coverage()
    )
    assert done.stdout == "[]\n"
