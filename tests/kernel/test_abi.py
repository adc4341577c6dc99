"""The contract between C and Python, compared by the C compiler."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_netmon.abi import enums, layout

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

STRUCTS = {
    "netmon_flow_key": layout.FLOW_KEY,
    "netmon_counters": layout.COUNTERS,
    "netmon_flow": layout.FLOW,
    "netmon_protocol_key": layout.PROTOCOL_KEY,
    "netmon_state": layout.STATE,
    "netmon_ports": layout.PORTS,
    "netmon_message": layout.MESSAGE,
    "netmon_http": layout.HTTP,
    "netmon_session": layout.SESSION,
    "netmon_query_key": layout.QUERY_KEY,
    "netmon_query": layout.QUERY,
    "netmon_connection": layout.CONNECTION,
    "netmon_udp": layout.UDP,
    "netmon_connection_totals": layout.CONNECTION_TOTALS,
    "netmon_drops": layout.DROPS,
}
ENUMS: dict[str, type[IntEnum]] = {
    "": enums.Direction,
    "KIND_": enums.Kind,
    "REASON_": enums.Reason,
    "MESSAGE_": enums.MessageKind,
    "COUNT_": enums.MessageCount,
    "SESSIONS_": enums.SessionCount,
    "ROLE_": enums.Role,
    "WHO_": enums.Who,
    "ENDING_": enums.Ending,
    "RETRANSMIT_": enums.Retransmit,
    "CONNECTIONS_": enums.ConnectionCount,
}
CONSTANTS = {
    "NETMON_ABI_VERSION": enums.ABI_VERSION,
    "NETMON_HOOK_SLOTS": enums.HOOK_SLOTS,
    "NETMON_HOOK_NAMESPACE_STRIDE": enums.HOOK_NAMESPACE_STRIDE,
    "NETMON_FLOW_FORWARDED": enums.FLOW_FORWARDED,
    "NETMON_SEQUENCE_INITIAL": enums.SEQUENCE_INITIAL,
    "NETMON_SEQUENCE_CLIENT": enums.SEQUENCE_CLIENT,
    "NETMON_SEQUENCE_SERVER": enums.SEQUENCE_SERVER,
    "NETMON_SEQUENCE_DECIDED": enums.SEQUENCE_DECIDED,
    "NETMON_SEQUENCE_HTTP_CLIENT": enums.SEQUENCE_HTTP_CLIENT,
    "NETMON_SEQUENCE_HTTP_SERVER": enums.SEQUENCE_HTTP_SERVER,
    **{f"NETMON_HTTP_{flag.name}": int(flag) for flag in enums.HttpFlags},
    "NETMON_NAMESPACE_SOCKET": enums.NAMESPACE_SOCKET,
    "NETMON_SESSION_LOCAL": enums.SESSION_LOCAL,
    "NETMON_SESSION_REMOTE": enums.SESSION_REMOTE,
    "NETMON_PORT_DNS": enums.PortProtocol.DNS,
    "NETMON_PORT_MDNS": enums.PortProtocol.MDNS,
    "NETMON_PORT_LLMNR": enums.PortProtocol.LLMNR,
    "NETMON_PROGRAM_DNS": enums.PROGRAM_DNS,
    "NETMON_PROGRAM_TUNNEL": enums.PROGRAM_TUNNEL,
    "NETMON_PROGRAM_ERRORS": enums.PROGRAM_ERRORS,
    "NETMON_PORT_NONE": enums.PortProtocol.NO_PORT,
    "NETMON_PROGRAM_STREAM": enums.PROGRAM_STREAM,
    "NETMON_PROGRAM_HTTP": enums.PROGRAM_HTTP,
    "NETMON_PROGRAM_HTTP2": enums.PROGRAM_HTTP2,
    "NETMON_PORT_FILTER_BITS": enums.PORT_FILTER_BITS,
    "NETMON_MESSAGE_BYTES_MAX": enums.MESSAGE_BYTES_MAX,
    "NETMON_QUESTION_BYTES_MAX": enums.QUESTION_BYTES_MAX,
    "NETMON_RTT_BUCKETS": enums.RTT_BUCKETS,
    "NETMON_TOTALS_UDP": enums.TOTALS_UDP,
    "NETMON_TOTALS_NUMBER": enums.TOTALS_NUMBER,
    "NETMON_DROPS_CORE": enums.DROPS_CORE,
    "NETMON_DROPS_SUBSYSTEMS": enums.DROPS_SUBSYSTEMS,
    "NETMON_DROPS_SUBSYSTEM": enums.DROPS_SUBSYSTEM,
    "NETMON_DROPS_SLOTS": enums.DROPS_SLOTS,
    **{f"NETMON_CONNECTION_{flag.name}": int(flag) for flag in enums.ConnectionFlags},
}
KERNEL_ONLY = {
    "NETMON_ABI_H",
    "NETMON_ABI_STANDALONE",
    "NETMON_FILTER_SLOTS",
    "NETMON_SEQUENCE_NEXT",
    "NETMON_SEQUENCE_SKIP",
    "NETMON_STREAM_WHOLE",
    "NETMON_STREAM_HTTP2",
    "NETMON_STREAM_HTTP2_LOST",
    "NETMON_STREAM_HTTP2_LEAVES",
    "NETMON_STREAM_TLS",
    "NETMON_STREAM_QUIC",
    "NETMON_STREAM_DTLS",
    "NETMON_STREAM_HEADER_SHIFT",
}


@pytest.fixture(scope="module")
def header() -> str:
    root = Path(__file__).resolve().parents[2]
    return (root / "bpf/include/netmon_abi.h").read_text()


def ask_gcc(project: Path, folder: Path, expressions: list[str]) -> dict[str, int]:
    """The values of C expressions behind the header."""
    prints = "\n".join(
        f'printf("{"," if number else "{"}\\"{e}\\": %lld", (long long)({e}));' for number, e in enumerate(expressions)
    )
    source = folder / "ask.c"
    source.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "netmon_abi.h"\n'
        f"int main(void)\n{{\n{prints}\nputchar('}}');\n}}\n"
    )
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-DNETMON_ABI_STANDALONE", f"-I{project / 'bpf/include'}"]
    subprocess.run([*command, str(source), "-o", str(folder / "ask")], check=True)
    answer: dict[str, int] = json.loads(subprocess.run([str(folder / "ask")], check=True, capture_output=True).stdout)
    return answer


def test_structs_have_the_sizes_and_offsets_of_the_dtypes(project: Path, tmp_path: Path) -> None:
    expected = {}
    for name, dtype in STRUCTS.items():
        expected[f"sizeof(struct {name})"] = dtype.itemsize
        for field, (kind, offset) in _fields(dtype).items():
            expected[f"offsetof(struct {name}, {field})"] = offset
            expected[f"sizeof(((struct {name} *)0)->{field})"] = kind.itemsize
    expected |= {"sizeof(struct netmon_filter)": enums.FILTER_SIZE, "offsetof(struct netmon_filter, marking)": 0}
    expected |= {"sizeof(struct netmon_ports)": enums.PORTS_SIZE}
    assert ask_gcc(project, tmp_path, list(expected)) == expected


def _fields(dtype: np.dtype[Any]) -> dict[str, tuple[np.dtype[Any], int]]:
    assert dtype.fields is not None
    return {name: (field[0], field[1]) for name, field in dtype.fields.items()}


def test_every_struct_and_field_of_the_header_has_a_dtype(header: str) -> None:
    found = {name: re.findall(r"__u\d+ (\w+)(?:\[\d+\])?;", body) for name, body in _blocks(header, "struct")}
    assert found.pop("netmon_filter") == ["marking"]  # and slots, which nobody reads from Python
    assert found == {name: list(dtype.names or ()) for name, dtype in STRUCTS.items()}


def _blocks(header: str, word: str) -> list[tuple[str, str]]:
    return re.findall(rf"^{word} (\w+) \{{\n(.*?)^\}};", header, re.MULTILINE | re.DOTALL)


def test_every_field_is_naturally_aligned_and_nothing_is_padded() -> None:
    for dtype in STRUCTS.values():
        assert sum(kind.itemsize for kind, _ in _fields(dtype).values()) == dtype.itemsize
        for kind, offset in _fields(dtype).values():
            assert offset % kind.base.alignment == 0


def test_enums_have_the_same_members_and_values(project: Path, tmp_path: Path, header: str) -> None:
    expected = {f"NETMON_{prefix}{member.name}": int(member) for prefix, kind in ENUMS.items() for member in kind}
    in_header = [name for _, body in _blocks(header, "enum") for name in re.findall(r"\b(NETMON_\w+) =", body)]
    assert sorted(in_header) == sorted(expected)
    assert ask_gcc(project, tmp_path, list(expected)) == expected


def test_constants_have_the_same_values(project: Path, tmp_path: Path, header: str) -> None:
    assert (
        set(re.findall(r"^#(?:define|ifdef|ifndef) (NETMON_\w+)", header, re.MULTILINE)) == set(CONSTANTS) | KERNEL_ONLY
    )
    assert ask_gcc(project, tmp_path, list(CONSTANTS)) == CONSTANTS


def test_late_constants_have_the_same_marks(project: Path) -> None:
    text = (project / "bpf/include/late.h").read_text()
    marks = {name: int(mark, 16) for name, mark in re.findall(r'^NETMON_LATE\((\w+), "(0x\w+)"\)', text, re.MULTILINE)}
    assert marks == {member.name.lower(): enums.LATE_MARK | member for member in enums.Late}
    assert set(enums.LATE_DEFAULTS) == set(enums.Late)


def test_the_sweep_takes_as_many_keys_as_the_reader_gives(project: Path) -> None:
    text = (project / "bpf/tc_monitor.c").read_text()
    assert f"#define SWEEP_KEYS_MAX {enums.SWEEP_KEYS_MAX}\n" in text
    assert f"bpf_skb_load_bytes(skb, {enums.SWEEP_HEADER_SIZE} + i * sizeof(key)" in text
    assert f"#define HTTP_QUIET_KEYS_MAX {enums.QUIET_KEYS_MAX}\n" in (project / "bpf/include/http.h").read_text()
    assert layout.FLOW_KEY.itemsize == enums.FLOW_KEY_SIZE


def test_the_sequence_bits_are_distinct(header: str) -> None:
    bits = [int(value) for value in re.findall(r"^#define NETMON_SEQUENCE_\w+ (\d+)U?\b", header, re.MULTILINE)]
    assert sorted(bits) == [1, 2, 4, 8, 16, 32, 64, 128]


def test_hook_slots_of_a_few_hundred_interfaces_are_distinct() -> None:
    slots = {
        enums.hook_slot(index, namespace, direction)
        for namespace in (0, 1)
        for index in range(1, 301)
        for direction in enums.Direction
    }
    assert len(slots) == 2 * 300 * 2
    assert max(slots) < 2 * enums.HOOK_SLOTS
