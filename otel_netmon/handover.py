"""What the supervisor hands to a pipeline process: numbers and names as a message, file descriptors beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from otel_netmon.control import Channel

Files = tuple[int, str, dict[str, int]]
"""A network namespace: number, name (empty for the agent's own), open files by name."""


class DropSetup(TypedDict):
    """What the supervisor found out when it attached the program that counts drops.

    Attributes:
        has_reasons: the kernel tells its reasons.
        program: file descriptor of the program that is attached.
        names: of the reasons by number, from tracefs; empty where it is not mounted.
    """

    has_reasons: bool
    program: int
    names: dict[int, str]


class Setup(NamedTuple):
    """All that a pipeline process begins with.

    Attributes:
        started_monotonic: when the agent started, CLOCK_MONOTONIC in seconds.
        started_unix_ns: Unix time at which the programs began to count.
        namespaces: that are observed.
        maps: of each image that is loaded: name to file descriptor and number of entries.
        programs: likewise: name to file descriptor.
        drops: None where no drops are counted.
    """

    started_monotonic: float
    started_unix_ns: int
    namespaces: Sequence[Files]
    maps: Mapping[str, Mapping[str, tuple[int, int]]]
    programs: Mapping[str, Mapping[str, int]]
    drops: DropSetup | None

    def packed(self) -> tuple[dict[str, Any], list[int]]:
        """The fields of a message, where a file descriptor is its place in the list that goes with it."""
        fds: list[int] = []

        def place(fd: int) -> int:
            fds.append(fd)
            return len(fds) - 1

        fields = {
            "started_monotonic": self.started_monotonic,
            "started_unix_ns": self.started_unix_ns,
            "namespaces": [
                [number, name, {what: place(fd) for what, fd in files.items()}]
                for number, name, files in self.namespaces
            ],
            "maps": {
                stem: {name: [place(fd), entries] for name, (fd, entries) in maps.items()}
                for stem, maps in self.maps.items()
            },
            "programs": {
                stem: {name: place(fd) for name, fd in programs.items()} for stem, programs in self.programs.items()
            },
            "drops": None
            if self.drops is None
            else {
                "has_reasons": self.drops["has_reasons"],
                "program": place(self.drops["program"]),
                "names": list(self.drops["names"].items()),
            },
        }
        return fields, fds


def receive_setup(channel: Channel) -> Setup | None:
    """Waits for the setup, the first message to a pipeline process; None when the supervisor ends before."""
    received = channel.wait()
    if received is None:
        return None
    fields, fds = received
    drops = fields["drops"]
    return Setup(
        started_monotonic=fields["started_monotonic"],
        started_unix_ns=fields["started_unix_ns"],
        namespaces=[
            (number, name, {what: fds[at] for what, at in files.items()})
            for number, name, files in fields["namespaces"]
        ],
        maps={
            stem: {name: (fds[at], entries) for name, (at, entries) in maps.items()}
            for stem, maps in fields["maps"].items()
        },
        programs={
            stem: {name: fds[at] for name, at in programs.items()} for stem, programs in fields["programs"].items()
        },
        drops=None
        if drops is None
        else DropSetup(
            has_reasons=drops["has_reasons"], program=fds[drops["program"]], names=dict(map(tuple, drops["names"]))
        ),
    )
