"""What flow accounting costs in the kernel, net of the empty program, against a bare per-CPU hash increment.

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

ROOT = Path(__file__).resolve().parents[2]

PROGRAMS = ("bench_empty", "bench_bare", "bench_flows")
FRAME = (
    bytes(12)
    + b"\x08\0"
    + struct.pack(">BBHHHBBH4s4s", 0x45, 0, 92, 0, 0, 64, 17, 0, bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2]))
    + struct.pack(">HHHH", 4000, 5000, 72, 0)
    + bytes(64)
)
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
    subprocess.run([python, "-c", COMPILE, str(ROOT), str(sources), str(output), *PROGRAMS], check=True)
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
    instructions = verifier()
    if arguments.json:
        print(json.dumps({"placed": placed, "flood": flood, "instructions": instructions}, indent=1))
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
    print("instructions the verifier processed:")
    for name, count in instructions.items():
        print(f"  {name}: {count}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
