"""List the probes: what each runs where, what it needs, what it gives, and whether it is on.

On and off follow from the configuration in effect; what the kernel allows is the doctor's matter.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from otel_netmon.cli.options import add_config_arguments, add_json_argument, load_config, print_warnings
from otel_netmon.cli.output import colour_wanted, paint, print_json
from otel_netmon.probes import PROBES

if TYPE_CHECKING:
    from otel_netmon.config.load import Loaded
    from otel_netmon.probes.base import Probe

LISTS = ("hooks", "programs", "maps", "metrics", "capabilities")
TITLE_WIDTH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the configuration's options and ``--json``."""
    add_config_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print every probe, or a list of objects."""
    loaded = load_config(args)
    print_warnings(loaded)
    records = [describe(probe, loaded) for probe in PROBES.values()]
    if args.json:
        print_json(records)
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
        print("\n\n".join(block(record, width, colour=colour_wanted(sys.stdout)) for record in records))
    return 0


def describe(probe: Probe, loaded: Loaded) -> dict[str, Any]:
    """One probe, ready for JSON; ``why`` says what switched it off and is empty where it is on."""
    key, enabled, word = _switch(probe, loaded)
    why = ""
    if not enabled:
        why = (
            probe.by_default.removeprefix("off: ")
            if key not in loaded.origins
            else f"{key} is {word}: {loaded.origins[key]}"
        )
    return {
        "name": probe.name,
        "enabled": enabled,
        "why": why,
        "summary": probe.summary,
        **{name: list(getattr(probe, name)) for name in LISTS},
    }


def _switch(probe: Probe, loaded: Loaded) -> tuple[str, bool, str]:
    """The key that switches a probe, whether it is on, and the word for off."""
    chosen = getattr(loaded.config.probes, probe.name)
    if isinstance(chosen, str):
        return f"probes.{probe.name}", chosen != "off", "off"
    return f"probes.{probe.name}.enabled", bool(chosen.enabled), "false"


def block(record: dict[str, Any], width: int, *, colour: bool) -> str:
    """One probe as lines of at most this width."""
    state = paint("on", "green", colour) if record["enabled"] else paint("off", "yellow", colour)
    lines = [f"{paint(record['name'].ljust(TITLE_WIDTH), 'bold', colour)}{state}"]
    rows = [("why off", record["why"]), ("gives", record["summary"])]
    rows += [(name, ", ".join(record[name])) for name in LISTS]
    for title, text in rows:
        if text:
            lines += textwrap.wrap(
                text,
                max(width, 40),
                initial_indent=f"  {title:<{TITLE_WIDTH - 2}}",
                subsequent_indent=" " * TITLE_WIDTH,
                break_on_hyphens=False,
            )
    return "\n".join(lines)
