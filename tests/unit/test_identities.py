"""Resources of processes and containers, and what is kept of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from otel_netmon.enrich.containers import Placement, place
from otel_netmon.enrich.identities import Identities, Identity, container_resource, number_of

ID = "6dc3fdffbf66b1239d55e98da9aaa759ea51ed35d04eb09d19ebd78963aa26c2"
UID = "214f3ba8-4b69-4bdb-a7d5-5ecc73f04ae9"
NGINX = Identity(7, 4242, "nginx", 100, "/usr/sbin/nginx", 0, 4026531833)
POD = place(f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope")


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/system.slice/web.service", "web"),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main"),
        ("/user.slice/user-1.slice/user@1.service/app.slice/sync.service", "sync"),
        ("/user.slice/user-1.slice/user@1.service/init.scope", "nginx"),
        ("/user.slice/user-1.slice/session-3.scope", "nginx"),
        (f"/system.slice/docker-{ID}.scope", "nginx"),
        (f"/system.slice/docker-{ID}.scope/system.slice/inner.service", "inner"),
        (f"/system.slice/web.service/libpod-payload-{ID}", "web"),
        ("/", "nginx"),
    ],
)
def test_the_service_is_the_unit_or_the_executable(path: str, service: str) -> None:
    assert replace(NGINX, placement=place(path)).service == service


def test_a_service_without_either() -> None:
    assert Identity(1, 5, "curl").service == "curl"
    assert Identity(1, 5, "kworker/0:1", kernel_thread=True).service == "kernel"
    assert Identity(1).service == "unknown_service"


def test_a_resource_has_what_is_known_in_one_order() -> None:
    assert list(replace(NGINX, namespace_pid=3, placement=POD).resource().items()) == [
        ("service.name", "nginx"),
        ("process.pid", 4242),
        ("process.vpid", 3),
        ("process.executable.name", "nginx"),
        ("process.executable.path", "/usr/sbin/nginx"),
        ("container.id", ID),
        ("container.runtime.name", "containerd"),
        ("k8s.pod.uid", UID),
    ]
    assert replace(NGINX, placement=place("/system.slice/web.service")).resource() == {
        "service.name": "web",
        "process.pid": 4242,
        "process.executable.name": "nginx",
        "process.executable.path": "/usr/sbin/nginx",
        "netmon.systemd.unit": "web.service",
    }
    assert Identity(1, 5, "curl").resource() == {"service.name": "curl", "process.pid": 5}
    assert container_resource(POD) == {
        "container.id": ID,
        "container.runtime.name": "containerd",
        "k8s.pod.uid": UID,
    }
    assert container_resource(Placement()) == {}


def test_a_resource_is_made_once() -> None:
    identities = Identities()
    number = identities.keep(replace(NGINX, placement=POD))
    assert identities.resource(number) is identities.resource(number)
    assert identities.resource(number)["container.id"] == ID
    assert identities.identity(number).container == ID


def test_processes_of_one_container_have_one_number() -> None:
    identities = Identities()
    first = identities.keep(replace(NGINX, placement=POD))
    second = identities.keep(Identity(8, 4343, "php", placement=POD))
    alone = identities.keep(Identity(9, 1, "init"))
    container = identities.container_of(first)
    assert container == identities.container_of(second) != 0
    assert identities.container_resource(container) == container_resource(POD)
    assert identities.container_of(alone) == 0


def test_numbers_are_the_same_in_every_process() -> None:
    assert number_of("process", 4242, 100, "/usr/sbin/nginx", 1) == 16307681488930107083
    assert number_of("a", "b") != number_of("ab") != number_of("a", 1) != number_of("a", "1")


def test_what_is_in_use_is_kept_and_the_rest_is_bounded() -> None:
    identities = Identities(identities_max=5)
    for number in range(1, 24):
        identities.keep(Identity(number, number, placement=place(f"/lxc.payload.c{number}")))
        identities.container_of(number)
        identities.resource(number)
    container = identities.container_of(3)
    identities.set_in_use([2, 3, container])
    assert len(identities) == 8
    for number in (2, 3, 18, 19, 20, 21, 22, 23):
        assert identities.identity(number).pid == number
    with pytest.raises(KeyError):
        identities.identity(17)
    assert identities.container_resource(container) == {"container.id": "c3", "container.runtime.name": "lxc"}
    identities.keep(identities.identity(18))  # seen again
    identities.set_in_use([])
    assert sorted(identities._identities) == [18, 20, 21, 22, 23]
    assert set(identities._resources) == set(identities._identities)
    assert len(identities._containers) == 5


def test_another_process_goes_on_with_what_is_in_use() -> None:
    identities = Identities()
    number = identities.keep(replace(NGINX, command="odd\udcff", placement=POD))
    other = identities.keep(Identity(9, 1, "init"))
    container = identities.container_of(number)
    successor = Identities()
    successor.restore(identities.state([number, container, 4711]))
    assert successor.identity(number) == identities.identity(number)
    assert successor.resource(number) == identities.resource(number)
    assert successor.container_resource(container) == identities.container_resource(container)
    assert successor.container_of(number) == container
    with pytest.raises(KeyError):
        successor.identity(other)
