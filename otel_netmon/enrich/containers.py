"""Cgroup paths to containers, pods and systemd units, by the names that runtimes give their cgroups. Pure.

Nothing is guessed: a name that no runtime gives, and one that could be several things, is left out. Of nested containers (a
container engine inside a container, a Kubernetes node that is a container) the innermost is told, and the innermost pod; a process
of a container that an engine inside a pod made has that container and the pod. Whoever may make cgroups may give them such names: a
placement is as good as the one who made the cgroup.

Sources: cgroups(7); `systemd.slice(5)`, `unit_name_escape` and `cg_escape` of systemd for names; the cgroup managers of kubelet,
containerd, CRI-O, podman, Docker, LXC and systemd-nspawn for layouts, which the table of tests/unit/test_containers.py shows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

_HEX = "[0-9a-f]{64}"
_ENGINES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
"""What stands before the identifier in the name of a cgroup, to the runtime. Others (crio-conmon-, libpod-conmon-) are of monitors."""

_NAMED = re.compile(rf"(?P<engine>{'|'.join(_ENGINES)})-(?P<id>{_HEX})(?:\.scope)?")
_BARE = re.compile(_HEX)
_COLONS = re.compile(rf"(?P<slice>[^:]+\.slice):(?P<engine>{'|'.join(_ENGINES)}):(?P<id>{_HEX})")
"""A path for the systemd driver (slice:prefix:name) in the hands of the cgroupfs driver, which makes one folder of it."""
_PARENTS = {"docker": "docker", "k8s.io": "containerd"}
"""Cgroups under which a bare identifier tells its runtime; elsewhere, as below pods, several runtimes name them so."""
_PODS_OF_PODMAN = "libpod_parent"

_UID = "[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
"""A UUID, for the systemd driver with underscores; of a static pod the digest of its manifest."""
_POD_SLICE = re.compile(rf"(?:[^:]+-)?kubepods(?:-(?P<qos>burstable|besteffort))?-pod(?P<uid>{_UID})\.slice")
_POD_FOLDER = re.compile(rf"pod(?P<uid>{_UID})")
_QOS = frozenset({"burstable", "besteffort"})

_LXC = re.compile(r"lxc\.payload\.(?P<name>.+)", re.DOTALL)
_NSPAWN = re.compile(r"systemd-nspawn@(?P<name>.+)\.service", re.DOTALL)
_MACHINE = re.compile(r"machine-(?P<name>(?P<libvirt>(?:lxc|qemu)\\x2d)?.+)\.scope", re.DOTALL)
_PAYLOAD = frozenset({"payload"})
_BOOTED = frozenset({"payload", "init.scope", "system.slice", "user.slice"})
"""Below machine-NAME.scope: what systemd-nspawn, or before cgroup v2 the systemd inside, makes. Virtual machines have such scopes
too, without these, and libvirt's LXC has them without a payload."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
_UNIT_LENGTH_MAX = 255
_USER_MANAGER = re.compile(r"user@\d+\.service")
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_DELETED = " (deleted)"

CACHED_PATHS = 4096


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a cgroup is. Empty text, or 0: not known, or there is none.

    Attributes:
        container_id: as the runtime names it: 64 hexadecimal digits; of LXC and systemd-nspawn the name of the container.
        runtime: docker, containerd, cri-o, podman, lxc or systemd-nspawn; empty too where several could have made it.
        depth: how many containers are one in the other here; the innermost is told.
        pod_uid: of the Kubernetes pod, as metadata.uid has it.
        qos: its class: guaranteed, burstable or besteffort.
        unit: unit of systemd, of the systemd inside where a container has one.
        user_unit: unit of a user's systemd.
        slice: the innermost slice that holds the unit.
    """

    container_id: str = ""
    runtime: str = ""
    depth: int = 0
    pod_uid: str = ""
    qos: str = ""
    unit: str = ""
    user_unit: str = ""
    slice: str = ""


NOWHERE = Placement()


def parse_cgroups(text: bytes) -> dict[str, str]:
    """Paths by hierarchy from the text of /proc/PID/cgroup; bytes that are not UTF-8 become surrogates.

    The hierarchy of cgroup v2 has the name "", those of v1 their controllers, as "cpu,cpuacct" or "name=systemd". Lines that
    cgroups(7) does not know are left out.
    """
    paths = {}
    for line in text.split(b"\n"):
        number, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon and number.isdigit() and path.startswith(b"/"):
            decoded = path.decode(errors="surrogateescape")
            paths[controllers.decode(errors="surrogateescape")] = (
                decoded if controllers else decoded.removesuffix(_DELETED)
            )
    return paths


def place_all(paths: Mapping[str, str]) -> Placement:
    """What the paths of one process tell, by hierarchy as ``parse_cgroups`` gives them.

    On a host with both versions (hybrid) a container may have a cgroup of its own in some hierarchies only. The one that knows
    most counts: the innermost container, then a pod, then a unit; among equals v2, then systemd's own, then the others in order.
    """
    first = [paths[name] for name in ("", "name=systemd") if name in paths]
    return max((place(path) for path in [*first, *paths.values()]), key=_knowledge, default=NOWHERE)


def _knowledge(placement: Placement) -> tuple[int, bool, bool]:
    return placement.depth, bool(placement.pod_uid), bool(placement.user_unit or placement.unit)


@functools.lru_cache(CACHED_PATHS)
def place(path: str) -> Placement:
    """What one path tells, absolute or relative to any cgroup above (``/../..``, as a cgroup namespace shows it)."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    container = runtime = pod_uid = qos = ""
    depth = inside = at = 0
    around: list[str] = []
    while at < len(parts):
        pod_uid, qos = _pod(parts, at) or (pod_uid, qos)
        found = _container(parts, at)
        if found is not None:
            container, runtime, length = found
            depth += 1
            # podman --cgroups=split: the container has a part of the cgroup of the service that began it.
            around = parts[inside:at] if parts[at].startswith("libpod-payload-") else []
            at += length
            inside = at
        else:
            at += 1
    unit, user_unit, group = _units(parts[inside:])
    if not unit and around:
        unit, user_unit, group = _units(around)
    return Placement(container, runtime, depth, pod_uid, qos, unit, user_unit, group)


