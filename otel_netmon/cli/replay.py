"""Send a capture file through the same programs that watch the interfaces, and print what they see.

FILE is pcap or pcapng, - is standard input. Needs the same privileges as run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each core


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("file", metavar="FILE", help="capture file, - for standard input")
    parser.add_argument("--output", choices=["json"], default="json", help="what to print (default: json)")
    parser.add_argument("--decapsulate", action="store_true", help="key flows by the innermost headers of tunnels")


def run(args: argparse.Namespace) -> int:
    """Replays the file; faults of the file go to stderr as well, with their offsets."""
    from otel_netmon.replay import default_cache, replay

    result = replay(args.file, default_cache(), args.decapsulate)
    json.dump(result.document(), sys.stdout, separators=(",", ":"))
    print()
    for fault in result.faults:
        print(f"otel-netmon: {args.file}: offset {fault['offset']}: {fault['message']}", file=sys.stderr)
    return 0
