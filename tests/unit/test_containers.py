"""Cgroup paths of container runtimes, kubelet and systemd, as they are found on hosts."""

from __future__ import annotations

import pytest

from otel_netmon.enrich.containers import NOWHERE, Placement, parse_cgroups, place, place_all, unescape

ID = "6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2"
INNER = "99f3a16ea25b7724cb56a4f0c0df1113ad9474fbf5545bead97fd5c7f61c13f4"
UID = "214f3ba8-4b69-4bdb-a7d5-5ecc73f04ae9"
UID_ = UID.replace("-", "_")
STATIC = "c704ef4c297ab11032b83ce52cbfc87b"
NODE = f"/system.slice/docker-{ID}.scope/kubelet.slice/kubelet-kubepods.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"


def pod(runtime: str, qos: str, *, identifier: str = ID, uid: str = UID, depth: int = 1) -> Placement:
    return Placement(identifier, runtime, depth if identifier else 0, uid, qos)


def container(runtime: str, *, identifier: str = ID, depth: int = 1) -> Placement:
    return Placement(identifier, runtime, depth)


LAYOUTS: dict[str, tuple[str, Placement]] = {
    # Docker
    "docker, cgroupfs": (f"/docker/{ID}", container("docker")),
    "docker, systemd": (f"/system.slice/docker-{ID}.scope", container("docker")),
    "docker, own parent": (f"/builds/{ID}", container("")),
    "docker, a task of ECS": (f"/ecs/fe4e1d1c4e4c4a4b9f7a1c2d3e4f5a6b/{ID}", container("")),
    "docker, rootless": (f"{USER}/user.slice/docker-{ID}.scope", container("docker")),
    "docker, systemd inside": (
        f"/docker/{ID}/system.slice/kubelet.service",
        Placement(ID, "docker", 1, unit="kubelet.service", slice="system.slice"),
    ),
    "docker, init of systemd inside": (
        f"/system.slice/docker-{ID}.scope/init.scope",
        Placement(ID, "docker", 1, unit="init.scope"),
    ),
    "docker in docker": (f"/docker/{ID}/docker/{INNER}", container("docker", identifier=INNER, depth=2)),
    "docker in docker, systemd": (
        f"/system.slice/docker-{ID}.scope/system.slice/docker-{INNER}.scope",
        container("docker", identifier=INNER, depth=2),
    ),
    # containerd
    "nerdctl, systemd": (f"/system.slice/nerdctl-{ID}.scope", container("containerd")),
    "nerdctl, cgroupfs": (f"/default/{ID}", container("")),
    "containerd without pods": (f"/k8s.io/{ID}", container("containerd")),
    # kubelet with the systemd driver
    "containerd, burstable": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/cri-containerd-{ID}.scope",
        pod("containerd", "burstable"),
    ),
    "containerd, best effort": (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/cri-containerd-{ID}.scope",
        pod("containerd", "besteffort"),
    ),
    "containerd, guaranteed": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        pod("containerd", "guaranteed"),
    ),
    "containerd, static pod": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope",
        pod("containerd", "burstable", uid=STATIC),
    ),
    "docker below kubelet": (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/docker-{ID}.scope",
        pod("docker", "burstable"),
    ),
    "cri-o": (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UID_}.slice/crio-{ID}.scope",
        pod("cri-o", "besteffort"),
    ),
    "cri-o with crun": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container",
        pod("cri-o", "guaranteed"),
    ),
    "cri-o, its monitor is in the pod and in no container": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-conmon-{ID}.scope",
        Placement(pod_uid=UID, qos="guaranteed", unit=f"crio-conmon-{ID}.scope", slice=f"kubepods-pod{UID_}.slice"),
    ),
    "the pod itself, systemd driver": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice",
        Placement(pod_uid=UID, qos="guaranteed", slice=f"kubepods-pod{UID_}.slice"),
    ),
    "kubelet with a root of its own": (
        f"/nodes.slice/nodes-kubepods.slice/nodes-kubepods-burstable.slice/nodes-kubepods-burstable-pod{UID_}.slice/crio-{ID}.scope",
        pod("cri-o", "burstable"),
    ),
    "drivers that do not fit: systemd in kubelet, cgroupfs in containerd": (
        f"/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
        pod("containerd", "besteffort"),
    ),
    "the same at the root, cri-o": (
        f"/kubepods-pod{UID_}.slice:crio:{ID}",
        pod("cri-o", "guaranteed"),
    ),
    # kubelet with the cgroupfs driver: containerd and cri-dockerd name their containers alike
    "cgroupfs driver, burstable": (f"/kubepods/burstable/pod{UID}/{ID}", pod("", "burstable")),
    "cgroupfs driver, best effort": (f"/kubepods/besteffort/pod{UID}/{ID}", pod("", "besteffort")),
    "cgroupfs driver, guaranteed": (f"/kubepods/pod{UID}/{ID}", pod("", "guaranteed")),
    "cgroupfs driver, static pod": (f"/kubepods/burstable/pod{STATIC}/{ID}", pod("", "burstable", uid=STATIC)),
    "cgroupfs driver, cri-o": (f"/kubepods/burstable/pod{UID}/crio-{ID}", pod("cri-o", "burstable")),
    "cgroupfs driver, monitor of cri-o": (
        f"/kubepods/burstable/pod{UID}/crio-conmon-{ID}",
        pod("", "burstable", identifier=""),
    ),
    "the pod itself, cgroupfs driver": (f"/kubepods/besteffort/pod{UID}", pod("", "besteffort", identifier="")),
    # one in the other
    "kind, systemd driver": (
        f"{NODE}/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UID_}.slice/cri-containerd-{INNER}.scope",
        pod("containerd", "besteffort", identifier=INNER, depth=2),
    ),
    "kind, cgroupfs driver": (
        f"/docker/{ID}/kubelet/kubepods/burstable/pod{UID}/{INNER}",
        pod("", "burstable", identifier=INNER, depth=2),
    ),
    "docker in a pod: the inner container, and the pod": (
        f"/kubepods/burstable/pod{UID}/{ID}/docker/{INNER}",
        pod("docker", "burstable", identifier=INNER, depth=2),
    ),
    "pods in a pod: the inner one": (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/kubepods/besteffort/pod{STATIC}/{INNER}",
        pod("", "besteffort", identifier=INNER, uid=STATIC, depth=2),
    ),
    # podman
    "podman, systemd": (f"/machine.slice/libpod-{ID}.scope", container("podman")),
    "podman, systemd, crun": (f"/machine.slice/libpod-{ID}.scope/container", container("podman")),
    "podman, its monitor": (
        f"/machine.slice/libpod-conmon-{ID}.scope",
        Placement(unit=f"libpod-conmon-{ID}.scope", slice="machine.slice"),
    ),
    "podman, a pod of its own": (
        f"/machine.slice/machine-libpod_pod_{INNER}.slice/libpod-{ID}.scope/container",
        container("podman"),
    ),
    "podman, cgroupfs": (f"/libpod_parent/libpod-{ID}", container("podman")),
    "podman, cgroupfs, a pod of its own": (f"/libpod_parent/{INNER}/libpod-{ID}", container("podman")),
    "podman, cgroupfs, monitor of a pod of its own": (f"/libpod_parent/{INNER}/conmon", NOWHERE),
    "podman, rootless": (f"{USER}/user.slice/libpod-{ID}.scope/container", container("podman")),
    "podman, systemd inside": (
        f"/machine.slice/libpod-{ID}.scope/container/init.scope",
        container("podman"),  # below crun's own folder everything may have any name
    ),
    "podman, a service of systemd": (
        f"/system.slice/nginx.service/libpod-payload-{ID}",
        Placement(ID, "podman", 1, unit="nginx.service", slice="system.slice"),
    ),
    "podman, a service of a user": (
        f"{USER}/app.slice/redis.service/libpod-payload-{ID}",
        Placement(ID, "podman", 1, unit="user@1000.service", user_unit="redis.service", slice="app.slice"),
    ),
    "podman, what keeps a service of a user": (
        f"{USER}/app.slice/redis.service/runtime",
        Placement(unit="user@1000.service", user_unit="redis.service", slice="app.slice"),
    ),
    # LXC
    "lxc": ("/lxc.payload.web-1", container("lxc", identifier="web-1")),
    "lxc 3": ("/lxc.payload/web", container("lxc", identifier="web")),
    "lxc, cgroup v1": ("/lxc/web", container("lxc", identifier="web")),
    "lxc of Proxmox": (
        "/lxc/101/ns/system.slice/nginx.service",
        Placement("101", "lxc", 1, unit="nginx.service", slice="system.slice"),
    ),
    "lxc, systemd inside": (
        "/lxc.payload.web/system.slice/nginx.service",
        Placement("web", "lxc", 1, unit="nginx.service", slice="system.slice"),
    ),
    "incus, a project": (
        "/lxc.payload.user-1000_web/init.scope",
        Placement("user-1000_web", "lxc", 1, unit="init.scope"),
    ),
    "lxc, its monitor": ("/lxc.monitor.web", NOWHERE),
    "lxc 3, its monitor": ("/lxc.monitor/web", NOWHERE),
    "docker in lxc": (f"/lxc.payload.web/docker/{ID}", container("docker", depth=2)),
    # systemd-nspawn
    "nspawn": (
        "/machine.slice/machine-web.scope/payload",
        container("systemd-nspawn", identifier="web"),
    ),
    "nspawn, escaped": (
        "/machine.slice/machine-web\\x2d1.scope/payload/system.slice/nginx.service",
        Placement("web-1", "systemd-nspawn", 1, unit="nginx.service", slice="system.slice"),
    ),
    "nspawn as a service": (
        "/machine.slice/systemd-nspawn@web-1.service/payload/init.scope",
        Placement("web-1", "systemd-nspawn", 1, unit="init.scope"),
    ),
    "nspawn as a service, the one who keeps it": (
        "/machine.slice/systemd-nspawn@web.service/supervisor",
        Placement(unit="systemd-nspawn@web.service", slice="machine.slice"),
    ),
    "nspawn, cgroup v1": (
        "/machine.slice/machine-web.scope/init.scope",
        Placement("web", "systemd-nspawn", 1, unit="init.scope"),
    ),
    "a virtual machine": (
        "/machine.slice/machine-qemu\\x2d1\\x2dwin.scope/libvirt/emulator",
        Placement(unit="machine-qemu\\x2d1\\x2dwin.scope", slice="machine.slice"),
    ),
    "libvirt's LXC, which nothing here knows": (
        "/machine.slice/machine-lxc\\x2d42\\x2dweb.scope/init.scope",
        Placement(unit="machine-lxc\\x2d42\\x2dweb.scope", slice="machine.slice"),
    ),
    # systemd
    "a service": ("/system.slice/ssh.service", Placement(unit="ssh.service", slice="system.slice")),
    "an instance": (
        "/system.slice/system-postgresql.slice/postgresql@15-main.service",
        Placement(unit="postgresql@15-main.service", slice="system-postgresql.slice"),
    ),
    "a folder of a service": (
        "/system.slice/systemd-udevd.service/udev",
        Placement(unit="systemd-udevd.service", slice="system.slice"),
    ),
    "escaped": (
        "/system.slice/dev-disk-by\\x2duuid-x.swap",
        Placement(unit="dev-disk-by\\x2duuid-x.swap", slice="system.slice"),
    ),
    "a name of the kernel's": ("/system.slice/_pids.service", Placement(unit="pids.service", slice="system.slice")),
    "a session": (
        "/user.slice/user-1000.slice/session-3.scope",
        Placement(unit="session-3.scope", slice="user-1000.slice"),
    ),
    "a service of a user": (
        f"{USER}/app.slice/syncthing.service",
        Placement(unit="user@1000.service", user_unit="syncthing.service", slice="app.slice"),
    ),
    "systemd of a user": (
        f"{USER}/init.scope",
        Placement(unit="user@1000.service", user_unit="init.scope", slice="user-1000.slice"),
    ),
    "systemd": ("/init.scope", Placement(unit="init.scope")),
    "a slice": ("/system.slice", Placement(slice="system.slice")),
    # as a cgroup namespace shows them
    "from within a container": (f"/../cri-containerd-{ID}.scope", container("containerd")),
    "from within a pod": (f"/../../pod{UID}/{ID}", container("")),
    "from within a slice": (f"/../../kubepods-pod{UID_}.slice/crio-{ID}.scope", pod("cri-o", "guaranteed")),
    # nothing is guessed
    "the root": ("/", NOWHERE),
    "no text": ("", NOWHERE),
    "a short identifier": (f"/docker/{ID[:12]}", NOWHERE),
    "upper case": (f"/docker/{ID.upper()}", NOWHERE),
    "a longer one": (f"/docker/{ID}0", NOWHERE),
    "an unknown prefix": (
        f"/system.slice/backup-{ID}.scope",
        Placement(unit=f"backup-{ID}.scope", slice="system.slice"),
    ),
    "a mount of a container": (
        f"/system.slice/docker-{ID}.scope.mount",
        Placement(unit=f"docker-{ID}.scope.mount", slice="system.slice"),
    ),
    "a pod outside of kubepods": (f"/other/pod{UID}", NOWHERE),
    "no uid": ("/kubepods/burstable/podabc", NOWHERE),
    "a container with a name, of ctr": ("/default/redis", NOWHERE),
    "an image that is built": ("/docker/buildkit/ajb9qvzz1sdmzmp6t7lfoxq2c", NOWHERE),
    "a cgroup of one's own": ("/netmon/test", NOWHERE),
    "no unit": ("/system.slice/.service", Placement(slice="system.slice")),
    "a line break": (f"/docker/{ID}\n", NOWHERE),
    "bytes that are not UTF-8": ("/lxc.payload.\udcff\udcfe", container("lxc", identifier="\udcff\udcfe")),
    "an LXC without a name": ("/lxc", NOWHERE),
}


