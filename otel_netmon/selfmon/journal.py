"""The agent's event log: one event is one line and one count, the same in every process.

The supervisor writes with ``Journal``, which needs the standard library only; the pipeline writes with structlog
(``selfmon.logging``), which renders through the functions here, so that a reader cannot tell the lines apart::

    {"event": "agent.ready", "level": "info", "timestamp": "2025-01-31T12:00:00.000000Z", "interfaces": 3}

An event's name is a constant with dots (``agent.ready``); what changes from time to time stands in its fields. Nothing logs per packet.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import IO, Any, Literal, Protocol

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

LEVELS: dict[str, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
BURST = 20
"""Lines of one event that a window lets through."""
WINDOW_SECONDS = 10.0
MAX_EVENTS = 1024
"""Event names that are counted apart; what comes after shares one count. Names are constants, so only a defect gets there."""
OTHER_EVENTS = "(other)"

_FIRST = ("event", "level", "timestamp")
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31"}


class EventLog(Protocol):
    """What code that logs asks for; ``Journal`` and structlog's bound logger both are one."""

    def debug(self, event: str, **fields: Any) -> Any:
        """Log what helps to find a defect."""

    def info(self, event: str, **fields: Any) -> Any:
        """Log a normal change of state."""

    def warning(self, event: str, **fields: Any) -> Any:
        """Log what is degraded while the rest runs."""

    def error(self, event: str, **fields: Any) -> Any:
        """Log what does not work."""


