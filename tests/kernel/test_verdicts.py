"""Promise P1: no program decides about a packet, whatever the packet."""

from __future__ import annotations

import random
from itertools import product

import pytest

from otel_netmon.abi.enums import ConnectionCount, MessageCount, PortProtocol
from otel_netmon.kernel import image, messages, syscalls
from otel_netmon.readers.connections import ConnectionCounts
from otel_netmon.readers.messages import MessageCounts
from support.frame_table import CASES, is_refused_by_test_run
from support.programs import Programs, XdpRun, shipped

pytestmark = pytest.mark.kernel

TCX_NEXT = 0xFFFFFFFF  # -1: as if the program were not there
XDP_PASS = 2


def frames() -> list[bytes]:
    """The table, and each of its frames with damage at random places."""
    generator = random.Random(7)  # noqa: S311 - damage, not secrets
    result = [case.frame for case in CASES]
    for case in CASES:
        for _ in range(20):
            damaged = bytearray(case.frame)
            for _ in range(generator.randrange(1, 6)):
                damaged[generator.randrange(12, len(damaged))] = generator.randrange(256)
            result.append(bytes(damaged[: generator.randrange(15, len(damaged) + 1)]))
    return result


CALLED = {"netmon_dns", "netmon_stream", "netmon_http", "netmon_http2"}
"""Programs of socket_monitor that those for packets call in the place of what follows: what they give is the verdict."""


def test_no_image_has_a_program_of_another_kind() -> None:
    """Every program is either checked below or is one that is never attached."""
    assert set(image.SOURCES) == {"tc_monitor", "xdp_monitor", "socket_monitor", "drop_monitor", "plaintext_monitor"}
    assert set(image.SOURCES["tc_monitor"]) == {
        "netmon_receive",
        "netmon_transmit",
        "netmon_dns",
        "netmon_errors",
        "netmon_stream",
        "netmon_http",
        "netmon_http2",
        "netmon_sweep",
        "netmon_quiet",
        "netmon_mark",
        "netmon_clock",
    }
    assert set(image.SOURCES["xdp_monitor"]) == {"netmon_xdp"}
    plaintext = image.SOURCES["plaintext_monitor"]
    assert set(image.SOURCES["socket_monitor"]) - CALLED | {"netmon_sealed"} == set(image.CGROUP_HOOKS) | {
        "netmon_quiet"
    }
    # A uprobe does nothing with the result but write a perf event, which nobody reads; netmon_quiet is never attached.
    assert {name for name, kind in plaintext.items() if kind != syscalls.PROG_TYPE_KPROBE} == {
        "netmon_sealed",
        "netmon_quiet",
    }
    # At a tracepoint nobody looks at the result: the packet is dropped already.
    assert set(image.SOURCES["drop_monitor"].values()) == {syscalls.PROG_TYPE_RAW_TRACEPOINT}


def test_every_program_of_a_cgroup_gives_1_and_no_other_value() -> None:
    """Its one exit follows the instruction r0 = 1, and no jump leads between them."""
    programs = {
        name: p for stem in ("plaintext_monitor", "socket_monitor") for name, p in shipped(stem).programs.items()
    }
    for name in (*image.CGROUP_HOOKS, *CALLED):
        program = programs[name]
        code = program.instructions
        number = len(code) // 8
        (end,) = [at for at in range(number) if code[at * 8] == 0x95]
        targets = {
            at + 1 + int.from_bytes(code[at * 8 + 2 : at * 8 + 4], "little", signed=True)
            for at in range(number)
            if code[at * 8] & 7 in (5, 6) and code[at * 8] >> 4 not in (8, 9)
        }
        assert code[end * 8 - 8 : end * 8].hex() == "b700000001000000", name
        assert end not in targets, name


@pytest.mark.parametrize("program", ["netmon_ingress", "netmon_egress"])
def test_the_programs_for_packets_of_sockets_pass_every_packet(program: str) -> None:
    every = [frame for frame in frames() if not is_refused_by_test_run(frame)]
    with Programs("socket_monitor", sizes={"connection_stats": 64, "udp_stats": 8}) as programs:
        run = programs.runner(program).run
        assert {run(frame) for frame in every} == {1}
        counts = ConnectionCounts(programs.map_sizes(), syscalls.possible_cpus()).read()
        assert counts[ConnectionCount.UDP_OPENED] == 8
        assert counts[ConnectionCount.UDP_NO_PLACE], "the table was never full: that way is not checked"


def test_the_program_that_looks_at_sealed_packets_passes_every_packet() -> None:
    with Programs("plaintext_monitor", sizes={"sessions": 8}) as programs:
        run = programs.runner("netmon_sealed").run
        assert {run(frame) for frame in frames() if not is_refused_by_test_run(frame)} == {1}


