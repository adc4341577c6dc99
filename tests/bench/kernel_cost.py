"""What flow accounting costs in the kernel, net of the empty program, against a bare per-CPU hash increment; DNS and TLS.

    python -m bench.kernel_cost

BPF_PROG_TEST_RUN with repeat, the three programs in turn, pinned to one CPU; the figures are medians over the rounds. The
programs of kernel_cost.c are compiled by bcc together with tc_monitor.c. Needs root and python3-bpfcc.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import tempfile
from pathlib import Path

from otel_netmon.abi.enums import Late
from otel_netmon.kernel import compiler, image, loader, syscalls
from otel_netmon.kernel.messages import DNS_PORTS, set_message_ports
from otel_netmon.readers.messages import MessageCounts
from otel_netmon.readers.ring import RingReader

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = ("bench_empty", "bench_bare", "bench_flows")
DNS_PROGRAMS = ("bench_message", "bench_dns", "netmon_dns")
CLIENT, SERVER = (bytes([198, 18, 0, 1]), 4000), (bytes([198, 18, 0, 2]), 53)
RING_BYTES = 1 << 24


def frame(source: tuple[bytes, int], destination: tuple[bytes, int], payload: bytes) -> bytes:
    """UDP over IPv4 between two ends."""
    addresses, ports = zip(source, destination, strict=True)
    length = 8 + len(payload)
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + length, 0, 0, 64, 17, 0, *addresses)
    return bytes(12) + b"\x08\0" + ip + struct.pack(">HHHH", *ports, length, 0) + payload


FRAME = frame(CLIENT, (SERVER[0], 5000), bytes(64))
QUESTION = b"\x03www\x07example\x03org\0\0\1\0\1"
QUERY = struct.pack(">6H", 0, 0x0100, 1, 0, 0, 0) + QUESTION
ANSWER = struct.pack(">6H", 0, 0x8180, 1, 1, 0, 0) + QUESTION + b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\xc0\0\2\1"
COMPILE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from otel_netmon.kernel import compiler, image
image.SOURCES["bench"] = dict.fromkeys(sys.argv[4:], 3)
image.save(compiler.build(Path(sys.argv[2]), "bench", {}), Path(sys.argv[3]))
"""


def compile_bench(folder: Path) -> image.Image:
    """Compiles tc_monitor.c with kernel_cost.c behind it."""
    sources = folder / "bpf"
    shutil.copytree(ROOT / "bpf", sources)
    text = (sources / "tc_monitor.c").read_text() + Path(__file__).with_suffix(".c").read_text()
    (sources / "bench.c").write_text(text)
    python = compiler.find_interpreter(None)
    if python is None:
        raise SystemExit("no bcc: apt-get install python3-bpfcc")
    output = folder / "bench.json"
    subprocess.run([python, "-c", COMPILE, str(ROOT), str(sources), str(output), *PROGRAMS, *DNS_PROGRAMS], check=True)
    made = image.load(output)
    assert made is not None
    return made


