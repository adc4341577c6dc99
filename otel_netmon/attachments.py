"""What is attached where: programs to interfaces as they come and go, and why not where not."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_netmon.abi.enums import Direction, Late
from otel_netmon.config.model import Config
from otel_netmon.errors import KernelLacksError
from otel_netmon.kernel import links
from otel_netmon.kernel.hooks import TC_HOOKS, interface_constants
from otel_netmon.kernel.interfaces import Interface, Key
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.kernel.namespaces import Namespace
from otel_netmon.kernel.rtnetlink import RtnetlinkError

if TYPE_CHECKING:
    from otel_netmon.kernel.clsact import Clsact, Leftover

ATTACHED = frozenset({"tcx", "clsact", "native", "generic"})


@dataclass(slots=True)
class Attached:
    """One interface: how each hook is attached (a word of ATTACHED) or why not, and what takes it off again.

    ``namespace`` is the identity of the one it is in.
    """

    interface: Interface
    namespace: tuple[int, int]
    hooks: dict[str, str] = field(default_factory=dict)
    undo: list[Callable[[], None]] = field(default_factory=list)
    links: list[int] = field(default_factory=list)


class Attachments:
    """Attaches the enabled probes to interfaces.

    Args:
        config: which probes run.
        tc: the loaded tc_monitor, None where the flows probe is off.
        xdp: the loaded xdp_monitor, None where the xdp probe is off.
    """

    def __init__(self, config: Config, tc: LoadedImage | None, xdp: LoadedImage | None) -> None:
        self._config = config
        self._tc = tc
        self._xdp = xdp
        self._clsact: dict[tuple[int, int], Clsact] = {}  # by namespace: its socket keeps the namespace alive
        self._has_tcx = config.probes.flows.attach != "clsact"
        self.leftovers: list[Leftover] = []
        self.table: dict[Key, Attached] = {}

    def add(self, interface: Interface, namespace: Namespace) -> Attached:
        """Attaches every hook of an interface; a refused one is told in ``hooks`` and the others go on."""
        attached = Attached(interface, namespace.identity)
        self.table[interface.key] = attached
        if self._tc is not None:
            for hook, (direction, program) in TC_HOOKS.items():
                try:
                    attached.hooks[hook] = self._attach_tc(attached, namespace, direction, program, self._tc)
                except links.Refused as refused:
                    attached.hooks[hook] = refused.reason
        if self._xdp is not None:
            try:
                attached.hooks["xdp"] = self._attach_xdp(attached, namespace, self._xdp)
            except links.Refused as refused:
                attached.hooks["xdp"] = refused.reason
        return attached

    def remove(self, key: Key) -> None:
        """Takes everything off an interface, also one that is gone."""
        attached = self.table.pop(key, None)
        if attached is not None:
            for undo in reversed(attached.undo):
                undo()
            if not any(other.namespace == attached.namespace for other in self.table.values()):
                clsact = self._clsact.pop(attached.namespace, None)
                if clsact is not None:
                    clsact.close()

    def close(self) -> None:
        """Takes everything off."""
        for key in list(self.table):
            self.remove(key)

    def leave_to_parent(self) -> None:
        """In a forked child: lets go of every link, so that the parent's end detaches them, and of the filters."""
        for attached in self.table.values():
            for fd in attached.links:
                os.close(fd)
        for clsact in self._clsact.values():
            clsact.leave_to_parent()

    def state(self, hooks: tuple[str, ...]) -> tuple[str, str, str]:
        """State of the probe that owns these hooks: ok, degraded or off; a reason; a detail for people."""
        failed = [
            (attached.interface.name, hook, attached.hooks[hook])
            for attached in self.table.values()
            for hook in hooks
            if hook in attached.hooks and attached.hooks[hook] not in ATTACHED
        ]
        working = any(attached.hooks.get(hook) in ATTACHED for attached in self.table.values() for hook in hooks)
        if not self.table:
            return "ok", "", "no interface matches at the moment"
        if not failed:
            return "ok", "", ""
        detail = ", ".join(f"{name} {hook}: {reason}" for name, hook, reason in failed[:5])
        if len(failed) > 5:
            detail += f" and {len(failed) - 5} more"
        return ("degraded" if working else "off"), failed[0][2], detail

    def _attach_tc(
        self, attached: Attached, namespace: Namespace, direction: Direction, program: str, image: LoadedImage
    ) -> str:
        interface = attached.interface
        length = links.l2_length(interface.type)
        if length is None:
            raise links.Refused(f"link_layer_{interface.type}")
        late = interface_constants(
            image,
            decapsulate=self._config.probes.flows.decapsulate,
            namespace=interface.namespace,
            l2_length=length,
        )
        fd = image.program(program, late)
        if self._has_tcx:
            try:
                link = links.attach_tcx(namespace, interface.index, direction, fd)
            except links.Refused as refused:
                if not refused.lacks_feature or self._config.probes.flows.attach == "tcx":
                    raise
                self._has_tcx = False
            else:
                attached.links.append(link)
                attached.undo.append(lambda: links.detach(link))
                return "tcx"
        try:
            clsact = self._use_clsact(namespace)
            made = clsact.attach(namespace, interface.index, direction, fd)
        except (KernelLacksError, RtnetlinkError) as error:
            raise links.Refused(error.message) from error
        attached.undo.append(lambda: clsact.detach(made))
        return "clsact"

    def _use_clsact(self, namespace: Namespace) -> Clsact:
        """The filters of this process; what a killed run left in this namespace goes first."""
        clsact = self._clsact.get(namespace.identity)
        if clsact is None:
            from otel_netmon.kernel.clsact import Clsact

            clsact = self._clsact[namespace.identity] = Clsact()
            self.leftovers += clsact.sweep_leftovers([namespace])
        return clsact

    def _attach_xdp(self, attached: Attached, namespace: Namespace, image: LoadedImage) -> str:
        interface = attached.interface
        mode = self._config.probes.xdp.mode
        if interface.type not in links.ETHERNET_LIKE or interface.kind == "loopback":
            raise links.Refused(f"link_layer_{interface.type}")
        if mode == "auto" and interface.kind != "physical":
            raise links.Refused("virtual_interface")  # native XDP on veth turns segmentation offload off
        link = links.attach_xdp(
            namespace,
            interface.index,
            image.program("netmon_xdp", {Late.NAMESPACE: interface.namespace}),
            mode == "generic",
        )
        attached.links.append(link)
        attached.undo.append(lambda: links.detach(link))
        return "generic" if mode == "generic" else "native"
