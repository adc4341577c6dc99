"""Names of an enum of the running kernel, from its own description of its types (BTF), where it carries one. Pure, but for one file.

Only names come from it: nothing that is counted hangs on BTF.

Source: Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from pathlib import Path

KERNEL = Path("/sys/kernel/btf/vmlinux")
"""Readable by everybody."""

_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")
_TYPE = struct.Struct("=III")
_ENUM, _ENUM64 = 6, 19
_VALUE, _VALUE64 = struct.Struct("=Ii"), struct.Struct("=III")
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
"""Bytes behind the head of a type, by kind: int, array, variable, declaration tag; the kinds not named have none."""
_EACH = {4: 12, 5: 12, _ENUM: 8, 13: 8, 15: 12, _ENUM64: 12}
"""Likewise for each member: struct, union, enum, function prototype, data section, enum64."""
_KIND_LAST = 19


def enum_values(data: bytes, name: str) -> dict[int, str]:
    """Names by value of the enum of this name; empty where there is none.

    Raises:
        ValueError: it is no BTF, or has kinds of types that are not known.
    """
    try:
        return _enum_values(data, name.encode() + b"\0")
    except struct.error as error:
        raise ValueError("BTF that ends too soon") from error


def kernel_enum(name: str, path: Path = KERNEL) -> dict[int, str]:
    """Names by value of an enum of the running kernel; empty where it has no such enum or no BTF."""
    try:
        return enum_values(path.read_bytes(), name)
    except (OSError, ValueError):
        return {}


def _enum_values(data: bytes, name: bytes) -> dict[int, str]:
    magic, _, _, header, types, types_length, strings, _ = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("no BTF of this byte order")
    at, end, strings = header + types, header + types + types_length, header + strings
    while at < end:
        title, info, _ = _TYPE.unpack_from(data, at)
        kind, members = info >> 24 & 0x1F, info & 0xFFFF
        if not 0 < kind <= _KIND_LAST:
            raise ValueError(f"BTF has a type of kind {kind}")
        at += _TYPE.size
        if kind in (_ENUM, _ENUM64) and data.startswith(name, strings + title):
            layout = _VALUE if kind == _ENUM else _VALUE64
            found = layout.iter_unpack(data[at : at + members * layout.size])
            return {value[1]: _text(data, strings + value[0]) for value in found}
        at += _FIXED.get(kind, 0) + _EACH.get(kind, 0) * members
    return {}


def _text(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode("ascii", "replace")
