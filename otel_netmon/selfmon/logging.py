"""structlog for the pipeline process: the same lines as ``selfmon.journal``, and the standard library's logging led into them.

Importing this module costs about 8 MB; the supervisor uses ``journal`` instead.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import IO, Any

from otel_netmon.selfmon.lazy import Late

if "rich" not in sys.modules:
    sys.modules["rich"] = None  # type: ignore[assignment]  # structlog would load it for tracebacks we never draw: 4 MB
if "asyncio" not in sys.modules:
    sys.modules["asyncio"] = Late("asyncio")  # structlog has it for methods that we never call: 3 MB

import structlog
from structlog.typing import EventDict

from otel_netmon.selfmon import journal


def configure(level: journal.Level, form: journal.Format, stream: IO[str] | None = None) -> journal.EventWriter:
    """Configure structlog and the standard library's logging for this process; the last call counts.

    Records of libraries become events: the event is ``library.log``, the text the field ``message``, the library ``logger``.

    Returns:
        The writer, for its counts and ``tell_suppressed``.
    """
    writer = journal.EventWriter(level, form, stream or sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _admitted(writer),
            structlog.processors.format_exc_info,
            _rendered(writer),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),  # the level is checked after the count, as Journal does
        logger_factory=lambda *_: _Output(writer.sink),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LibraryHandler)]:
        root.removeHandler(handler)
    root.addHandler(_LibraryHandler(writer))
    root.setLevel(journal.LEVELS[level])
    logging.captureWarnings(capture=True)
    return writer


def get_logger(**fields: Any) -> journal.EventLog:
    """A logger with fields bound to it."""
    logger: journal.EventLog = structlog.get_logger(**fields)
    return logger


class _Output:
    """What structlog calls with the rendered line, under the name of the level."""

    def __init__(self, sink: journal.Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = sink.write


def _admitted(writer: journal.EventWriter) -> Callable[[object, str, EventDict], EventDict]:
    def process(_logger: object, _method: str, event: EventDict) -> EventDict:
        level = "error" if event["level"] == "critical" else str(event["level"])
        suppressed = writer.limit.admit(level, str(event["event"]))
        if suppressed is None or not writer.enabled(level):
            raise structlog.DropEvent
        event["level"] = level
        if suppressed:
            event["suppressed"] = suppressed
        return event

    return process


def _rendered(writer: journal.EventWriter) -> Callable[[object, str, EventDict], str]:
    def process(_logger: object, _method: str, event: EventDict) -> str:
        return writer.render({**event, "timestamp": journal.timestamp()})

    return process


class _LibraryHandler(logging.Handler):
    """Makes a record of the standard library's logging an event."""

    def __init__(self, writer: journal.EventWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        level = next((name for name in reversed(journal.LEVELS) if journal.LEVELS[name] <= record.levelno), "debug")
        # The limit counts by logger, so that one chatty library cannot silence another.
        suppressed = self._writer.limit.admit(level, f"library.log {record.name}")
        if suppressed is None:
            return
        fields: dict[str, Any] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        if suppressed:
            fields["suppressed"] = suppressed
        self._writer.write(level, "library.log", fields)