def _container(parts: list[str], at: int) -> tuple[str, str, int] | None:
    """Identifier, runtime and number of parts of the container whose cgroup begins at a part."""
    part = parts[at]
    parent = parts[at - 1] if at else ""
    following = parts[at + 1] if at + 1 < len(parts) else ""
    if (match := _NAMED.fullmatch(part) or _COLONS.fullmatch(part)) is not None:
        return match["id"], _ENGINES[match["engine"]], 1
    if _BARE.fullmatch(part):
        return None if parent == _PODS_OF_PODMAN else (part, _PARENTS.get(parent, ""), 1)
    if (match := _LXC.fullmatch(part)) is not None:
        return match["name"], "lxc", 1
    if part in ("lxc", "lxc.payload") and following and not _NAMED.fullmatch(following):
        return following, "lxc", 2 + (parts[at + 2 : at + 3] == ["ns"])
    if (match := _NSPAWN.fullmatch(part)) is not None and following not in ("", "supervisor"):
        return match["name"], "systemd-nspawn", 1 + (following == "payload")
    if (match := _MACHINE.fullmatch(part)) is not None and following in (_PAYLOAD if match["libvirt"] else _BOOTED):
        return unescape(match["name"]), "systemd-nspawn", 1 + (following == "payload")
    return None


def _pod(parts: list[str], at: int) -> tuple[str, str] | None:
    """Uid and class of the pod whose cgroup a part is."""
    part = parts[at]
    colons = _COLONS.fullmatch(part)
    if (match := _POD_SLICE.fullmatch(colons["slice"] if colons else part)) is not None:
        return match["uid"].replace("_", "-"), match["qos"] or "guaranteed"
    if (match := _POD_FOLDER.fullmatch(part)) is not None:
        if at >= 1 and parts[at - 1] == "kubepods":
            return match["uid"], "guaranteed"
        if at >= 2 and parts[at - 1] in _QOS and parts[at - 2] == "kubepods":
            return match["uid"], parts[at - 1]
    return None


def _units(parts: list[str]) -> tuple[str, str, str]:
    """System unit, user unit and slice, as ``cg_path_get_unit`` and ``cg_path_get_user_unit`` of systemd find them."""
    unit, group, rest = _first_unit(parts)
    if _USER_MANAGER.fullmatch(unit):
        user_unit, user_group, _ = _first_unit(rest)
        return unit, user_unit, user_group or group
    return unit, "", group


def _first_unit(parts: list[str]) -> tuple[str, str, list[str]]:
    """The first part that is no slice, if it is a unit: below it the unit may name its cgroups as it likes."""
    group = ""
    for at, escaped in enumerate(parts):
        part = escaped.removeprefix("_")  # of names that the kernel uses itself
        if part.endswith(".slice"):
            group = part
        elif len(part) <= _UNIT_LENGTH_MAX and _UNIT.fullmatch(part):
            return part, group, parts[at + 1 :]
        else:
            break
    return "", group, []


def unescape(name: str) -> str:
    r"""A name that systemd escaped: ``\x2d`` is "-". What is no escape stays as it is.

    Bytes that are not UTF-8 become surrogates.
    """
    plain = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), name.encode(errors="surrogateescape"))
    return plain.decode(errors="surrogateescape")
