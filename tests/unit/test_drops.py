"""Names of the kernel's reasons, and the points of drops."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from otel_netmon.otel.catalogue import CATALOGUE
from otel_netmon.otel.drift import problems
from otel_netmon.otel.drops import drop_points, short_name
from otel_netmon.otel.points import Snapshot
from otel_netmon.readers.btf import KERNEL, enum_values, kernel_enum
from otel_netmon.readers.drops import UNKNOWN

START, END = 1_700_000_000_000_000_000, 1_700_000_010_000_000_000


def btf(types: bytes, strings: bytes) -> bytes:
    """BTF of these types; offsets of names are those in ``strings``."""
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def named(strings: bytes, name: str) -> int:
    return strings.index(b"\0" + name.encode() + b"\0") + 1


STRINGS = b"\0int\0other\0wanted\0wanted_more\0A_ONE\0A_TWO\0A_NONE\0"


def kind(number: int, members: int, name: str = "") -> bytes:
    return struct.pack("=III", named(STRINGS, name) if name else 0, number << 24 | members, 4)


def every_kind() -> bytes:
    """One type of each kind with what stands behind its head."""
    fixed = {1: 4, 3: 12, 14: 4, 17: 4}
    each = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
    return b"".join(kind(number, 3) + bytes(fixed.get(number, 0) + 3 * each.get(number, 0)) for number in range(1, 20))


def enum(name: str) -> bytes:
    values = (("A_ONE", 1), ("A_TWO", 2), ("A_NONE", -1))
    return kind(6, 3, name) + b"".join(struct.pack("=Ii", named(STRINGS, text), value) for text, value in values)


def test_an_enum_is_found_behind_types_of_every_kind() -> None:
    data = btf(every_kind() + enum("other") + enum("wanted_more") + enum("wanted"), STRINGS)
    assert enum_values(data, "wanted") == {1: "A_ONE", 2: "A_TWO", -1: "A_NONE"}
    assert enum_values(data, "int") == {}
    assert enum_values(btf(every_kind(), STRINGS), "wanted") == {}


def test_an_enum_of_64_bits() -> None:
    values = struct.pack("=III", named(STRINGS, "A_TWO"), 7, 0)
    assert enum_values(btf(kind(19, 1, "wanted") + values, STRINGS), "wanted") == {7: "A_TWO"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(24),
        struct.pack(">HBBIIIII", 0xEB9F, 1, 0, 24, 0, 0, 0, 0),
        btf(every_kind(), STRINGS)[:100],
        btf(kind(20, 0), STRINGS),
        btf(kind(0, 0), STRINGS),
    ],
)
def test_what_is_no_btf_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"BTF|subsection not found"):
        enum_values(data, "wanted")


def test_a_kernel_without_btf_tells_no_names(tmp_path: Path) -> None:
    assert kernel_enum("wanted", tmp_path / "absent") == {}
    (tmp_path / "damaged").write_bytes(b"damaged")
    assert kernel_enum("wanted", tmp_path / "damaged") == {}


@pytest.mark.skipif(not KERNEL.exists(), reason="this kernel carries no BTF")
def test_this_kernel_tells_its_reasons() -> None:
    names = kernel_enum("skb_drop_reason")
    if not names:
        pytest.skip("this kernel has no reasons")
    assert "NO_SOCKET" in {short_name(name) for name in names.values()}
    assert all(re.fullmatch(r"SKB_[A-Z0-9_]+", name) for name in names.values())


def test_names_are_those_of_traces() -> None:
    assert short_name("SKB_DROP_REASON_NO_SOCKET") == "NO_SOCKET"
    assert short_name("SKB_CONSUMED") == "CONSUMED"
    assert short_name("OVS_DROP_METER") == "OVS_DROP_METER"


NAMES = {0: "NOT_DROPPED_YET", 1: "CONSUMED", 2: "NOT_SPECIFIED", 3: "NO_SOCKET", 12: "NETFILTER_DROP"}


def points(
    counts: dict[int, int], missed: int = 0, *, names: dict[int, str] | None = None, reasons: bool = True
) -> dict[str, int]:
    found = drop_points(counts, missed, NAMES if names is None else names, START, has_reasons=reasons)
    assert problems(Snapshot(END, found)) == []
    assert set(found) <= set(CATALOGUE)
    return {str(point.attributes["netmon.reason"]): int(point.value) for point in found["netmon.kernel.drops"]}


def test_reasons_have_the_kernels_names() -> None:
    assert points({2: 7, 3: 1009, 12: 503}) == {"NOT_SPECIFIED": 7, "NO_SOCKET": 1009, "NETFILTER_DROP": 503}


def test_what_is_no_drop_is_left_out() -> None:
    assert points({0: 5, 1: 7, 3: 11}) == {"NO_SOCKET": 11}


def test_a_reason_without_a_name_has_its_number() -> None:
    assert points({3: 5, 500: 7, 65537: 11}) == {"NO_SOCKET": 5, "500": 7, "65537": 11}
    assert points({0: 1, 3: 5}, names={}) == {"0": 1, "3": 5}


def test_what_has_no_number() -> None:
    assert points({3: 5, UNKNOWN: 7}, 2) == {"NO_SOCKET": 5, "other": 7, "missed": 2}
    assert points({UNKNOWN: 7}, reasons=False) == {"NOT_SPECIFIED": 7}
    assert points({}) == {}