class RateLimit:
    """Counts every event, and lets at most ``burst`` lines of one event and level through in a window.

    Args:
        burst: lines in a window.
        window_seconds: length of a window; it begins with the first line.
        clock: monotonic seconds.
    """

    def __init__(
        self, burst: int = BURST, window_seconds: float = WINDOW_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._window = window_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._windows: dict[tuple[str, str], list[float]] = {}  # start, lines written, lines suppressed

    def admit(self, level: str, event: str) -> int | None:
        """Count one event.

        Returns:
            None when its line is to be suppressed, else how many lines of it were suppressed since the last one.
        """
        now = self._clock()
        with self._lock:
            key = (level, event)
            if key not in self._counts and len(self._counts) >= MAX_EVENTS:
                key = (level, OTHER_EVENTS)
            self._counts[key] = self._counts.get(key, 0) + 1
            window = self._windows.setdefault(key, [now, 0, 0])
            suppressed = 0
            if now - window[0] >= self._window:
                suppressed = int(window[2])
                window[:] = [now, 0, 0]
            if window[1] >= self._burst:
                window[2] += 1
                return None
            window[1] += 1
            return suppressed

    def counts(self) -> dict[tuple[str, str], int]:
        """Events so far by level and name, suppressed ones included."""
        with self._lock:
            return dict(self._counts)

    def take_suppressed(self) -> dict[tuple[str, str], int]:
        """Suppressed lines by level and name that no later line has told about; they count as told from now on."""
        with self._lock:
            taken = {key: int(window[2]) for key, window in self._windows.items() if window[2]}
            for key in taken:
                self._windows[key][2] = 0
            return taken


class Sink:
    """Writes whole lines to a stream, from any thread, and counts the lines the stream did not take.

    A log reader that went away must not stop the agent: the line is lost and counted in ``lost``.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.lost = 0

    def write(self, line: str) -> None:
        """Write one line; the newline is added."""
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # closed by its reader; closed here
                self.lost += 1


Renderer = Callable[[Mapping[str, Any]], str]


def renderer(form: Format, stream: IO[str], environ: Mapping[str, str] | None = None) -> Renderer:
    """The function that makes an event a line.

    Args:
        form: ``auto`` is ``console`` on a terminal, ``json`` elsewhere.
        stream: where the lines go; asked whether it is a terminal.
        environ: for NO_COLOR and TERM; None is the process's own.
    """
    environ = os.environ if environ is None else environ
    terminal = stream.isatty()
    if form == "json" or (form == "auto" and not terminal):
        return render_json
    colour = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return lambda event: render_console(event, colour)


def render_json(event: Mapping[str, Any]) -> str:
    """One JSON object: event, level, timestamp, then the fields in the order given. ASCII, so never a raw control character."""
    return json.dumps(_ordered(event), default=str, separators=(", ", ": "))


def render_console(event: Mapping[str, Any], colour: bool = False) -> str:
    """Time, level, event, then ``name=value``; text that is not one printable word is quoted as JSON."""
    fields = _ordered(event)
    name, level, timestamp = (str(fields.pop(key, "")) for key in _FIRST)
    words = [timestamp, f"{level:<7}", name if name.isprintable() else json.dumps(name)]
    if colour:
        words[0] = f"\x1b[2m{words[0]}\x1b[0m"
        words[1] = f"\x1b[{_COLOURS.get(level, '0')}m{words[1]}\x1b[0m"
        words[2] = f"\x1b[1m{words[2]}\x1b[0m"
    words += [f"{_word(key)}={_word(value)}" for key, value in fields.items()]
    return " ".join(words)


def timestamp() -> str:
    """Now in UTC, ISO 8601 with microseconds: ``2025-01-31T12:00:00.000000Z``."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds // 1000:06d}Z"


def _ordered(event: Mapping[str, Any]) -> MutableMapping[str, Any]:
    fields = {key: event[key] for key in _FIRST if key in event}
    fields.update((key, value) for key, value in event.items() if key not in _FIRST)
    return fields


def _word(value: object) -> str:
    if isinstance(value, bool | None):
        return json.dumps(value)
    text = value if isinstance(value, str) else str(value)
    plain = bool(text) and text.isprintable() and not any(mark in text for mark in " \"'=")
    return text if plain else json.dumps(text)


class EventWriter:
    """Makes events lines: level, limit, format and stream of one process, shared by all its loggers.

    Args:
        level: least severe level that is written; all events are counted.
        form: ``json``, ``console`` or ``auto``.
        stream: where the lines go.
        limit: the rate limit, None for the usual one.

    Attributes:
        limit: counts every event and limits its lines.
        sink: writes the lines.
    """

    def __init__(self, level: Level, form: Format, stream: IO[str], limit: RateLimit | None = None) -> None:
        self.limit = limit or RateLimit()
        self.sink = Sink(stream)
        self.render = renderer(form, stream)
        self._threshold = LEVELS[level]

    def enabled(self, level: str) -> bool:
        """Whether events of this level are written."""
        return LEVELS[level] >= self._threshold

    def log(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Count one event, and write its line unless level or limit forbid."""
        suppressed = self.limit.admit(level, event)
        if suppressed is not None:
            self.write(level, event, {**fields, "suppressed": suppressed} if suppressed else fields)

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write one line unless the level forbids; no count, no limit."""
        if self.enabled(level):
            self.sink.write(self.render({**fields, "event": event, "level": level, "timestamp": timestamp()}))

    def tell_suppressed(self) -> None:
        """Write one line for each event with suppressed lines that no later line told about; call it at the end."""
        for (level, event), lines in sorted(self.limit.take_suppressed().items()):
            self.write(level, "log.suppressed", {"suppressed_event": event, "suppressed": lines})


class Journal:
    """The event log without structlog.

    Args:
        level: least severe level that is written; all events are counted.
        form: ``json``, ``console`` or ``auto``.
        stream: where lines go; standard error by default.
        writer: share this one in place of making one from the other arguments.
        bound: fields of every event.
    """

    def __init__(
        self,
        level: Level = "info",
        form: Format = "auto",
        stream: IO[str] | None = None,
        *,
        writer: EventWriter | None = None,
        bound: Mapping[str, Any] | None = None,
    ) -> None:
        self.writer = writer or EventWriter(level, form, stream or sys.stderr)
        self._bound = dict(bound or {})

    def bind(self, **fields: Any) -> Journal:
        """A journal that adds these fields to every event and shares everything else with this one."""
        return Journal(writer=self.writer, bound={**self._bound, **fields})

    def debug(self, event: str, **fields: Any) -> None:
        """Log what helps to find a defect."""
        self.writer.log("debug", event, {**self._bound, **fields})

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal change of state."""
        self.writer.log("info", event, {**self._bound, **fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Log what is degraded while the rest runs."""
        self.writer.log("warning", event, {**self._bound, **fields})

    def error(self, event: str, **fields: Any) -> None:
        """Log what does not work."""
        self.writer.log("error", event, {**self._bound, **fields})
