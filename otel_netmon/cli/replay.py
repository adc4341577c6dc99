"""Send a capture file through the same programs that watch the interfaces, and print what they see.

FILE is pcap or pcapng, - is standard input. Needs the same privileges as run. The configuration counts for --output otlp.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from otel_netmon.cli.options import add_config_arguments, load_config, print_warnings

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each core


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("file", metavar="FILE", help="capture file, - for standard input")
    parser.add_argument(
        "--output",
        choices=["json", "otlp"],
        default="json",
        help="print one JSON object (default), or send metrics by OTLP",
    )
    parser.add_argument("--decapsulate", action="store_true", help="key flows by the innermost headers of tunnels")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Replays the file; faults of the file go to stderr as well, with their offsets."""
    return _send(args) if args.output == "otlp" else _print(args)


def _print(args: argparse.Namespace) -> int:
    from otel_netmon.replay import default_cache, replay

    result = replay(args.file, default_cache(), args.decapsulate)
    json.dump(result.document(), sys.stdout, separators=(",", ":"))
    print()
    _tell_faults(args.file, result.faults)
    return 0


def _send(args: argparse.Namespace) -> int:
    if args.decapsulate:
        args.sets = [*args.sets, "probes.flows.decapsulate=true"]
    loaded = load_config(args)
    print_warnings(loaded)
    from otel_netmon.replay_otlp import send

    stats, faults = send(args.file, loaded.config)
    json.dump({"endpoint": stats["endpoint"], "points_delivered": stats["points_delivered"]}, sys.stdout)
    print()
    _tell_faults(args.file, faults)
    return 0


def _tell_faults(file: str, faults: list[dict[str, Any]]) -> None:
    for fault in faults:
        print(f"otel-netmon: {file}: offset {fault['offset']}: {fault['message']}", file=sys.stderr)
