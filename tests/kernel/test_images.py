"""The images that ship: made from these sources, small for the verifier, and refused when they are not whole."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import product
from pathlib import Path

import pytest

from otel_netmon.abi.enums import ABI_VERSION, Late
from otel_netmon.errors import ImageError, KernelLacksError
from otel_netmon.kernel import compiler, image, loader, syscalls
from otel_netmon.kernel.images_build import main as images_build
from support.frame_table import CASES, is_refused_by_test_run
from support.programs import Programs, shipped

pytestmark = pytest.mark.kernel

NAMES = sorted(image.SOURCES)
INSTRUCTIONS_MAX = 50_000
NO_BCC = "/bin/false"

with_bcc = pytest.mark.skipif(compiler.find_interpreter(None) is None, reason="python3-bpfcc is not installed")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, image.Image]:
    """The images compiled here and now."""
    folder = tmp_path_factory.mktemp("fresh")
    sources = image.source_directory()
    return {name: compiler.compile_image(sources, name, {}, folder / f"{name}.json") for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_shipped_images_come_from_these_sources(name: str) -> None:
    found = shipped(name)
    assert found.hash == image.source_hash(image.source_directory(), name, {})
    assert found.constants == {}
    assert set(found.programs) == set(image.SOURCES[name])
    assert {program: made.kind for program, made in found.programs.items()} == image.SOURCES[name]


@with_bcc
@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_compile_by_the_same_compiler_gives_the_same_octets(name: str, fresh: dict[str, image.Image]) -> None:
    if fresh[name].compiler != shipped(name).compiler:
        pytest.skip(
            f"shipped by {shipped(name).compiler}, here is {fresh[name].compiler}: behaviour is compared instead"
        )
    assert fresh[name].dump() == (image.SHIPPED / f"{name}.json").read_text()


@with_bcc
def test_a_fresh_compile_does_the_same_to_every_frame(fresh: dict[str, image.Image]) -> None:
    frames = [case.frame for case in CASES if not is_refused_by_test_run(case.frame)]
    variants: list[tuple[str, str, dict[str, int]]] = [
        ("tc_monitor", program, late)
        for program in ("netmon_receive", "netmon_transmit")
        for late in ({}, {"decapsulate": 1}, {"replay": 1}, {"fast_path": 0})
    ]
    for name, program, late in [*variants, ("xdp_monitor", "netmon_xdp", {})]:
        maps = []
        for source in (shipped(name), fresh[name]):
            with Programs(source, sizes={"flow_table": 4096}) as programs:
                programs.many(frames, program, **late)
                maps.append(programs.dump())
        assert maps[0] == maps[1]
        assert maps[0]["rows"]


def test_the_verifier_looks_at_few_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    counts: dict[str, int] = {}
    for name in NAMES:
        with Programs(name, sizes={"flow_table": 1024} if name == "tc_monitor" else None) as programs:
            for program in image.SOURCES[name]:
                attached = program in ("netmon_receive", "netmon_transmit", "netmon_xdp")
                replayed = name == "tc_monitor" and program in ("netmon_receive", "netmon_dns", "netmon_stream")
                for l2, inner, replay, fast in product((14, 0), (0, 1), (0, 1), (1, 0)):
                    if (not attached and (l2, inner, fast) != (14, 0, 1)) or (replay and not replayed):
                        continue
                    late = {Late.L2_LENGTH: l2, Late.DECAPSULATE: inner, Late.REPLAY: replay, Late.FAST_PATH: fast}
                    if name == "socket_monitor":
                        late |= {Late.MESSAGES: 1, Late.STREAMS: 1, Late.HTTP: 1}
                    if name == "plaintext_monitor":
                        late |= {Late.HTTP: 1, Late.HANDSHAKE_BYTES: 0}
                    fd = programs.loaded.program(program, late)
                    variant = f"{name}/{program} l2={l2} decapsulate={inner} replay={replay} fast_path={fast}"
                    counts[variant] = syscalls.program_info(fd).verified_instructions
    with capsys.disabled():
        for program in sorted({variant.split()[0] for variant in counts}):
            variants = [count for variant, count in counts.items() if variant.split()[0] == program]
            sys.stdout.write(f"\n  verifier: {program}: {min(variants)} to {max(variants)} instructions")
    once = sum(len(image.SOURCES[name]) for name in ("socket_monitor", "drop_monitor", "plaintext_monitor"))
    once += 7  # HTTP, HTTP/2, errors, sweep, mark, quiet, clock
    assert len(counts) == 16 + 2 + 2 + 8 + 8 + once  # receive, DNS and streams, also in a replay; transmit; XDP
    assert all(0 < count <= INSTRUCTIONS_MAX for count in counts.values()), counts


def loops_refused_by_5_10(code: bytes) -> list[int]:
    """Instructions that fall through back into a loop, which check_cfg() of Linux 5.10 refuses: loops go by jumps.

    Depth first as there: of a conditional jump the next instruction comes before the target.
    """
    number = len(code) // 8
    opcode, offset = (
        code[0::8],
        [int.from_bytes(code[at + 2 : at + 4], "little", signed=True) for at in range(0, len(code), 8)],
    )
    following: list[list[int]] = []
    for at in range(number):
        kind, jump = opcode[at] & 7, opcode[at] >> 4
        if kind not in (5, 6) or jump == 8:  # no jump, or a call
            following.append([at + 2 if opcode[at] == image.LD_IMM64 else at + 1])
        elif jump == 9:
            following.append([])
        else:
            target = at + 1 + offset[at]
            following.append([target] if jump == 0 and kind == 5 else [at + 1, target])
    state = ["new"] * number
    refused = []
    stack = [(0, iter(following[0]))]
    state[0] = "open"
    while stack:
        at, rest = stack[-1]
        to = next(rest, None)
        if to is None:
            state[at] = "done"
            stack.pop()
        elif state[to] == "new":
            state[to] = "open"
            stack.append((to, iter(following[to])))
        elif state[to] == "open" and (opcode[at] & 7 not in (5, 6) or opcode[at] >> 4 == 8):
            refused.append(at)
    return refused


def test_loops_are_such_as_linux_5_10_takes() -> None:
    falls_into_loop = bytes.fromhex(
        "0500010000000000 b700000000000000 1500feff00000000 9500000000000000".replace(" ", "")
    )
    assert loops_refused_by_5_10(falls_into_loop) == [1]
    for name in NAMES:
        for program, made in shipped(name).programs.items():
            assert loops_refused_by_5_10(made.instructions) == [], program


# ---------------------------------------------------------------------------------------------------- where they come from
@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of the sources that differs from what ships."""
    copy = tmp_path / "bpf"
    shutil.copytree(image.source_directory(), copy)
    with (copy / "xdp_monitor.c").open("a") as file:
        file.write("/* an own change */\n")
    return copy