@pytest.mark.parametrize(("path", "expected"), LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout(path: str, expected: Placement) -> None:
    assert place(path) == expected


def test_lines_of_procfs() -> None:
    text = (
        b"12:cpu,cpuacct:/docker/a\n"
        b"1:name=systemd:/system.slice/ssh.service\n"
        b"0::/x (deleted)\n"
        b"\n"
        b"2:pids:/with:colon (deleted)\n"
        b"3:rdma:/\xff\n"
        b"no line\n4:freezer:relative\nx:memory:/\n"
    )
    assert parse_cgroups(text) == {
        "cpu,cpuacct": "/docker/a",
        "name=systemd": "/system.slice/ssh.service",
        "": "/x",
        "pids": "/with:colon (deleted)",
        "rdma": "/\udcff",
    }


def test_on_a_hybrid_host_the_hierarchy_that_knows_most_counts() -> None:
    v1 = {"name=systemd": f"/docker/{ID}", "pids": f"/docker/{ID}"}
    assert place_all({**v1, "": "/"}) == container("docker")
    assert place_all({**v1, "": "/system.slice/docker.service"}) == container("docker")
    assert place_all({**v1, "": f"/docker/{INNER}"}) == container("docker", identifier=INNER)  # v2 comes first
    assert place_all({**v1, "cpu": f"/docker/{ID}/docker/{INNER}"}).container_id == INNER
    assert place_all({"pids": "/system.slice/a.service", "name=systemd": "/system.slice/b.service"}).unit == "b.service"
    assert place_all({"": "/system.slice/a.service", "pids": f"/kubepods/pod{UID}"}).pod_uid == UID
    assert place_all({"": "/", "pids": "/"}) == NOWHERE
    assert place_all({}) == NOWHERE


def test_names_that_systemd_escaped() -> None:
    assert unescape("web\\x2d1") == "web-1"
    assert unescape("a\\x5cx2d") == "a\\x2d"
    assert unescape("\\x\\xg0\\x2") == "\\x\\xg0\\x2"
    assert unescape("\\xc3\\xa4\\xff") == "ä\udcff"
