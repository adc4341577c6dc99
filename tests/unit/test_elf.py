"""Functions of ELF files: built by the compiler of this machine, compared with what nm says, and damaged."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from otel_netmon.decode.elf import Elf, ElfFault, Function, Read

SOURCE = """
int SSL_read(void) { return 1; }
int SSL_read_ex(void) { return 2; }
static __attribute__((noinline, used)) int hidden(void) { return 3; }
int reads_SSL_read(void) { return hidden(); }
"""
HEADER = struct.Struct("<16sHHIQQQIHHHHHH")


def of_bytes(data: bytes) -> Read:
    return lambda offset, length: data[offset : offset + length]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or shutil.which("nm") is None:
        pytest.skip("gcc and binutils are not installed")
    folder = tmp_path_factory.mktemp("elf")
    (folder / "made.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", "made.so", "made.c"], cwd=folder, check=True)
    return folder / "made.so"


def named(library: Path, *options: str) -> dict[str, Function]:
    lines = subprocess.run(["nm", "-S", *options, str(library)], check=True, capture_output=True, text=True).stdout
    fields = [line.split() for line in lines.splitlines()]
    return {each[3]: Function(int(each[0], 16), int(each[1], 16)) for each in fields if len(each) == 4}


def test_functions_are_where_nm_says(library: Path) -> None:
    elf = Elf(of_bytes(library.read_bytes()))
    expected = named(library)
    names = ("SSL_read", "SSL_read_ex", "hidden", "reads_SSL_read")
    assert elf.functions(names) == {name: expected[name] for name in names}
    assert elf.functions(("absent", "read")) == {}


def test_a_stripped_library_has_its_dynamic_symbols(library: Path, tmp_path: Path) -> None:
    stripped = tmp_path / "stripped.so"
    subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
    elf = Elf(of_bytes(stripped.read_bytes()))
    expected = named(library)
    assert elf.functions(("SSL_read", "hidden")) == {"SSL_read": expected["SSL_read"]}


def test_code_is_what_lies_at_an_address(library: Path) -> None:
    data = library.read_bytes()
    elf = Elf(of_bytes(data))
    function = elf.functions(["SSL_read"])["SSL_read"]
    offset = elf.offset(function.address)
    assert offset is not None
    assert elf.code(function.address, 6) == data[offset : offset + 6]
    assert elf.offset(1 << 60) is None
    assert elf.code(1 << 60, 6) == b""
    last = elf.segments[-1]
    assert len(elf.code(last.address + last.length - 3, 16)) == 3


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100), b"#!/bin/sh\n" * 20])
def test_what_is_no_such_file_is_told(data: bytes) -> None:
    with pytest.raises(ElfFault, match="not an ELF file"):
        Elf(of_bytes(data))


def test_tables_that_lie_outside_are_told() -> None:
    def header(entry: int, count: int) -> bytes:
        return HEADER.pack(b"\x7fELF\x02\x01", 3, 62, 1, 0, 64, 0, 0, 64, entry, count, 64, 0, 0)

    with pytest.raises(ElfFault, match="cut"):
        Elf(of_bytes(header(56, 3)))
    with pytest.raises(ElfFault, match="too small"):
        Elf(of_bytes(header(8, 3) + bytes(200)))


def test_damage_is_a_fault_or_nothing_worse(library: Path) -> None:
    generator = random.Random(11)  # noqa: S311 - damage, not secrets
    data = library.read_bytes()
    for _ in range(500):
        damaged = bytearray(data)
        for _ in range(generator.randrange(1, 9)):
            damaged[generator.choice((generator.randrange(64), generator.randrange(len(data))))] = generator.randrange(
                256
            )
        try:
            elf = Elf(of_bytes(bytes(damaged[: generator.choice((len(data), generator.randrange(len(data))))])))
            for function in elf.functions(("SSL_read", "hidden")).values():
                elf.code(function.address, 32)
        except ElfFault:
            continue