def test_shipped_images_need_no_compiler(tmp_path: Path) -> None:
    for name in NAMES:
        found, origin = loader.obtain(name, tmp_path / "cache", interpreter=NO_BCC)
        assert (found, origin) == (shipped(name), "shipped")
    assert not (tmp_path / "cache").exists()


@with_bcc
def test_changed_sources_are_compiled_once_and_then_cached(tmp_path: Path, sources: Path) -> None:
    cache = tmp_path / "cache"
    made, origin = loader.obtain("xdp_monitor", cache, sources)
    assert origin == "compiled"
    assert made.hash != shipped("xdp_monitor").hash
    assert [path.name for path in cache.iterdir()] == [f"xdp_monitor-{made.hash[:32]}.json"]
    again, origin = loader.obtain("xdp_monitor", cache, sources, interpreter=NO_BCC)
    assert (again, origin) == (made, "cache")


@with_bcc
def test_constants_reach_the_compiler_and_the_key_of_the_cache(tmp_path: Path) -> None:
    made, origin = loader.obtain("tc_monitor", tmp_path, constants={"FULL_BACKOFF_JIFFIES_UNUSED": 3})
    assert (origin, made.constants) == ("compiled", {"FULL_BACKOFF_JIFFIES_UNUSED": 3})
    assert made.hash != shipped("tc_monitor").hash
    assert made.maps == shipped("tc_monitor").maps


