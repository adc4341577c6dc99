"""Which images the enabled probes need, and their programs and maps in the kernel. What it refuses is off; the rest runs."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from otel_netmon.abi.enums import Late, PortProtocol
from otel_netmon.config.model import Config
from otel_netmon.errors import ImageError, NetmonError
from otel_netmon.kernel import loader, syscalls
from otel_netmon.kernel.cgroup import find_cgroup2
from otel_netmon.kernel.hooks import TC_HOOKS, interface_constants
from otel_netmon.kernel.image import CGROUP_HOOKS, TAIL_CALLS
from otel_netmon.kernel.messages import (
    DNS_PORTS,
    DNS_PROGRAM,
    HTTP2_PROGRAM,
    HTTP_CONNECTIONS_MAX,
    HTTP_PROGRAM,
    MESSAGE_IMAGES,
    STREAM_PROGRAM,
    set_message_ports,
)
from otel_netmon.selfmon.journal import Journal

WAKEUP_BYTES_MIN = 4096
UNPLACED_FACTOR = 4
UNPLACED_MIN, UNPLACED_MAX = 1 << 12, 1 << 20
UDP_SHARE = 4
"""A quarter of what TCP connections get is for UDP sockets."""

OPTIONAL = frozenset({"drops", "tls_plaintext"})
"""Probes that need a privilege which the others can do without (CAP_PERFMON): without it they are off, no more."""


class Images(NamedTuple):
    """What the probes run.

    Attributes:
        loaded: images in the kernel, by the name of their file in bpf/.
        origins: where each came from: shipped, cache or compiled.
        failed: probes that the kernel refuses: a reason and a detail.
        degraded: probes of which it refuses a part, likewise.
    """

    loaded: dict[str, loader.LoadedImage]
    origins: dict[str, str]
    failed: dict[str, tuple[str, str]]
    degraded: dict[str, tuple[str, str]]

    def close(self) -> None:
        """Gives maps and programs back."""
        for image in self.loaded.values():
            image.close()
        self.loaded.clear()


class Needed(NamedTuple):
    """An image that a probe needs: its name in bpf/, and entries of its maps."""

    probe: str
    stem: str
    sizes: Mapping[str, int]


def load_images(config: Config, journal: Journal) -> Images:
    """Loads the images of the enabled probes; one that the kernel refuses is off, the rest runs.

    Raises:
        PrivilegeError: nothing can run.
        ImageError: an image is neither there nor can be made.
    """
    loader.require_privilege()
    images = Images({}, {}, {}, {})
    try:
        for needed in _needed(config, images):
            try:
                images.loaded[needed.stem] = _load(needed, config, images)
            except ImageError:
                raise
            except NetmonError as error:
                if error.exit_code == 77 and needed.probe not in OPTIONAL:
                    raise  # nothing can run without privilege
                _refused(images, journal, needed.probe, error)
        _let_into_messages(config, images, journal)
        _let_into_plaintext(config, images, journal)
        _load_hooks(config, images, journal)
    except BaseException:
        images.close()
        raise
    return images


def wakeup_bytes(ring_bytes: int) -> int:
    """Late.WAKEUP of a ring: all CPUs together call its reader at a quarter of it, however many there are."""
    return max(ring_bytes // (4 * syscalls.possible_cpus()), WAKEUP_BYTES_MIN)


def _needed(config: Config, images: Images) -> list[Needed]:
    probes = config.probes
    result = []
    if probes.flows.enabled:
        result.append(Needed("flows", "tc_monitor", _tc_sizes(config)))
    if probes.xdp.enabled:
        result.append(Needed("xdp", "xdp_monitor", {}))
    if probes.connections.enabled:
        if probes.connections.cgroup is None and find_cgroup2() is None:
            images.failed["connections"] = ("no_cgroup2", "cgroup v2 is not mounted")
        else:
            result.append(Needed("connections", "socket_monitor", _socket_sizes(config)))
    if probes.drops.enabled:
        result.append(Needed("drops", "drop_monitor", {}))
    if probes.tls_plaintext != "off":
        sizes = {"http_connections": HTTP_CONNECTIONS_MAX, "messages": probes.dns.ring_bytes}
        result.append(Needed("tls_plaintext", "plaintext_monitor", sizes))
    return result


def _load(needed: Needed, config: Config, images: Images) -> loader.LoadedImage:
    cache = Path(config.images.directory)
    sources = Path(config.images.sources) if config.images.sources else None
    try:
        image, images.origins[needed.stem] = loader.obtain(
            needed.stem, cache, sources, interpreter=config.images.compiler
        )
    except OSError as error:
        raise ImageError(
            f"{error.filename}: {error.strerror}", "set images.sources to a folder made as bpf/ is"
        ) from error
    shared = {name: fd for other in images.loaded.values() for name, fd in other.maps.items() if name in SHARED_MAPS}
    loaded = loader.LoadedImage(image, needed.sizes, FLAGS, shared=shared)
    try:
        for program in image.programs:
            if program not in TAIL_CALLS and program not in CGROUP_HOOKS and program not in _WITH_CONSTANTS:
                loaded.program(program)
    except NetmonError:
        loaded.close()
        raise
    return loaded


FLAGS = {"http_connections": syscalls.BPF_F_NO_PREALLOC}
"""Map flags: a connection of HTTP takes 3 kB, which most of the places never hold."""

_WITH_CONSTANTS = frozenset({program for _, program in TC_HOOKS.values()})
"""Programs that are loaded with what is known when all others are: to have them checked twice takes 0.1 s."""

SHARED_MAPS = frozenset({"unreachable"})
"""Maps that one image writes and another reads."""


def _tc_sizes(config: Config) -> dict[str, int]:
    """Entries of the maps of tc_monitor; what belongs to a probe that is off takes next to nothing."""
    return {"flow_table": config.probes.flows.table_entries, **_message_sizes(config, "tc_monitor")}


def _message_sizes(config: Config, name: str) -> dict[str, int]:
    """Entries of the maps for messages in an image."""
    here = _message_probes(config) if MESSAGE_IMAGES[config.messages.vantage] == name else []
    sizes = {
        "messages": config.probes.dns.ring_bytes if here else mmap.PAGESIZE,
        "http_connections": HTTP_CONNECTIONS_MAX if "http" in here else 1,
    }
    if "dns" not in here:
        sizes["dns_cache"] = 1
    return sizes


def _socket_sizes(config: Config) -> dict[str, int]:
    """Entries of the maps of socket_monitor."""
    probe = config.probes.connections
    return {
        "connection_stats": probe.table_entries,
        "connections_unplaced": min(max(probe.table_entries * UNPLACED_FACTOR, UNPLACED_MIN), UNPLACED_MAX),
        "udp_stats": max(probe.table_entries // UDP_SHARE, 1),
        "connections": probe.ring_bytes,
        "udp_records": max(probe.ring_bytes // UDP_SHARE, mmap.PAGESIZE),
        **_message_sizes(config, "socket_monitor"),
        **_stream_sizes(config),
    }


def _stream_sizes(config: Config) -> dict[str, int]:
    """Entries of the maps for messages that only socket_monitor has."""
    if MESSAGE_IMAGES[config.messages.vantage] == "socket_monitor" and _message_probes(config):
        return {"socket_streams": config.probes.connections.table_entries}
    return {"socket_streams": 1, "datagram_streams": 1, "told_clients": 1, "message_scratch": 1}


def _let_into_messages(config: Config, images: Images, journal: Journal) -> None:
    """Lets the programs of the vantage call those that look into packets; where the kernel refuses one, the rest runs."""
    probes = config.probes
    tc = images.loaded.get("tc_monitor")
    seen_by = images.loaded.get(MESSAGE_IMAGES[config.messages.vantage])
    ports: dict[int, PortProtocol] = {}
    if seen_by is None:
        for name in _message_probes(config):
            images.failed[name] = _NEEDS[config.messages.vantage]
    else:
        wakeup = wakeup_bytes(probes.dns.ring_bytes)
        if probes.tls.enabled or probes.http.enabled:
            _let_into_streams(seen_by, config, images, journal, wakeup)
        if probes.dns.enabled:
            try:
                seen_by.program(DNS_PROGRAM, {Late.WAKEUP: wakeup})
                ports = {**DNS_PORTS, **{int(port): PortProtocol.DNS for port in config.probes.dns.ports}}
                if seen_by is not tc:
                    set_message_ports(seen_by, ports)
            except (NetmonError, OSError) as error:
                _refused(images, journal, "dns", error)
    if tc is not None:
        _let_into_interfaces(tc, ports if seen_by is tc else {}, images, journal)
    if seen_by is not None and seen_by is not tc:
        _load_socket_hooks(seen_by, config, images, journal)


_NEEDS = {
    "interface": ("needs_flows", "the programs of probes.flows call it, and that probe is off"),
    "host": (
        "needs_connections",
        "the programs of probes.connections call it (messages.vantage), and that probe is off",
    ),
}


def _message_probes(config: Config) -> list[str]:
    """The probes that are to look into packets."""
    probes = config.probes
    every = (("dns", probes.dns.enabled), ("tls", probes.tls.enabled), ("http", probes.http.enabled))
    return [name for name, enabled in every if enabled]


def _let_into_interfaces(
    tc: loader.LoadedImage, ports: Mapping[int, PortProtocol], images: Images, journal: Journal
) -> None:
    """Has tc_monitor look at packets of these ports, and at ICMP errors where connections are followed."""
    looked_at = dict(ports)
    if "socket_monitor" in images.loaded:
        try:
            tc.program("netmon_errors")
            looked_at[0] = PortProtocol.NO_PORT
        except NetmonError as error:  # connections are followed without ICMP errors of other hosts
            journal.warning("program.refused", program="netmon_errors", probe="connections", detail=str(error))
    if looked_at:
        try:
            set_message_ports(tc, looked_at)
        except OSError as error:
            _refused(images, journal, "dns", error)


def _let_into_streams(
    seen_by: loader.LoadedImage, config: Config, images: Images, journal: Journal, wakeup: int
) -> None:
    """Lets in the programs for what is told by its content; of TLS nothing leaves the kernel where that probe is off."""
    probes = config.probes
    http = probes.http.enabled
    late = {
        Late.WAKEUP: wakeup,
        Late.HANDSHAKE_BYTES: probes.tls.handshake_bytes if probes.tls.enabled else 0,
        Late.HTTP: int(http),
    }
    if http:
        try:
            seen_by.program(HTTP_PROGRAM, late)
        except NetmonError as error:
            _refused(images, journal, "http", error)
            http = False
            late[Late.HTTP] = 0
    if http:
        try:
            seen_by.program(HTTP2_PROGRAM, late)
        except NetmonError as error:  # a call of it finds nothing: connections of HTTP/2 are not followed
            detail = f"HTTP/2 and gRPC are not followed: {error}"
            images.degraded["http"] = ("kernel_refuses", detail)
            journal.error("probe.degraded", probe="http", reason="kernel_refuses", detail=detail)
    if not (http or probes.tls.enabled):
        return
    try:
        seen_by.program(STREAM_PROGRAM, late)
    except NetmonError as error:
        for name, enabled in (("tls", probes.tls.enabled), ("http", http)):
            if enabled:
                _refused(images, journal, name, error)


def socket_constants(config: Config, image: loader.LoadedImage) -> dict[Late, int]:
    """Gives the late constants of the programs at sockets."""
    probes = config.probes
    late = {Late.WAKEUP: wakeup_bytes(probes.connections.ring_bytes)}
    streams = image.runs(STREAM_PROGRAM)
    if streams or image.runs(DNS_PROGRAM):
        late[Late.MESSAGES] = 1
        late[Late.STREAMS] = int(streams)
        late[Late.HTTP] = int(image.runs(HTTP_PROGRAM))
        late[Late.HANDSHAKE_BYTES] = probes.tls.handshake_bytes if probes.tls.enabled else 0
    return late


def _load_socket_hooks(sockets: loader.LoadedImage, config: Config, images: Images, journal: Journal) -> None:
    """Loads what looks for messages at sockets; where the kernel refuses it, connections are followed without."""
    late = socket_constants(config, sockets)
    if Late.MESSAGES not in late:
        return
    try:
        for program in ("netmon_sockops", "netmon_ingress", "netmon_egress", "netmon_release"):
            sockets.program_that_fits(program, late)
    except NetmonError as error:
        if error.exit_code == 77:
            raise
        for name in _message_probes(config):
            _refused(images, journal, name, error)
        for program in (DNS_PROGRAM, STREAM_PROGRAM, HTTP_PROGRAM, HTTP2_PROGRAM):
            sockets.unload(program)


def plaintext_constants(config: Config) -> dict[Late, int]:
    """Gives the late constants of the programs that follow what is read at OpenSSL: there is no handshake in it."""
    return {Late.WAKEUP: wakeup_bytes(config.probes.dns.ring_bytes), Late.HANDSHAKE_BYTES: 0, Late.HTTP: 1}


def _let_into_plaintext(config: Config, images: Images, journal: Journal) -> None:
    """Lets the programs at OpenSSL call those that follow HTTP; where the kernel refuses one, the probe is off."""
    plaintext = images.loaded.get("plaintext_monitor")
    if plaintext is None:
        return
    on_the_wire = images.loaded.get(MESSAGE_IMAGES[config.messages.vantage])
    if on_the_wire is None or not on_the_wire.runs(HTTP_PROGRAM):
        images.failed["tls_plaintext"] = ("needs_http", "probes.http tells what is found, and that probe is off")
        images.loaded.pop("plaintext_monitor").close()
        return
    late = plaintext_constants(config)
    try:
        for program in (HTTP_PROGRAM, HTTP2_PROGRAM, STREAM_PROGRAM):
            plaintext.program(program, late)
    except NetmonError as error:
        _refused(images, journal, "tls_plaintext", error)
        images.loaded.pop("plaintext_monitor").close()


def _load_hooks(config: Config, images: Images, journal: Journal) -> None:
    """Loads what interfaces get, as most of them get it; where the kernel refuses it, all that stands on it is off."""
    tc = images.loaded.get("tc_monitor")
    if tc is None:
        return
    probes = config.probes
    try:
        for _, program in TC_HOOKS.values():
            tc.program(program, interface_constants(tc, decapsulate=probes.flows.decapsulate))
    except NetmonError as error:
        if error.exit_code == 77:
            raise
        stands_on_it = _message_probes(config) if config.messages.vantage == "interface" else []
        for name in ("flows", *stands_on_it):
            _refused(images, journal, name, error)
        images.loaded.pop("tc_monitor").close()


def _refused(images: Images, journal: Journal, probe: str, error: Exception) -> None:
    images.failed[probe] = ("kernel_refuses", str(error))
    journal.error("probe.off", probe=probe, reason="kernel_refuses", detail=str(error))