def measure(
    entries: int, flows: list[int], rounds: int, repeat: int, programs: tuple[str, ...]
) -> list[dict[str, float]]:
    """Gives a row for each number of flows: ns a run of each program, the net ratio and its spread."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        loaded = loader.LoadedImage(compile_bench(Path(name)), {"flow_table": entries})
    try:
        runs = {p: syscalls.TestRun(loaded.program(p), 256) for p in programs}
        for number in flows:
            mask = struct.pack("<Q", number - 1) * syscalls.possible_cpus()
            syscalls.map_update(loaded.maps["bench_turn"], struct.pack("<I", 1), mask)
            for run in runs.values():
                run.repeat(FRAME, max(repeat, 4 * number))
            taken = [[run.repeat(FRAME, repeat) for run in runs.values()] for _ in range(rounds)]
            medians = [statistics.median(column) for column in zip(*taken, strict=True)]
            row: dict[str, float] = {"flows": number, **dict(zip(runs, medians, strict=True))}
            if "bench_bare" in programs:
                ratios = sorted((t[2] - t[0]) / max(t[1] - t[0], 1) for t in taken)
                row |= {
                    "net ratio": round(statistics.median(ratios), 2),
                    "lowest": round(ratios[0], 2),
                    "highest": round(ratios[-1], 2),
                }
            rows.append(row)
    finally:
        loaded.close()
    return rows


def measure_dns(rounds: int) -> dict[str, float]:
    """Gives the ns of a run with a new query, with its answer, and with a packet on no port of DNS, net of the writing.

    The packet on another port is measured with DNS on and off in turn; every answer has found its query and its record a
    place in the ring, or this fails.
    """
    lookups = 128  # open at a time: what a busy host has
    with tempfile.TemporaryDirectory() as name:
        made = compile_bench(Path(name))
    loaded = loader.LoadedImage(made, {"messages": RING_BYTES, "dns_cache": 1 << 15})
    taken: dict[str, list[float]] = {"query": [], "answer": [], "other port": [], "other port, DNS off": []}
    try:
        empty, dns = (syscalls.TestRun(loaded.program(each), 256) for each in ("bench_message", "bench_dns"))
        loaded.program("netmon_dns")
        counts = MessageCounts(loaded.maps["message_counts"], syscalls.possible_cpus())
        turn = struct.pack("<Q", 0) * syscalls.possible_cpus()
        with RingReader(loaded.maps["messages"], RING_BYTES) as ring:
            for _ in range(rounds):
                set_message_ports(loaded, DNS_PORTS)
                for what, data in (
                    ("query", frame(CLIENT, SERVER, QUERY)),
                    ("answer", frame(SERVER, CLIENT, ANSWER)),
                    ("other port", FRAME),
                    ("other port, DNS off", FRAME),
                ):
                    if what == "other port, DNS off":
                        set_message_ports(loaded, {})
                    syscalls.map_update(loaded.maps["bench_turn"], bytes(4), turn)
                    base = empty.repeat(data, lookups)
                    syscalls.map_update(loaded.maps["bench_turn"], bytes(4), turn)
                    taken[what].append(dns.repeat(data, lookups) - base)
                records = len(ring.drain().offsets)
                if records != lookups:
                    raise SystemExit(f"{records} records of {lookups} answers: {counts.read()}")
    finally:
        loaded.close()
    return {what: statistics.median(each) for what, each in taken.items()}


def tcp_frame(payload: bytes, *, sequence: int, flags: int) -> bytes:
    """TCP over IPv4 from the client to a TLS port."""
    segment = struct.pack(">HHIIBBHHH", CLIENT[1], 443, sequence, 1, 5 << 4, flags, 502, 0, 0) + payload
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0, CLIENT[0], SERVER[0])
    return bytes(12) + b"\x08\0" + ip + segment


def measure_streams(rounds: int, repeat: int) -> dict[str, float]:
    """Gives the ns of a run with a segment of a decided download, and with one of a handshake that is handed over.

    The download is measured with streams looked at and not, in turn.
    """
    hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc" + bytes(508)
    handed = (1 << 14) // len(hello)  # within the limit of a handshake
    download = tcp_frame(bytes(1448), sequence=5001, flags=16)
    segment = tcp_frame(hello, sequence=5001, flags=16)
    taken: dict[str, list[float]] = {
        f"{what}{how}": [] for what in ("download", "handshake") for how in ("", ", streams off")
    }
    with tempfile.TemporaryDirectory() as name:
        made, _ = loader.obtain("tc_monitor", Path(name))
    ring_bytes = 1 << 20  # as by default: what is written is in the cache
    images = [loader.LoadedImage(made, {"messages": ring_bytes}) for _ in range(2)]
    try:
        looking, plain = (
            syscalls.TestRun(loaded.program("netmon_receive", {Late.STREAMS: on}), 4096)
            for loaded, on in zip(images, (1, 0), strict=True)
        )
        images[0].program("netmon_stream", {Late.WAKEUP: ring_bytes // 4})  # as on one CPU
        with RingReader(images[0].maps["messages"], ring_bytes) as ring:
            for number in range(rounds):
                looking.repeat(tcp_frame(b"", sequence=5000 - number % 2, flags=2), 1)
                looking.repeat(download, 32)  # nothing is found, which decides it
                taken["download"].append(looking.repeat(download, repeat))
                taken["download, streams off"].append(plain.repeat(download, repeat))
                looking.repeat(tcp_frame(b"", sequence=4000 - number % 2, flags=2), 1)
                ring.drain()
                taken["handshake, streams off"].append(plain.repeat(segment, handed))
                taken["handshake"].append(looking.repeat(segment, handed))
                records = len(ring.drain().offsets)
                if records != handed:
                    raise SystemExit(f"{records} records of {handed} segments of a handshake")
    finally:
        for loaded in images:
            loaded.close()
    return {what: statistics.median(each) for what, each in taken.items()}


def verifier() -> dict[str, int]:
    """Instructions the verifier processed, by program and variant."""
    result = {}
    with tempfile.TemporaryDirectory() as cache:
        for stem in image.SOURCES:
            made, _ = loader.obtain(stem, Path(cache))
            loaded = loader.LoadedImage(made)
            for program in made.programs:
                for variant in ({}, {Late.DECAPSULATE: 1}, {Late.REPLAY: 1}, {Late.L2_LENGTH: 0}):
                    words = loaded.verifier_report(program, variant).split()
                    name = program + "".join(f" {late.name.lower()}={value}" for late, value in variant.items())
                    result[name] = int(words[words.index("processed") + 1])
            loaded.close()
    return result


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--repeat", type=int, default=300_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    loader.raise_memlock()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    placed = measure(131072, [1, 1024, 8192, 65536], arguments.rounds, arguments.repeat, PROGRAMS)
    # 524,288 distinct flows of which the table holds an eighth: seven packets in eight find no place.
    flood = measure(65536, [1, 524288], arguments.rounds, arguments.repeat, ("bench_empty", "bench_flows"))
    dns = measure_dns(20 * arguments.rounds)
    streams = measure_streams(2 * arguments.rounds, arguments.repeat)
    instructions = verifier()
    if arguments.json:
        print(
            json.dumps(
                {"placed": placed, "flood": flood, "dns": dns, "streams": streams, "instructions": instructions},
                indent=1,
            )
        )
        return 0
    print(
        "ns a run; net ratio = (flows - empty) / (bare per-CPU hash increment - empty), median and extremes of the rounds"
    )
    for row in placed:
        print("  " + "  ".join(f"{key} {value:g}" for key, value in row.items()))
    one, many = flood
    gross = many["bench_flows"] / one["bench_flows"]
    net = (many["bench_flows"] - many["bench_empty"]) / (one["bench_flows"] - one["bench_empty"])
    print(
        f"flood, 524,288 flows into 65,536 places: {many['bench_flows']:g} ns a packet, one flow {one['bench_flows']:g}: "
        f"{gross:.2f} times, net of the empty program {net:.2f}"
    )
    print("DNS over UDP, ns a packet in all, flow accounting included, net of the empty program:")
    print("  " + "  ".join(f"{what} {cost:g}" for what, cost in dns.items()))
    print("protocols told by their content, ns a segment in all, with the empty program:")
    print("  " + "  ".join(f"{what} {cost:g}" for what, cost in streams.items()))
    print("instructions the verifier processed:")
    for name, count in instructions.items():
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