@with_bcc
def test_a_damaged_cache_file_is_compiled_over(tmp_path: Path, sources: Path) -> None:
    made, _ = loader.obtain("xdp_monitor", tmp_path, sources)
    path = image.cache_path(tmp_path, "xdp_monitor", made.hash)
    for damage in (path.read_text()[:-100], "", "null", path.read_text().replace(made.hash, "0" * 64)):
        path.write_text(damage)
        assert loader.obtain("xdp_monitor", tmp_path, sources) == (made, "compiled")
    assert image.load(path) == made


def test_without_a_compiler_a_changed_source_is_a_clear_error(tmp_path: Path, sources: Path) -> None:
    with pytest.raises(ImageError, match="no bcc to compile it") as caught:
        loader.obtain("xdp_monitor", tmp_path, sources, interpreter=NO_BCC)
    assert "python3-bpfcc" in caught.value.remedy
    with pytest.raises(ImageError, match="no bcc to compile it"):
        loader.obtain("xdp_monitor", tmp_path, sources, interpreter=str(tmp_path / "absent"))


@with_bcc
def test_a_source_that_does_not_compile_is_told_in_the_words_of_the_compiler(tmp_path: Path, sources: Path) -> None:
    with (sources / "xdp_monitor.c").open("a") as file:
        file.write("int broken( {\n")
    with pytest.raises(ImageError, match=r"compiling xdp_monitor\.c failed:.*error:") as caught:
        loader.obtain("xdp_monitor", tmp_path / "cache", sources)
    assert "xdp_monitor.c:" in caught.value.message
    assert not list((tmp_path / "cache").glob("*"))


@with_bcc
def test_a_cache_that_cannot_be_written_is_told_with_the_key_to_set(tmp_path: Path, sources: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(ImageError) as caught:
        loader.obtain("xdp_monitor", in_the_way / "cache", sources)
    assert str(in_the_way) in str(caught.value)


def test_the_build_command_sees_that_shipped_images_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    if compiler.find_interpreter(None) is None:
        pytest.skip("python3-bpfcc is not installed")
    assert images_build(["--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}: current" for name in image.SOURCES]


# ------------------------------------------------------------------------------------------------------- into the kernel
def test_a_program_the_verifier_refuses_is_told_with_its_log() -> None:
    source = shipped("xdp_monitor")
    code = source.programs["netmon_xdp"].instructions
    endless = source._replace(programs={"netmon_xdp": image.Program(syscalls.PROG_TYPE_XDP, code[:-8] + code[-16:-8])})
    with Programs(endless) as programs, pytest.raises(KernelLacksError, match="refused the program netmon_xdp"):
        programs.loaded.program("netmon_xdp")


def test_a_map_the_kernel_refuses_is_told() -> None:
    source = shipped("xdp_monitor")
    impossible = source._replace(maps=tuple(m._replace(kind=9999) for m in source.maps))
    with pytest.raises(KernelLacksError, match="creating the maps of xdp_monitor"):
        Programs(impossible)


def test_a_program_is_loaded_once_for_each_set_of_late_constants() -> None:
    with Programs("xdp_monitor") as programs:
        loaded = programs.loaded
        first = loaded.program("netmon_xdp")
        assert loaded.program("netmon_xdp") == first
        second = loaded.program("netmon_xdp", {Late.NAMESPACE: 7})
        assert second != first
        assert loaded.programs() == {"netmon_xdp": first, "netmon_xdp,namespace=7": second}
        assert "processed" in loaded.verifier_report("netmon_xdp")


def test_damaged_shipped_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "SHIPPED", tmp_path)
    (tmp_path / "xdp_monitor.json").write_text('{"format": 1}')
    with pytest.raises(ImageError, match="damaged program image"):
        loader.obtain("xdp_monitor", tmp_path / "cache", interpreter=NO_BCC)
    raw = json.loads(shipped_text("xdp_monitor"))
    raw["abi"] = ABI_VERSION + 1
    (tmp_path / "xdp_monitor.json").write_text(json.dumps(raw))
    with pytest.raises(ImageError, match=rf"ABI {ABI_VERSION + 1}"):
        loader.obtain("xdp_monitor", tmp_path / "cache", interpreter=NO_BCC)


def shipped_text(name: str) -> str:
    return (image.PACKAGE / "images" / f"{name}.json").read_text()
