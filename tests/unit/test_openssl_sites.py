"""Sites of OpenSSL in libraries that are put together octet by octet, and in the one of this machine."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from otel_netmon.decode.elf import Elf, Read
from otel_netmon.decode.openssl import is_emulated, openssl_sites

BASE, OFFSET = 0x10000, 0x1000
PUSH, SUB, NOP5, ENDBR64 = b"\x55", b"\x48\x83\xec\x08", b"\x0f\x1f\x44\x00\x00", b"\xf3\x0f\x1e\xfa"
STEPPED = SUB + b"\xc3"
SPACING = 0x100
SYSTEM_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libssl.so.3")


def library(functions: Mapping[str, bytes], machine: int = 62) -> Read:
    """A file with these functions, SPACING apart in their order; names that begin with "." are not exported."""
    strings, symbols, code = b"\0", bytes(24), b""
    for number, (name, body) in enumerate(functions.items()):
        if not name.startswith("."):
            symbols += struct.pack("<IBBHQQ", len(strings), 2, 0, 1, BASE + number * SPACING, len(body))
            strings += name.encode() + b"\0"
        code += body.ljust(SPACING, b"\xcc")
    end = OFFSET + len(code)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01",
        3,
        machine,
        1,
        0,
        64,
        end + len(symbols) + len(strings),
        0,
        64,
        56,
        1,
        64,
        3,
        0,
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, OFFSET, BASE, BASE, len(code), len(code), 4096)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 0, 11, 0, 0, end, len(symbols), 2, 0, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, end + len(symbols), len(strings), 0, 0, 1, 0)
    data = (header + load).ljust(OFFSET, b"\0") + code + symbols + strings + sections
    return lambda offset, length: data[offset : offset + length]


def call(at: int, to: int, opcode: bytes = b"\xe8") -> bytes:
    """A call from an offset in the code to another."""
    return opcode + struct.pack("<i", to - at - 5)


def place(number: int, behind: int = 0) -> int:
    """Where in the file a function is."""
    return OFFSET + number * SPACING + behind


def sites(functions: Mapping[str, bytes]) -> dict[str, tuple[str, str, int, bool]]:
    found = openssl_sites(Elf(library(functions)))
    assert len({site.function for site in found}) == len(found)
    return {site.function: (site.what, site.shape, site.offset, site.is_emulated) for site in found}


def test_functions_that_begin_cheaply_are_watched_where_they_begin() -> None:
    assert sites(
        {"SSL_read": PUSH, "SSL_read_ex": b"\x41\x55", "SSL_write": ENDBR64 + PUSH, "SSL_write_ex": b"\x90"}
    ) == {
        "SSL_read": ("read", "plain", place(0), True),
        "SSL_read_ex": ("read", "ex", place(1), True),
        "SSL_write": ("write", "plain", place(2, 4), True),
        "SSL_write_ex": ("write", "ex", place(3), True),
    }


@pytest.mark.parametrize("way_in", [SUB, ENDBR64 + SUB, PUSH + b"\x48\x89\xe5" + SUB, b""])
@pytest.mark.parametrize("opcode", [b"\xe8", b"\xe9"])
def test_the_function_that_both_forms_call_is_watched_where_that_is_cheaper(way_in: bytes, opcode: bytes) -> None:
    inner = 4 * SPACING
    plain = SUB + b"\x31\xc0" + call(6, inner, opcode)
    functions = {
        "SSL_read": plain,
        "SSL_read_ex": way_in + call(SPACING + len(way_in), inner, opcode),
        "SSL_write": PUSH,
        "SSL_write_ex": PUSH,
        ".ssl_read_internal": ENDBR64 + PUSH,
    }
    found = sites(functions)
    assert found["SSL_read_ex"] == ("read", "ex", place(4, 4), True)
    assert "SSL_read" not in found


@pytest.mark.parametrize("flags", [b"\x49\x89\xc8\x31\xc9", b"\x31\xc9\x49\x89\xc8", b"\x49\x89\xc8\x33\xc9"])
def test_the_internal_function_may_have_flags(flags: bytes) -> None:
    inner = 4 * SPACING
    functions = {
        "SSL_read": PUSH,
        "SSL_read_ex": PUSH,
        "SSL_write": SUB + call(2 * SPACING + 4, inner),
        "SSL_write_ex": SUB + flags + call(3 * SPACING + 9, inner),
        ".ssl_write_internal": PUSH,
    }
    assert sites(functions)["SSL_write_ex"] == ("write", "ex2", place(4), True)


@pytest.mark.parametrize(
    ("plain", "extended", "inner"),
    [
        (SUB, SUB + call(SPACING + 4, 4 * SPACING), PUSH),  # the plain form does not call it
        (SUB + call(4, 4 * SPACING), SUB + b"\x48\x89\xfe" + call(SPACING + 7, 4 * SPACING), PUSH),  # an argument moves
        (SUB + call(4, 4 * SPACING), SUB + call(SPACING + 4, 4 * SPACING), SUB),  # it is no cheaper
        (SUB + call(4, 1 << 20), SUB + call(SPACING + 4, 1 << 20), PUSH),  # it is not here: by way of a table
    ],
)
def test_otherwise_both_are_watched_at_a_higher_price(plain: bytes, extended: bytes, inner: bytes) -> None:
    functions = {"SSL_read": plain, "SSL_read_ex": extended, "SSL_write": PUSH, "SSL_write_ex": PUSH, ".inner": inner}
    found = sites(functions)
    assert found["SSL_read"] == ("read", "plain", place(0), False)
    assert found["SSL_read_ex"] == ("read", "ex", place(1), False)


def test_without_the_forms_of_1_1_1_the_plain_ones_are_watched() -> None:
    found = sites({"SSL_read": STEPPED, "SSL_write": PUSH, "SSL_write_ex2": PUSH})
    assert found["SSL_read"] == ("read", "plain", place(0), False)
    assert found["SSL_write_ex2"] == ("write", "ex2", place(2), True)


def test_begin_and_end_of_sessions() -> None:
    test_rdi = b"\x48\x85\xff"
    functions = {
        "SSL_read": PUSH,
        "SSL_write": PUSH,
        "SSL_free": ENDBR64 + test_rdi + b"\x0f\x84\x00\x00\x00\x00",
        "SSL_new": test_rdi + PUSH,  # its return is looked for: the stack has to be that of the call
        "SSL_clear": PUSH,
        "SSL_set_fd": PUSH,
        "SSL_sendfile": PUSH,
    }
    found = sites(functions)
    assert found["SSL_sendfile"] == ("write", "sendfile", place(6), True)
    assert found["SSL_free"] == ("free", "plain", place(2, 7), True)
    assert found["SSL_new"] == ("new", "plain", place(3), False)
    assert found["SSL_clear"][0] == found["SSL_set_fd"][0] == "renew"


def test_other_files_have_none() -> None:
    assert openssl_sites(Elf(library({"SSL_read": PUSH}))) == ()
    assert openssl_sites(Elf(library({"main": PUSH}))) == ()
    assert openssl_sites(Elf(library({"SSL_read": PUSH, "SSL_write": PUSH}, machine=183))) == ()


def test_a_nop_of_five_octets_is_not_taken_for_cheap() -> None:
    assert not is_emulated(NOP5)
    assert not is_emulated(b"")
    assert is_emulated(b"\x0f\x84\x00\x00\x00\x00")


@pytest.mark.skipif(not SYSTEM_LIBRARY.exists(), reason="no OpenSSL 3 of Debian for x86-64 here")
def test_the_library_of_debian_is_watched_cheaply() -> None:
    data = SYSTEM_LIBRARY.read_bytes()
    found = openssl_sites(Elf(lambda offset, length: data[offset : offset + length]))
    assert {"read", "write", "new", "free", "renew"} == {site.what for site in found}
    assert all(site.is_emulated for site in found)
    assert all(data[site.offset : site.offset + len(site.code)] == site.code for site in found)
