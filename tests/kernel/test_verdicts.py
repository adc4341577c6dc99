"""Promise P1: no program decides about a packet, whatever the packet."""

from __future__ import annotations

import random
from itertools import product

import pytest

from otel_netmon.kernel import image
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
        "netmon_sweep",
        "netmon_mark",
        "netmon_clock",
    }
    assert set(image.SOURCES["xdp_monitor"]) == {"netmon_xdp"}


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
        5: "ktime_get_ns",
        26: "skb_load_bytes",
        118: "jiffies64",
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
