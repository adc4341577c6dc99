"""What this host grants and has, apart from eBPF itself: privileges, settings, limits, mounts, a compiler. Reads only.

Sources: capabilities(7), Documentation/admin-guide/sysctl/{kernel,net}.rst, kernel_lockdown(7), getrlimit(2), proc(5).
"""

from __future__ import annotations

import gzip
import os
import platform
import resource
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from otel_netmon.errors import ImageError, PrivilegeError
from otel_netmon.kernel import compiler, image, loader, syscalls
from otel_netmon.kernel.cgroup import cgroup2_mounts
from otel_netmon.kernel.features import Finding
from otel_netmon.kernel.namespaces import open_netdev, own_namespace

CAPABILITY_BITS: Mapping[str, int] = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""include/uapi/linux/capability.h"""
NEEDED = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON")
_WHOLE_USER_NAMESPACE = ["0", "0", "4294967295"]
_NETDEV_HEADER_LINES = 2


def kernel() -> Finding:
    """Which kernel this is, for information: what it can do is tried."""
    return Finding("kernel", "ok", f"{platform.system()} {platform.release()} on {platform.machine()}")


def capabilities(*, needed: bool, namespaces: bool) -> Finding:
    """Which of the needed capabilities this process lacks; CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON.

    Args:
        needed: whether any program is to be loaded.
        namespaces: whether other network namespaces are to be entered.
    """
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    effective = int(status["CapEff"], 16)
    held = {name for name, bit in CAPABILITY_BITS.items() if effective >> bit & 1}
    known = int(_setting("/proc/sys/kernel/cap_last_cap") or "0")
    lacking = [name for name in NEEDED if name not in held and CAPABILITY_BITS[name] <= known]
    if "CAP_SYS_ADMIN" in held:
        lacking = [name for name in lacking if name == "CAP_NET_ADMIN"]
    elif namespaces or known < CAPABILITY_BITS["CAP_BPF"]:
        lacking.append("CAP_SYS_ADMIN")
    problems = [f"this process lacks {', '.join(lacking)}"] if lacking else []
    remedy = "run as root, or give it these capabilities"
    if Path("/proc/self/uid_map").read_text().split() != _WHOLE_USER_NAMESPACE:
        problems.append("what this process holds counts only in its user namespace")
        remedy = "run it in the first user namespace, not in a rootless container"
    notes = ["under a seccomp filter"] if status.get("Seccomp", "0").strip() != "0" else []
    if problems:
        found = "; ".join(problems + notes)
        if needed or namespaces:
            return Finding("capabilities", "missing", found, remedy, PrivilegeError.exit_code)
        return Finding("capabilities", "degraded", found, remedy)
    if "CAP_SYS_ADMIN" not in held:
        notes.append("no CAP_SYS_ADMIN, which only interfaces.namespaces needs")
    return Finding("capabilities", "ok", "; ".join([", ".join(sorted(held)), *notes]))


def unprivileged_bpf() -> Finding:
    """kernel.unprivileged_bpf_disabled, for information: the agent is privileged when it loads."""
    value = _setting("/proc/sys/kernel/unprivileged_bpf_disabled")
    meaning = {"0": "anybody may load some programs", "1": "none without privilege", "2": "none unless root allows it"}
    if value is None:
        return Finding("unprivileged bpf", "ok", "this kernel has no such setting")
    return Finding("unprivileged bpf", "ok", f"kernel.unprivileged_bpf_disabled = {value}: {meaning.get(value, '')}")


def jit() -> Finding:
    """Whether programs are compiled to machine code."""
    value = _setting("/proc/sys/net/core/bpf_jit_enable")
    if value is None:
        return Finding("jit", "ok", "net.core.bpf_jit_enable is not to be seen in this network namespace")
    found = f"net.core.bpf_jit_enable = {value}"
    if value == "0":
        return Finding("jit", "degraded", f"{found}: programs are interpreted", "sysctl net.core.bpf_jit_enable=1")
    return Finding("jit", "ok", found)


def lockdown() -> Finding:
    """The kernel's lockdown mode, for information: no program reads kernel memory, so none is refused for it."""
    text = _setting("/sys/kernel/security/lockdown")
    mode = text[text.index("[") + 1 : text.index("]")] if text and "[" in text else None
    return Finding("lockdown", "ok", mode or "not built in, or securityfs is not mounted")


