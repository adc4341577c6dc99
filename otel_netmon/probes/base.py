"""The record of a probe."""

from __future__ import annotations

from typing import NamedTuple


class Probe(NamedTuple):
    """A feature of the agent.

    Attributes:
        name: the stem of its modules and of its configuration section ``probes.NAME``.
        summary: one line for ``otel-netmon probes``.
        image: program image (bpf/NAME.c), empty where nothing runs in the kernel.
        hooks: where its programs are attached.
        programs: names of its programs.
        maps: names of its maps.
        metrics: catalogue names.
        capabilities: what the supervisor needs at start.
        by_default: whether it runs when nothing is configured, and why not where it does not.
        host_image: the image that has its programs and maps where ``messages.vantage`` is ``host``; empty where that is the same.
    """

    name: str
    summary: str
    image: str
    hooks: tuple[str, ...]
    programs: tuple[str, ...]
    maps: tuple[str, ...]
    metrics: tuple[str, ...]
    capabilities: tuple[str, ...]
    by_default: str
    host_image: str = ""
