"""The programs of socket_monitor at the hooks of one cgroup v2, and why not where not."""

from __future__ import annotations

import os

from otel_netmon.abi.enums import Late
from otel_netmon.config.model import Config
from otel_netmon.errors import KernelLacksError
from otel_netmon.kernel import links
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.kernel.image import CGROUP_HOOKS
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.loading import socket_constants
from otel_netmon.probes.connections import CONNECTIONS

ORDER = CONNECTIONS.programs
"""Who makes a row comes after those who end it, so that none is left when a socket opens while this goes on."""

ATTACHED = "attached"
NEEDED = "netmon_sockops"
NO_NETNS = "sockops knows no network namespace: an accepted connection has its process from accept() on"
_MAKES_ROWS = frozenset({"netmon_connect4", "netmon_connect6", "netmon_bind4", "netmon_bind6", "netmon_socket"})


class CgroupAttachments:
    """Attaches every program of socket_monitor once; the links end with this process.

    Args:
        config: whose cgroup, and how large its ring is.
        image: the loaded socket_monitor, None where the probe is off.

    Attributes:
        hooks: program without its prefix -> ``attached``, or why not.
        path: the cgroup's folder; empty where there is none.
    """

    def __init__(self, config: Config, image: LoadedImage | None) -> None:
        self.hooks: dict[str, str] = {}
        self.path = ""
        self._links: list[int] = []
        self._limits: list[str] = []
        if image is not None:
            self._attach(image, config)

    def _attach(self, image: LoadedImage, config: Config) -> None:
        probe = config.probes.connections
        mount = find_cgroup2() if probe.cgroup is None else None
        self.path = probe.cgroup or (mount.path if mount is not None else "")
        late = socket_constants(config, image)
        try:
            cgroup = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.hooks = dict.fromkeys(_short(ORDER), "no_cgroup2")
            self._limits.append(f"{self.path or 'cgroup v2'}: {error.strerror}")
            return
        try:
            for program in ORDER:
                self.hooks[program.removeprefix("netmon_")] = self._attach_one(image, program, cgroup, late)
                if program == NEEDED and self.hooks["sockops"] != ATTACHED:
                    break  # nothing would ever end
        finally:
            os.close(cgroup)

    def _attach_one(self, image: LoadedImage, program: str, cgroup: int, late: dict[Late, int]) -> str:
        if program in _MAKES_ROWS and self.hooks["release"] != ATTACHED:
            return "needs_release"  # a socket that is closed unused would keep its row for ever
        try:
            fd, fallback = image.program_that_fits(program, late)
        except KernelLacksError as error:
            self._limits.append(error.message)
            return "kernel_refuses"
        if fallback:
            self._limits.append(NO_NETNS)
        try:
            self._links.append(links.attach_cgroup(cgroup, CGROUP_HOOKS[program], fd))
        except links.Refused as refused:
            return refused.reason
        return ATTACHED

    def message_state(self) -> tuple[str, str, str]:
        """State of the probes that look for messages here, likewise: without one direction of packets there are none."""
        refused = {hook: self.hooks.get(hook, "needs_sockops") for hook in ("ingress", "egress")}
        refused = {hook: reason for hook, reason in refused.items() if reason != ATTACHED}
        if not refused:
            return "ok", "", ""
        detail = "; ".join(f"{hook}: {reason}" for hook, reason in refused.items())
        return "off", next(iter(refused.values())), detail

    def state(self) -> tuple[str, str, str]:
        """State of the probe: ok, degraded or off; a reason; a detail for people."""
        refused = {hook: reason for hook, reason in self.hooks.items() if reason != ATTACHED}
        detail = "; ".join([*(f"{hook}: {reason}" for hook, reason in refused.items()), *self._limits])
        if not refused:
            return "ok", "", detail
        state = "degraded" if self.hooks.get("sockops") == ATTACHED else "off"
        return state, next(iter(refused.values())), detail

    def leave_to_parent(self) -> None:
        """In a forked child: lets go of every link, so that the parent's end detaches them."""
        self.close()

    def close(self) -> None:
        """Takes everything off."""
        for link in self._links:
            os.close(link)
        self._links.clear()


def _short(programs: tuple[str, ...]) -> list[str]:
    return [program.removeprefix("netmon_") for program in programs]