def memlock() -> Finding:
    """Whether maps are charged to RLIMIT_MEMLOCK (before 5.11), by making one while the limit is 0."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
        os.close(syscalls.map_create(syscalls.MAP_TYPE_HASH, 4, 8, 1))
    except OSError:
        charged = True
    else:
        charged = False
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    if not charged:
        return Finding("memlock", "ok", "maps are not charged to RLIMIT_MEMLOCK")
    loader.raise_memlock()
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY:
        return Finding("memlock", "ok", "unlimited")
    return Finding(
        "memlock", "degraded", f"maps are charged to RLIMIT_MEMLOCK: {limit >> 10:,} KiB", "ulimit -l unlimited"
    )


def cgroup2() -> Finding:
    """Where cgroup v2 is mounted: the hooks of the probe `connections` are attached to it."""
    text = Path("/proc/self/mountinfo").read_bytes()
    points = [mount.path for mount in cgroup2_mounts(text)]
    if not points:
        remedy = "mount -t cgroup2 none /sys/fs/cgroup; without it the probe connections is off"
        return Finding("cgroup v2", "degraded", "not mounted", remedy)
    hybrid = any(b" - cgroup " in line for line in text.splitlines())
    return Finding("cgroup v2", "ok", f"{', '.join(points)}{' (hybrid: cgroup v1 is there too)' if hybrid else ''}")


def netdev() -> str:
    """The kernel's own interface counters can be read."""
    namespace = own_namespace()
    try:
        with os.fdopen(open_netdev(namespace), encoding="ascii", errors="replace") as file:
            return f"interfaces: {len(file.readlines()) - _NETDEV_HEADER_LINES}"
    finally:
        namespace.close()


def has_clsact() -> bool | None:
    """Whether the kernel has sch_ingress and cls_bpf, by its configuration or its modules; None where neither tells."""
    release = platform.release()
    options = _options(release)
    if options is not None:
        return all(f"CONFIG_{name}=" in options for name in ("NET_CLS_ACT", "NET_SCH_INGRESS", "NET_CLS_BPF"))
    folder = Path("/lib/modules") / release
    lists = [path.read_text() for path in (folder / "modules.builtin", folder / "modules.dep") if path.exists()]
    if lists:
        return all(any(f"/{name}.ko" in text for text in lists) for name in ("sch_ingress", "cls_bpf"))
    return True if all(Path("/sys/module", name).exists() for name in ("sch_ingress", "cls_bpf")) else None


# ---- images and their compiler


def find_image(name: str, cache: Path, sources: Path | None) -> tuple[image.Image, str] | None:
    """The image of bpf/NAME.c that needs no compiler, and whether it is ``shipped`` or of the ``cache``.

    Nothing is compiled and nothing written, unlike ``loader.obtain``.

    Raises:
        ImageError: the shipped image is damaged, or there are no sources.
    """
    wanted = image.source_hash(sources or image.source_directory(), name, {})
    shipped = image.load(image.SHIPPED / f"{name}.json")
    if shipped is not None and shipped.hash == wanted:
        return shipped, "shipped"
    try:
        cached = image.load(image.cache_path(cache, name, wanted))
    except ImageError:  # the agent compiles over it
        return None
    return (cached, "cache") if cached is not None and cached.hash == wanted else None


def bcc(interpreter: str | None) -> Finding:
    """Which bcc an interpreter has."""
    if interpreter is None:
        remedy = "apt-get install python3-bpfcc, or set images.compiler; only changed programs need it"
        return Finding("bcc", "degraded", "no interpreter imports it", remedy)
    child = subprocess.run(
        [interpreter, "-c", "import bcc; print(bcc.__version__)"],
        capture_output=True,
        check=False,
        text=True,
        timeout=compiler.DEADLINE_SECONDS,
    )
    if child.returncode:
        return Finding("bcc", "degraded", f"{interpreter}: {child.stderr.strip()[-400:]}", "reinstall python3-bpfcc")
    return Finding("bcc", "ok", f"{child.stdout.strip()} of {interpreter}")


def compile_test(
    name: str, interpreter: str, sources: Path | None, known: image.Image | None
) -> tuple[image.Image, str]:
    """Compiles bpf/NAME.c into a folder that is deleted again; tells how it compares with the image that is known.

    Raises:
        ImageError: bcc refuses.
        OSError: there is no place for temporary files.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="otel-netmon-") as scratch:
        output = Path(scratch) / f"{name}.json"
        made = compiler.compile_image(sources or image.source_directory(), name, {}, output, interpreter)
    took = f"{made.compiler} took {time.monotonic() - started:.1f} s"
    if known is None:
        return made, took
    if made.hash != known.hash:
        raise ImageError(f"the sources of {name} changed while it was compiled", "try again")
    return made, f"{took}: {'the same' if made.programs == known.programs else 'other'} instructions as the image"


def cache_directory(path: Path) -> Finding:
    """Whether a compiled image could be kept."""
    existing = next(each for each in (path, *path.parents) if each.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("image cache", "ok", f"{path} {'can be written' if existing == path else 'can be made'}")
    return Finding(
        "image cache", "degraded", f"{path} cannot be written", "set images.directory; only compiled images need it"
    )


def _options(release: str) -> str | None:
    try:
        with gzip.open("/proc/config.gz", "rt", encoding="ascii") as file:
            return file.read()
    except (FileNotFoundError, PermissionError):
        return _setting(f"/boot/config-{release}")


def _setting(path: str) -> str | None:
    """The text of a file of the kernel's; None where this kernel or this namespace has none, or hides it."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (FileNotFoundError, PermissionError):
        return None
