"""Text, tables and JSON on standard output, with colour only where a person reads it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import IO, Literal

Colour = Literal["bold", "dim", "red", "green", "yellow", "cyan"]

_CODES: dict[Colour, str] = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def colour_wanted(stream: IO[str], environ: Mapping[str, str] | None = None) -> bool:
    """Whether to write escape codes: on a terminal that is not ``dumb``, and NO_COLOR (no-color.org) is unset or empty."""
    environ = os.environ if environ is None else environ
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, colour: Colour, wanted: bool) -> str:
    """The text in a colour, or as it is."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if wanted else text


def print_json(document: object, stream: IO[str] | None = None) -> None:
    """Print one JSON document, indented, keys in the order given."""
    print(json.dumps(document, indent=2, ensure_ascii=False), file=stream or sys.stdout)


def print_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    right: Sequence[str] = (),
    stream: IO[str] | None = None,
) -> None:
    """Print aligned columns under their headers.

    Args:
        headers: one word for each column.
        rows: cells, as many in each row as there are headers; None is shown as ``-``.
        right: headers of the columns that are aligned to the right (numbers).
    """
    stream = stream or sys.stdout
    table = [list(headers)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headers))]
    bold = colour_wanted(stream)
    for number, row in enumerate(table):
        cells = [
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(row, widths, headers, strict=True)
        ]
        line = "  ".join(cells).rstrip()
        print(paint(line, "bold", bold and number == 0), file=stream)


def _cell(value: object) -> str:
    text = "-" if value is None else ("yes" if value else "no") if isinstance(value, bool) else str(value)
    # Names come from the network and the kernel: what is not printable must not reach a terminal.
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in text)
