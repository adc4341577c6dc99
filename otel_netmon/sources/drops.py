"""The drops probe: drop_counts of drop_monitor -> netmon.kernel.drops."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.handover import DropSetup
from otel_netmon.kernel import syscalls
from otel_netmon.otel import drops
from otel_netmon.otel.points import Point
from otel_netmon.readers.btf import kernel_enum
from otel_netmon.readers.drops import DropReader

REASONS = "skb_drop_reason"


class DropSource:
    """Reads the map once a cycle; what it holds is cumulative.

    Args:
        maps: of drop_monitor: name to file descriptor and number of entries.
        setup: see ``DropSetup``. Without names, those of the kernel's BTF are taken, which costs 40 ms once.
        start_ns: Unix time at which the program was attached.
    """

    def __init__(self, maps: Mapping[str, tuple[int, int]], setup: DropSetup, start_ns: int) -> None:
        self._reader = DropReader(maps["drop_counts"][0], syscalls.possible_cpus())
        self._has_reasons = setup["has_reasons"]
        self._program = setup["program"]
        self._start_ns = start_ns
        self._names = setup["names"]
        self._looked = bool(self._names) or not self._has_reasons
        self._counts: dict[int, int] = {}
        self._missed = 0

    def read(self) -> None:
        """Reads the map."""
        self._counts = self._reader.read()
        self._missed = syscalls.program_info(self._program).missed_runs
        if self._counts and not self._looked:
            self._looked = True
            self._names = {value: drops.short_name(name) for value, name in kernel_enum(REASONS).items()}

    def points(self) -> dict[str, list[Point]]:
        """The points of the last reading."""
        return drops.drop_points(self._counts, self._missed, self._names, self._start_ns, has_reasons=self._has_reasons)
