"""Whatever the names of cgroups are: parsing ends, gives text, and finds a container where one was put."""

from __future__ import annotations

from hypothesis import given, strategies as st

from otel_netmon.enrich.containers import NOWHERE, parse_cgroups, place, place_all, unescape

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
) | st.sampled_from(
    ["kubepods", "burstable", "lxc", "lxc.payload", "docker", "payload", "system.slice", "user@1.service", "..", "ns"]
)
PATHS = st.lists(NAMES, max_size=8).map(lambda names: "/" + "/".join(names))
IDS = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(st.binary(max_size=400) | st.lists(PATHS).map(lambda paths: "\n".join(f"0::{path}" for path in paths).encode()))
def test_any_bytes_are_parsed(text: bytes) -> None:
    placement = place_all(parse_cgroups(text))
    assert (placement.depth > 0) == bool(placement.container_id)
    assert placement.container_id or not placement.runtime


@given(PATHS, IDS, PATHS)
def test_a_container_is_found_below_anything(above: str, identifier: str, below: str) -> None:
    found = place(f"{above}/docker-{identifier}.scope")
    assert found.container_id == identifier
    assert found.runtime == "docker"
    assert place(f"{above}/docker-{identifier}.scope{below}").depth >= found.depth


@given(PATHS)
def test_paths_read_back_from_procfs_tell_the_same(path: str) -> None:
    encoded = path.encode()
    if b"\n" in encoded:
        return  # no cgroup has such a name: the kernel refuses it
    assert place_all(parse_cgroups(b"4:pids:" + encoded + b"\n")) == place(path)


@given(st.lists(st.sampled_from(["x", "a-b", "docker-", "pod", "kubepods-pod", "machine-x"]), max_size=6))
def test_names_of_nobody_tell_nothing(names: list[str]) -> None:
    assert place("/" + "/".join(names)) == NOWHERE


@given(st.text(max_size=50))
def test_unescaping_ends(name: str) -> None:
    if "\\" not in name and name.isascii():
        assert unescape(name) == name
