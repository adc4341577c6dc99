"""Observe this host and export until stopped.

SIGTERM and SIGINT export a last time and end; SIGHUP reads the configuration again; SIGUSR1 exports now.
"""

from __future__ import annotations

import argparse

from otel_netmon.cli.options import add_config_arguments, add_duration_argument, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add_config_arguments(parser)
    add_duration_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the supervisor in this process."""
    from otel_netmon.agent import Supervisor
    from otel_netmon.selfmon.journal import Journal

    loaded = load_config(args)
    journal = Journal(loaded.config.log.level, loaded.config.log.format)
    for warning in loaded.warnings:
        journal.warning("config.warning", message=warning)
    try:
        return Supervisor(loaded, lambda: load_config(args), journal, args.duration).run()
    finally:
        journal.writer.tell_suppressed()