@pytest.mark.parametrize("program", ["netmon_receive", "netmon_transmit"])
def test_a_program_that_is_called_leaves_the_packet_to_the_next(program: str) -> None:
    """Every port is a message port: every packet with ports is looked into."""
    every = [frame for frame in frames() if not is_refused_by_test_run(frame)]
    with Programs("tc_monitor", sizes={"flow_table": 64, "dns_cache": 8, "messages": 4096}) as programs:
        for replay in (0, 1):
            programs.program("netmon_dns", replay=replay)
            programs.program("netmon_errors")
            for protocols in (PortProtocol.DNS, PortProtocol.MDNS, PortProtocol.LLMNR):
                every_port = {**dict.fromkeys(range(1, 65536), protocols), 0: PortProtocol.NO_PORT}
                messages.set_message_ports(programs.loaded, every_port)
                run = programs.runner(program, replay=replay).run
                assert {run(frame) for frame in every} == {TCX_NEXT}
        counts = MessageCounts(programs.loaded.maps["message_counts"], syscalls.possible_cpus()).read()
        assert counts[MessageCount.NOT_DNS_SHORT]
        assert counts[MessageCount.DNS_SEGMENTS]
        assert counts[MessageCount.LOST_RING], "the ring was never full: that way is not checked"


@pytest.mark.parametrize("program", ["netmon_receive", "netmon_transmit"])
def test_the_program_for_streams_leaves_the_packet_to_the_next(program: str) -> None:
    """Every packet that may carry a message is looked into, until its flow is decided."""
    every = [frame for frame in frames() if not is_refused_by_test_run(frame)]
    with Programs("tc_monitor", sizes={"messages": 4096}) as programs:
        for replay in (0, 1):
            programs.program("netmon_stream", replay=replay, http=1 - replay)
            programs.program("netmon_http", http=1)
            programs.program("netmon_http2")
            run = programs.runner(program, replay=replay, streams=1, http=1 - replay).run
            assert {run(frame) for frame in every} == {TCX_NEXT}
        counts = MessageCounts(programs.loaded.maps["message_counts"], syscalls.possible_cpus()).read()
        assert counts[MessageCount.STREAM_SEGMENTS]
        assert counts[MessageCount.STREAM_LOST_RING], "the ring was never full: that way is not checked"


@pytest.mark.parametrize("program", ["netmon_receive", "netmon_transmit"])
def test_tc_programs_leave_the_packet_to_the_next(program: str) -> None:
    every = [frame for frame in frames() if not is_refused_by_test_run(frame)]
    with Programs("tc_monitor", sizes={"flow_table": 64, "protocol_stats": 8}) as programs:
        for l2, inner, fast, replay in product((14, 0), (0, 1), (0, 1), (0, 1)):
            run = programs.runner(program, l2_length=l2, decapsulate=inner, fast_path=fast, replay=replay).run
            assert {run(frame) for frame in every} == {TCX_NEXT}
        assert programs.state()["full_events"], "the table was never full: the way through a full table is not checked"
        assert programs.state()["lost_rows"]


def test_the_xdp_program_passes_every_frame() -> None:
    with Programs("xdp_monitor", sizes={"protocol_stats": 8}) as programs:
        for l2, inner in product((14, 0), (0, 1)):
            run = XdpRun(programs.program("netmon_xdp", l2_length=l2, decapsulate=inner), 4096).run
            assert {run(frame) for frame in frames()} == {XDP_PASS}
        assert programs.state()["lost_rows"]


def test_no_program_calls_a_helper_that_changes_a_packet() -> None:
    """The helpers that are called, by their numbers in enum bpf_func_id: only maps, clocks and reading."""
    allowed = {
        1: "map_lookup_elem",
        2: "map_update_elem",
        3: "map_delete_elem",
        5: "ktime_get_ns",
        12: "tail_call",
        14: "get_current_pid_tgid",
        16: "get_current_comm",
        26: "skb_load_bytes",
        35: "get_current_task",  # its address, to know it again
        46: "get_socket_cookie",
        59: "sock_ops_cb_flags_set",  # asks for calls of the same program
        79: "skb_cgroup_id",
        80: "get_current_cgroup_id",
        95: "sk_fullsock",
        96: "tcp_sock",
        112: "probe_read_user",
        118: "jiffies64",
        122: "get_netns_cookie",
        130: "ringbuf_output",
    }
    for name in image.SOURCES:
        found = image.load(image.SHIPPED / f"{name}.json")
        assert found is not None
        for program in found.programs.values():
            code = program.instructions
            calls = {
                int.from_bytes(code[at + 4 : at + 8], "little")
                for at in range(0, len(code), 8)
                if code[at] == 0x85 and code[at + 1] >> 4 == 0
            }
            assert calls <= set(allowed), {number: allowed.get(number) for number in calls}
