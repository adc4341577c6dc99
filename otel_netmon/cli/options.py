"""Options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_netmon.config.load import Loaded


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that reads the configuration; ``load_config`` reads them back."""
    group = parser.add_argument_group(
        "configuration", "Precedence: --set, the file, other flags, environment (OTEL_*, OTEL_NETMON_*), defaults."
    )
    group.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file (default: $OTEL_NETMON_CONFIG, else /etc/otel-netmon/config.yaml if it exists)",
    )
    group.add_argument(
        "--interface",
        metavar="NAME",
        action="append",
        help="interface to observe, a name or a shell pattern; may be repeated",
    )
    group.add_argument("--prometheus", metavar="HOST:PORT", help="serve Prometheus metrics there")
    group.add_argument("--otlp-endpoint", metavar="URL", help="send OTLP there, for example http://127.0.0.1:4318")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="sets",
        help="set any key, for example flows.top_k=20; may be repeated; beats the file",
    )


def add_duration_argument(parser: argparse.ArgumentParser) -> None:
    """``--duration SECONDS``: stop that long after everything is attached; ``args.duration`` is a float or None."""
    parser.add_argument(
        "--duration", metavar="SECONDS", type=_positive_seconds, help="stop after so many seconds of watching"
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """``--json``: one JSON document in place of text; ``args.json`` is a bool."""
    parser.add_argument("--json", action="store_true", help="print one JSON document in place of text")


def load_config(args: argparse.Namespace) -> Loaded:
    """The configuration that the options of ``add_config_arguments``, the file and the environment make.

    Raises:
        ConfigError: see ``config.load.load``.
    """
    from otel_netmon.config.load import load  # msgspec and PyYAML, not for --help

    flags = {
        "--interface": args.interface,
        "--prometheus": args.prometheus,
        "--otlp-endpoint": args.otlp_endpoint,
    }
    given = {name: value for name, value in flags.items() if value is not None}
    return load(args.config, given, args.sets, os.environ)


def print_warnings(loaded: Loaded) -> None:
    """Tell on standard error what was ignored or overridden; ``run`` logs it instead."""
    for warning in loaded.warnings:
        print(f"otel-netmon: warning: {warning}", file=sys.stderr)


def _positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return seconds
