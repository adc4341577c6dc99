"""The resource of everything this agent exports: which service, which host. No name is ever looked up in the network.

Keys: OpenTelemetry semantic conventions, resources service, host and os.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from otel_netmon import __version__

_INSTANCE_NAMESPACE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
"""Namespace that the conventions prescribe for a version 5 service.instance.id."""

_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "aarch64_be": "arm64",
    "i386": "x86",
    "i586": "x86",
    "i686": "x86",
    "ppc": "ppc32",
    "ppc64le": "ppc64",
}
"""Kernel's machine names (uname -m) to the values of host.arch, where they differ."""


_PLACES = ("host.", "os.", "cloud.", "k8s.cluster.", "k8s.node.", "deployment.environment")
"""Keys that begin so say where something runs."""


def build_resource(attributes: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """The agent's resource: what is detected, with ``attributes`` over it. Exporters make its text portable.

    Args:
        attributes: the configuration's ``resource.attributes``, which hold OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME too.
        root: where /etc and /proc are; for tests.
    """
    return {**_detect(root), **attributes}


def host_attributes(resource: Mapping[str, str]) -> dict[str, str]:
    """What of the agent's resource holds for every process and container of its host: where they run.

    The agent's own name, version, instance and pod are nobody else's, and neither is what somebody named for the agent alone: only
    the keys that say a place are taken, detected or configured.

    Args:
        resource: as ``build_resource`` gives it.
    """
    return {key: value for key, value in resource.items() if key.startswith(_PLACES)}


def _detect(root: Path) -> dict[str, str]:
    uname = os.uname()
    machine_id = _first_line(root / "etc/machine-id")
    boot_id = _first_line(root / "proc/sys/kernel/random/boot_id")
    system = _os_release(root)
    detected = {
        "service.name": "otel-netmon",
        "service.version": __version__,
        # Pods of one host share the boot and often the machine, their host names differ.
        "service.instance.id": str(uuid.uuid5(_INSTANCE_NAMESPACE, f"{machine_id}/{boot_id}/{uname.nodename}")),
        "host.name": uname.nodename,
        "host.id": machine_id,
        "host.arch": "arm32" if uname.machine.startswith("armv") else _ARCHITECTURES.get(uname.machine, uname.machine),
        "os.type": "linux",
        "os.name": system.get("NAME", ""),
        "os.version": system.get("VERSION_ID", ""),
        "os.description": f"{system.get('PRETTY_NAME', 'Linux')}, kernel {uname.release}",
    }
    return {key: value for key, value in detected.items() if value}


def _first_line(path: Path) -> str:
    """First line, or empty where there is no such file (containers often have no machine-id)."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").partition("\n")[0].strip()
    except FileNotFoundError:
        return ""


def _os_release(root: Path) -> dict[str, str]:
    """os-release(5): assignments in shell syntax, of which only the quoting matters for the keys read here."""
    for path in (root / "etc/os-release", root / "usr/lib/os-release"):
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except FileNotFoundError:
            continue
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
        return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    return {}
