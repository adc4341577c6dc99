"""Program images as files, and what the loader puts into their instructions."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from otel_netmon.abi.enums import ABI_VERSION, LATE_DEFAULTS, LATE_MARK, Late
from otel_netmon.errors import ImageError
from otel_netmon.kernel import image
from otel_netmon.kernel.image import Image, MapDefinition, Program

EXIT = bytes([0x95]) + bytes(7)


def made(**fields: Any) -> Image:
    return Image(
        name="tc_monitor",
        hash="ab" * 32,
        compiler="bcc 0.26.0",
        constants={"SIZE": 3},
        maps=(MapDefinition("flow_table", 1, 44, 72, 65536, 0), MapDefinition("state", 2, 4, 56, 1, 0)),
        programs={"second": Program(6, EXIT * 2), "first": Program(3, EXIT)},
    )._replace(**fields)


def wide(register: int, source: int, value: int) -> bytes:
    """LD_IMM64: two instructions, the upper half of the value in the second."""
    low, high = value & 0xFFFFFFFF, value >> 32
    return struct.pack("<BBhIBBhI", 0x18, source << 4 | register, 0, low, 0, 0, 0, high)


# ----------------------------------------------------------------------------------------------------------------- files
def test_an_image_reads_back_as_itself(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "image.json"
    image.save(made(), path)
    assert image.load(path) == made()
    assert path.read_text() == made().dump()
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["image.json"]


def test_the_same_image_is_the_same_octets() -> None:
    other = made(programs=dict(sorted(made().programs.items())), constants={"SIZE": 3})
    assert other.dump() == made().dump()


def test_no_file_is_no_image(tmp_path: Path) -> None:
    assert image.load(tmp_path / "absent.json") is None


@pytest.mark.parametrize(
    "prepare", [Path.mkdir, lambda path: path.write_bytes(b"\xff\xfe")], ids=["a folder", "not ASCII"]
)
def test_what_cannot_be_read_is_told_with_its_path(tmp_path: Path, prepare: Any) -> None:
    path = tmp_path / "image.json"
    prepare(path)
    with pytest.raises(ImageError, match=r"image\.json") as caught:
        image.load(path)
    assert caught.value.remedy


def test_writing_fails_whole(tmp_path: Path) -> None:
    path = tmp_path / "image.json"
    path.mkdir()
    (path / "in the way").write_text("")
    with pytest.raises(OSError, match="directory"):
        image.save(made(), path)
    assert os.listdir(tmp_path) == ["image.json"], "no temporary file is left"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": "1"},
        {"abi": ABI_VERSION + 1},
        {"abi": None},
    ],
)
def test_another_format_is_told_as_such(change: dict[str, Any]) -> None:
    text = json.dumps(json.loads(made().dump()) | change)
    with pytest.raises(ImageError, match=rf"here: image format .* this agent reads 1 and {ABI_VERSION}"):
        image.parse(text, "here")


def resealed(raw: dict[str, Any]) -> str:
    """The text with a digest that fits it: damage from before it was written."""
    raw.pop("digest", None)
    digest = hashlib.sha256(json.dumps(raw, sort_keys=True).encode()).hexdigest()
    return json.dumps(raw | {"digest": digest})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "3",
        '"text"',
        "{}",
        "{",
        '{"format": 1}',
        made().dump()[:-50],
        made().dump().replace('"flow_table"', '"flow_tabla"'),
        made().dump().replace("65536", "65537"),
        json.dumps({k: v for k, v in json.loads(made().dump()).items() if k != "digest"}),
    ],
)
def test_damage_is_told(text: str) -> None:
    with pytest.raises(ImageError, match="here: damaged program image") as caught:
        image.parse(text, "here")
    assert "compiled again" in caught.value.remedy


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("maps", [{"name": "flow_table"}]),
        ("maps", [[1, 2]]),
        ("maps", None),
        ("programs", []),
        ("programs", {"first": {"kind": 3, "instructions": ""}}),
        ("programs", {"first": {"kind": 3, "instructions": base64.b64encode(EXIT[:7]).decode()}}),
        ("programs", {"first": {"kind": 3, "instructions": "!!!!"}}),
        ("programs", {"first": {"kind": "three", "instructions": base64.b64encode(EXIT).decode()}}),
        ("programs", {"first": {"instructions": base64.b64encode(EXIT).decode()}}),
        ("constants", {"SIZE": "x"}),
        ("constants", 7),
    ],
)
def test_content_that_is_no_image_is_told(where: str, value: Any) -> None:
    with pytest.raises(ImageError, match="here: damaged program image"):
        image.parse(resealed(json.loads(made().dump()) | {where: value}), "here")


@settings(max_examples=200)
@given(at=st.integers(0, len(made().dump()) - 1), bit=st.integers(0, 6))
def test_a_flipped_bit_is_found_or_means_nothing(at: int, bit: int) -> None:
    text = bytearray(made().dump().encode())
    text[at] ^= 1 << bit
    with contextlib.suppress(ImageError):
        assert image.parse(text.decode(), "here") == made(), "white space of the JSON"


# ----------------------------------------------------------------------------------------------------------- instructions
def test_map_references_become_file_descriptors() -> None:
    code = wide(1, 1, 0) + EXIT + wide(2, 1, 1) + wide(3, 1, 0)
    assert image.patch(code, (77, 1234), {}) == wide(1, 1, 77) + EXIT + wide(2, 1, 1234) + wide(3, 1, 77)


def test_late_constants_become_their_values() -> None:
    code = b"".join(wide(1, 0, LATE_MARK | late) for late in Late)
    values = {Late.NAMESPACE: 7, Late.L2_LENGTH: 0, Late.DECAPSULATE: 2**63 + 5}
    expected = {**LATE_DEFAULTS, **values}
    assert image.patch(code, (), values) == b"".join(wide(1, 0, expected[late]) for late in Late)
    assert image.patch(code, (), {}) == b"".join(wide(1, 0, LATE_DEFAULTS[late]) for late in Late)


def test_everything_else_is_left_alone() -> None:
    code = wide(1, 0, 5) + wide(1, 0, LATE_MARK >> 8) + wide(1, 2, 3) + wide(4, 0, 2**64 - 1) + EXIT
    assert image.patch(code, (9,), {}) == code


def test_the_second_half_of_a_wide_load_is_no_instruction() -> None:
    looks_like_a_load = wide(1, 0, 0x18 << 32)  # its upper half begins at an octet that is an opcode elsewhere
    trap = struct.pack("<BBhIBBhI", 0x18, 1, 0, 5, 0x18, 0x11, 0, 0)
    assert image.patch(looks_like_a_load + trap + EXIT, (9,), {}) == looks_like_a_load + trap + EXIT


def test_shipped_images_have_marks_for_what_the_agent_sets() -> None:
    shipped = [image.load(image.SHIPPED / f"{name}.json") for name in image.SOURCES]
    marks = set()
    for program in (program for each in shipped if each is not None for program in each.programs.values()):
        code = program.instructions
        for at in range(0, len(code) - 8, 8):
            low, high = struct.unpack_from("<I", code, at + 4)[0], struct.unpack_from("<I", code, at + 12)[0]
            if code[at] == 0x18 and (high << 32 | low) & ~0xFF == LATE_MARK:
                marks.add(Late(low & 0xFF))
    assert marks == set(Late)


# ------------------------------------------------------------------------------------------------------------ source hash
@pytest.fixture
def sources(tmp_path: Path) -> Path:
    copy = tmp_path / "bpf"
    shutil.copytree(image.source_directory(), copy)
    return copy


def test_the_hash_depends_on_every_source_and_constant(sources: Path) -> None:
    seen = {image.source_hash(sources, "tc_monitor", {})}
    assert seen == {image.source_hash(image.source_directory(), "tc_monitor", {})}
    seen.add(image.source_hash(sources, "xdp_monitor", {}))
    seen.add(image.source_hash(sources, "tc_monitor", {"A": 1}))
    seen.add(image.source_hash(sources, "tc_monitor", {"A": 2}))
    files = sorted([sources / "tc_monitor.c", *(sources / "include").rglob("*.h"), *(sources / "shim").rglob("*.h")])
    for path in files:
        path.write_text(path.read_text() + "\n")
        seen.add(image.source_hash(sources, "tc_monitor", {}))
    assert len(seen) == 4 + len(files)
    assert len(files) > 10


def test_the_hash_depends_on_nothing_else(sources: Path) -> None:
    before = image.source_hash(sources, "tc_monitor", {"A": 1, "B": 2})
    (sources / "xdp_monitor.c").write_text("")
    (sources / "include" / "notes.txt").write_text("")
    for path in sources.rglob("*"):
        os.utime(path, (1, 1))
    moved = sources.rename(sources.parent / "elsewhere")
    assert image.source_hash(moved, "tc_monitor", {"B": 2, "A": 1}) == before


def test_moving_text_between_headers_changes_the_hash(sources: Path) -> None:
    before = image.source_hash(sources, "tc_monitor", {})
    late, flows = sources / "include" / "late.h", sources / "include" / "flows.h"
    first, second = late.read_text(), flows.read_text()
    late.write_text(first[:-1])
    flows.write_text(first[-1] + second)
    assert image.source_hash(sources, "tc_monitor", {}) != before


def test_sources_are_found_in_a_checkout_and_in_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = image.source_directory()
    assert (checkout / "include" / "netmon_abi.h").is_file()
    package = tmp_path / "otel_netmon"
    monkeypatch.setattr(image, "PACKAGE", package)
    with pytest.raises(ImageError, match="not installed"):
        image.source_directory()
    shutil.copytree(checkout, package / "_bpf")
    assert image.source_directory() == package / "_bpf"
    assert image.source_hash(package / "_bpf", "tc_monitor", {}) == image.source_hash(checkout, "tc_monitor", {})


def test_the_cache_names_an_image_by_its_hash(tmp_path: Path) -> None:
    assert image.cache_path(tmp_path, "tc_monitor", "ab" * 32) == tmp_path / f"tc_monitor-{'ab' * 16}.json"
