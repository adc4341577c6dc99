"""Print the JSON Schema of the configuration file.

Editors use it for completion: the YAML language server takes `# yaml-language-server: $schema=FILE` in the first line.
"""

from __future__ import annotations

import argparse

from otel_netmon.cli.output import print_json

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> int:
    """Print the schema that msgspec derives from the model."""
    import msgspec

    from otel_netmon.config.model import Config

    print_json({"$schema": DIALECT, "title": "otel-netmon configuration", **msgspec.json.schema(Config)})
    return 0
