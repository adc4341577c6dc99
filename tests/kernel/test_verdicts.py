"""Promise P1: no program decides about a packet, whatever the packet."""

from __future__ import annotations

import random
from itertools import product

import pytest

from otel_netmon.abi.enums import MessageCount, PortProtocol
from otel_netmon.kernel import image, messages, syscalls
from otel_netmon.readers.messages import MessageCounts
from support.frame_table import CASES, is_refused_by_test_run
from support.programs import Programs, XdpRun

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


def test_no_image_has_a_program_of_another_kind() -> None:
    """Every program is either checked below or is one that is never attached."""
    assert set(image.SOURCES) == {"tc_monitor", "xdp_monitor"}
    assert set(image.SOURCES["tc_monitor"]) == {
        "netmon_receive",
        "netmon_transmit",
        "netmon_dns",
        "netmon_stream",
        "netmon_http",
        "netmon_sweep",
        "netmon_quiet",
        "netmon_mark",
        "netmon_clock",
    }
    assert set(image.SOURCES["xdp_monitor"]) == {"netmon_xdp"}


@pytest.mark.parametrize("program", ["netmon_receive", "netmon_transmit"])
def test_a_program_that_is_called_leaves_the_packet_to_the_next(program: str) -> None:
    """Every port is a message port: every packet with ports is looked into."""
    every = [frame for frame in frames() if not is_refused_by_test_run(frame)]
    with Programs("tc_monitor", sizes={"flow_table": 64, "dns_cache": 8, "messages": 4096}) as programs:
        for replay in (0, 1):
            programs.program("netmon_dns", replay=replay)
            for protocols in (PortProtocol.DNS, PortProtocol.MDNS, PortProtocol.LLMNR):
                messages.set_message_ports(programs.loaded, dict.fromkeys(range(1, 65536), protocols))
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
        26: "skb_load_bytes",
        118: "jiffies64",
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
