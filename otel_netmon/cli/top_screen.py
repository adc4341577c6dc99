"""The screen of ``otel-netmon top``: a /status document laid out for the size of a terminal, with rich.

Pure: what it gives is a renderable. Cells are ``Text``, never markup: a name can neither colour nor link anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from otel_netmon.cli.top_view import (
    NOTE_TITLE_WIDTH,
    FlowRow,
    InterfaceRow,
    Note,
    busiest,
    flow_rows,
    gravest,
    headline,
    interface_row,
    notes,
    printable,
    rest,
)
from otel_netmon.selfmon.status import Status

WIDE, MEDIUM, NARROW = 96, 74, 54
"""Columns of a terminal from which on everything is shown, packet rates are, and coverage is."""
FIXED_LINES = 6  # headline, two table heads, two empty lines between, the keys
TABLE_LINES = 5  # one interface, the rest of them, two flows, an empty line below
KEYS = "q or Ctrl-C ends"


class Column(NamedTuple):
    """A column: its heading, the field of the row it shows, whether that is a number, and whether it may be cut."""

    heading: str
    field: str
    number: bool = True
    cut: bool = False


_NAME = Column("interface", "name", number=False, cut=True)
_RECEIVE = Column("receive", "receive")
_TRANSMIT = Column("transmit", "transmit")
_COVERAGE = Column("coverage", "coverage")
_ATTACHED = Column("attached", "attached", number=False, cut=True)
_CLIENT = Column("client", "client", number=False, cut=True)
_SERVER = Column("server", "server", number=False, cut=True)
_TRANSPORT = Column("transport", "transport", number=False)
_PACKETS = Column("packets/s", "packets")
_BYTES = Column("bytes", "bytes")


def screen(document: Status, width: int, height: int, trouble: str = "") -> RenderableType:
    """Everything that fits, the important first.

    Args:
        document: the last one that was read.
        width, height: of the terminal, in cells.
        trouble: why the document is old; empty while the agent answers.
    """
    below = _notes(
        gravest(notes(document), max(min(height // 2, height - FIXED_LINES - TABLE_LINES - bool(trouble)), 1))
    )
    room = max(height - FIXED_LINES - len(below) - bool(trouble), 2)
    conversations = flow_rows(document["flows"]["top"])
    for_interfaces = min(len(document["interfaces"]), max(room // 2, room - len(conversations)))
    hidden = for_interfaces < len(document["interfaces"])
    shown = busiest(document["interfaces"], max(for_interfaces - hidden, 1))
    conversations = conversations[: max(room - len(shown) - hidden, 1)]
    lines: list[RenderableType] = [Text(headline(document), style="bold", no_wrap=True, overflow="ellipsis")]
    if trouble:
        lines.append(Text(printable(trouble), style="bold red", no_wrap=True, overflow="ellipsis"))
    lines += ["", _interfaces([interface_row(each) for each in shown], width) if shown else _nothing("interface")]
    if hidden:
        lines.append(Text(rest(document["interfaces"], shown), style="dim"))
    lines += ["", _flows(conversations, width) if conversations else _nothing("flow")]
    lines += [*below, Text(KEYS, style="dim")]
    return Group(*lines)


def _interfaces(rows: Sequence[InterfaceRow], width: int) -> Table:
    if width >= WIDE:
        columns = [
            _NAME,
            _RECEIVE,
            Column("packets/s", "receive_packets"),
            Column("coverage", "receive_coverage"),
            _TRANSMIT,
            Column("packets/s", "transmit_packets"),
            Column("coverage", "transmit_coverage"),
            _ATTACHED,
        ]
    elif width >= MEDIUM:
        columns = [
            _NAME,
            _RECEIVE,
            Column("packets/s", "receive_packets"),
            _TRANSMIT,
            Column("packets/s", "transmit_packets"),
            _COVERAGE,
            _ATTACHED,
        ]
    else:
        columns = [_NAME, _RECEIVE, _TRANSMIT, *([_COVERAGE] if width >= NARROW else [])]
    return _table(columns, rows, ["red" if row.refused else "" for row in rows])


def _flows(rows: Sequence[FlowRow], width: int) -> Table:
    if width >= WIDE:
        columns = [_CLIENT, _SERVER, _TRANSPORT, _RECEIVE, _TRANSMIT, _PACKETS, _BYTES]
    elif width >= MEDIUM:
        columns = [_CLIENT, _SERVER, _TRANSPORT, _RECEIVE, _TRANSMIT]
    else:
        columns = [_CLIENT, _SERVER, _RECEIVE, _TRANSMIT]
    return _table(columns, rows, [""] * len(rows))


def _table(columns: Sequence[Column], rows: Sequence[NamedTuple], styles: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="cyan", expand=False)
    for column in columns:
        width = max(len(column.heading), *(cell_len(getattr(row, column.field)) for row in rows), 0)
        table.add_column(
            column.heading,
            justify="right" if column.number else "left",
            no_wrap=not column.cut,  # rich makes only the others narrower
            min_width=None if column.cut else width,
        )
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(_cell(getattr(row, column.field)) for column in columns), style=style)
    return table


def _nothing(what: str) -> Text:
    return Text(f"no {what} yet", style="dim")


def _cell(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _notes(found: Sequence[Note]) -> list[RenderableType]:
    lines: list[RenderableType] = [""]
    for note in found:
        text = Text(f"{note.title:<{NOTE_TITLE_WIDTH - 1}} ", style="cyan", no_wrap=True, overflow="ellipsis")
        text.append(note.text, style="red" if note.bad else "default")
        lines.append(text)
    return lines
