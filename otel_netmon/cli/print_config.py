"""Print the configuration in effect, each value with its origin.

The text is YAML that --config takes. Header values and passwords in URLs are shown as [REDACTED] unless --show-secrets is given.
"""

from __future__ import annotations

import argparse
import sys

from otel_netmon.cli.options import add_config_arguments, add_json_argument, load_config, print_warnings
from otel_netmon.cli.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the configuration's options, ``--json`` and ``--show-secrets``."""
    add_config_arguments(parser)
    add_json_argument(parser)
    parser.add_argument("--show-secrets", action="store_true", help="print secrets as they are")


def run(args: argparse.Namespace) -> int:
    """Print YAML with comments, or ``{key: {value, origin, source}}``."""
    from otel_netmon.config import origins

    loaded = load_config(args)
    print_warnings(loaded)
    if args.json:
        print_json(origins.as_mapping(loaded.config, loaded.origins, args.show_secrets))
    else:
        sys.stdout.write(origins.as_yaml(loaded.config, loaded.origins, args.show_secrets))
    return 0
