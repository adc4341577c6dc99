"""Print the versions of otel-netmon, its kernel contract, Python and the kernel."""

from __future__ import annotations

import argparse
import platform

from otel_netmon import __version__
from otel_netmon.abi import enums
from otel_netmon.cli.options import add_json_argument
from otel_netmon.cli.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print the versions."""
    versions: dict[str, str | int] = {
        "otel-netmon": __version__,
        "abi": enums.ABI_VERSION,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
    }
    if args.json:
        print_json(versions)
    else:
        for name, value in versions.items():
            print(f"{name:<12} {value}")
    return 0
