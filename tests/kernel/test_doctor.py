"""otel-netmon doctor on the kernel at hand: with every privilege, with less, and with features that a filter refuses.

A kernel that lacks something is made by a seccomp filter, which refuses a bpf(2) command as an older kernel does.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.abi.enums import Direction
from otel_netmon.cli import doctor
from otel_netmon.cli.main import main
from otel_netmon.config.model import Config
from otel_netmon.errors import KernelLacksError, PrivilegeError
from otel_netmon.kernel import features, host, image, loader, syscalls
from support.programs import shipped

pytestmark = pytest.mark.kernel

COUNTED = "23 of 23 packets counted in each direction, in a network namespace made for it"
FILTERED = """
import ctypes, struct, sys
number, command, error = map(int, sys.argv[1:4])
allow, refuse = 0x7fff0000, 0x00050000 | error
steps = [(0x20, 0, 0, 0), (0x15, 0, 3 if command >= 0 else 1, number)]        # other system calls: allowed
steps += [(0x20, 0, 0, 16), (0x15, 0, 1, command)] if command >= 0 else []     # other commands: allowed
steps += [(0x06, 0, 0, refuse), (0x06, 0, 0, allow)]
code = b"".join(struct.pack("<HBBI", *step) for step in steps)
room = ctypes.create_string_buffer(code, len(code))
program = struct.pack("<H6xQ", len(steps), ctypes.addressof(room))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
from otel_netmon.cli.main import main
sys.exit(main(sys.argv[4:]))
"""
"""A seccomp filter: bpf(2) with this command (-1: with any) fails with this error. Then the command line."""


def examined(*command: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and checks by name of a doctor that runs as a process."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "", done.stderr
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.returncode
    checks = {check["name"]: check for check in document["checks"]}
    assert len(checks) == len(document["checks"])
    return done.returncode, checks


def states(checks: dict[str, dict[str, Any]], state: str) -> set[str]:
    return {name for name, check in checks.items() if check["state"] == state}


def filtered(command: int, error: int) -> list[str]:
    """A doctor on a kernel that refuses a command of bpf(2)."""
    return [sys.executable, "-c", FILTERED, str(syscalls._BPF), str(command), str(error), *arguments()]


def arguments(*more: str) -> list[str]:
    return ["doctor", "--json", "--no-compile", *more]


def privileges(*names: str) -> list[str]:
    """A command prefix that leaves only these capabilities."""
    return ["setpriv", "--bounding-set", ",".join(["-all", *(f"+{name}" for name in names)]), "--inh-caps", "-all"]


def test_with_every_privilege_all_that_the_probes_need_is_there(command: list[str]) -> None:
    code, checks = examined(*command, "doctor", "--json")
    assert code == 0
    assert states(checks, "missing") == set()
    assert states(checks, "degraded") <= {"cgroup v2", "jit"}  # what a host may lack
    assert checks["hook tcx"]["found"] == COUNTED
    assert checks["clock"]["found"].endswith("jiffies a second")
    programs = [name.split()[1] for name in checks if name.startswith("program ")]
    assert sorted(programs) == sorted(name for names in image.SOURCES.values() for name in names)
    assert checks["compile tc_monitor.c"]["found"].endswith("instructions as the image")
    assert (
        checks["bcc"]["found"].split()[0] in checks["image tc_monitor"]["found"]
        or "other" in checks["compile tc_monitor.c"]["found"]
    )


def test_the_verifiers_count_is_that_of_its_log() -> None:
    made = image.load(image.SHIPPED / "tc_monitor.json")
    assert made is not None
    loaded = loader.LoadedImage(made)
    try:
        for name in made.programs:
            counted = int(features.program_size(name, loaded).split()[1].replace(",", ""))
            assert f"processed {counted} insns" in loaded.verifier_report(name)
            assert counted <= 50_000
    finally:
        loaded.close()


def test_nothing_is_left() -> None:
    def descriptors() -> set[str]:
        return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}

    def qdiscs() -> str:
        return subprocess.run(["tc", "-json", "qdisc"], capture_output=True, text=True, check=True).stdout

    namespace, before, seen = os.stat("/proc/self/ns/net").st_ino, descriptors(), qdiscs()
    findings = list(doctor.Examination(Config(), compile_too=False).checks())
    assert doctor.exit_code(findings) == 0
    assert descriptors() <= before
    assert qdiscs() == seen
    assert os.stat("/proc/self/ns/net").st_ino == namespace


def test_a_uprobe_is_tried_where_nobody_runs_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = loader.LoadedImage(shipped("plaintext_monitor"), {"sessions": 8})
    try:
        assert features.uprobe_hook(loaded) == "attached to a file that nobody runs"

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(syscalls, "uprobe_open", refuse)
        with pytest.raises(KernelLacksError, match="not_permitted") as caught:
            features.uprobe_hook(loaded)
        assert "CAP_PERFMON" in caught.value.remedy
    finally:
        loaded.close()


def test_clsact_is_tried_where_it_is_asked_for(command: list[str]) -> None:
    code, checks = examined(*command, *arguments("--set", "probes.flows.attach=clsact"))
    assert code == 0
    assert checks["hook clsact"]["found"] == COUNTED


def test_where_tcx_is_refused_clsact_takes_its_place() -> None:
    code, checks = examined(*filtered(syscalls.LINK_CREATE, errno.EINVAL))
    assert code == 0
    assert checks["hook tcx"]["state"] == "degraded"
    assert checks["hook tcx"]["found"] == "this kernel has no TCX"
    assert checks["hook tcx"]["remedy"] == "none needed where clsact works"
    assert checks["hook clsact"] == {
        "name": "hook clsact",
        "state": "ok",
        "found": COUNTED,
        "remedy": "",
        "exit_code": 0,
    }


def test_tcx_that_is_asked_for_and_refused_is_missing() -> None:
    code, checks = examined(*filtered(syscalls.LINK_CREATE, errno.EINVAL), "--set", "probes.flows.attach=tcx")
    assert code == KernelLacksError.exit_code
    assert states(checks, "missing") == {"hook tcx"}
    assert checks["hook tcx"]["remedy"] == "set probes.flows.attach to auto"


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        (syscalls.MAP_LOOKUP_BATCH, {"map batch calls"}),
        (syscalls.PROG_TEST_RUN, {"test run", "clock"}),
    ],
)
def test_a_command_that_is_refused_is_missing_and_the_rest_is_tried(call: int, missing: set[str]) -> None:
    code, checks = examined(*filtered(call, errno.EINVAL))
    assert code == KernelLacksError.exit_code
    assert states(checks, "missing") == missing
    assert checks["hook tcx"]["found"] == COUNTED


def test_a_program_that_is_refused_blocks_what_stands_on_it() -> None:
    code, checks = examined(*filtered(syscalls.PROG_LOAD, errno.EINVAL))
    assert code == KernelLacksError.exit_code
    assert checks["program netmon_receive"]["found"].startswith("the kernel refused the program netmon_receive")
    assert checks["hook tcx"]["found"] == "not tried: program netmon_receive is missing"
    assert checks["program netmon_xdp"]["state"] == "degraded"  # the probe is off
    assert checks["maps tc_monitor"]["state"] == "ok"


def test_a_kernel_without_bpf() -> None:
    code, checks = examined(*filtered(-1, errno.ENOSYS))
    assert code == KernelLacksError.exit_code
    assert checks["bpf(2)"]["found"] == "Function not implemented"
    assert checks["hook tcx"]["found"] == "not tried: bpf(2) is missing"
    assert {"rtnetlink", "/proc/net/dev", "image tc_monitor"} <= states(checks, "ok")


def test_without_privilege_it_says_so_and_is_of_use() -> None:
    """As nobody, who may not even read the checkout: the interpreter opens it before the privileges go."""
    drop = "import os, sys; from otel_netmon.cli.main import main; import otel_netmon.cli.doctor, otel_netmon.config.load; "
    drop += "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(main(sys.argv[1:]))"
    if not os.access(image.SHIPPED, os.R_OK):
        pytest.fail("the images cannot be read")
    code, checks = examined(sys.executable, "-c", drop, *arguments())
    assert code == PrivilegeError.exit_code
    assert checks["capabilities"]["found"] == "this process lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"
    assert checks["capabilities"]["remedy"]
    assert "CAP_BPF" in checks["bpf(2)"]["remedy"] or checks["bpf(2)"]["state"] == "ok"  # where anybody may
    assert {"rtnetlink", "/proc/net/dev", "membarrier"} <= states(checks, "ok")


def test_the_three_capabilities_suffice_and_the_hook_is_tried_on_loopback(command: list[str]) -> None:
    code, checks = examined(*privileges("bpf", "net_admin", "perfmon"), *command, *arguments())
    assert code == 0
    assert checks["hook tcx"]["state"] == "ok"
    assert checks["hook tcx"]["found"].startswith("attached to lo and taken off again")


def test_a_namespace_to_enter_needs_one_more(command: list[str]) -> None:
    more = ["--set", "interfaces.namespaces=[blue]"]
    code, checks = examined(*privileges("bpf", "net_admin", "perfmon"), *command, *arguments(*more))
    assert code == PrivilegeError.exit_code
    assert states(checks, "missing") == {"capabilities"}
    assert checks["capabilities"]["found"] == "this process lacks CAP_SYS_ADMIN"


@pytest.mark.parametrize("lacking", ["bpf", "net_admin", "perfmon"])
def test_each_capability_is_missed(lacking: str, command: list[str]) -> None:
    held = {"bpf", "net_admin", "perfmon"} - {lacking}
    code, checks = examined(*privileges(*sorted(held)), *command, *arguments())
    assert code == PrivilegeError.exit_code
    assert checks["capabilities"]["found"] == f"this process lacks CAP_{lacking.upper()}"
    assert len(states(checks, "missing")) > 1


def test_clsact_without_a_namespace_is_told_from_the_kernels_configuration(command: list[str]) -> None:
    more = ["--set", "probes.flows.attach=clsact"]
    code, checks = examined(*privileges("bpf", "net_admin", "perfmon"), *command, *arguments(*more))
    found = {True: ("ok", 0), None: ("degraded", 0), False: ("missing", 69)}[host.has_clsact()]
    assert (checks["hook clsact"]["state"], code) == found


def test_sources_that_no_image_fits(tmp_path: Path, command: list[str]) -> None:
    sources = tmp_path / "bpf"
    shutil.copytree(image.source_directory(), sources)
    with (sources / "include" / "flows.h").open("a") as file:
        file.write("/* changed */\n")
    cache = tmp_path / "cache"
    more = ["--set", f"images.sources={sources}", "--set", f"images.directory={cache}"]
    code, checks = examined(*command, *arguments(*more))
    assert code == 0
    assert checks["image tc_monitor"]["state"] == "degraded"
    assert checks["compile tc_monitor.c"]["state"] == "ok"
    assert checks["hook tcx"]["found"] == COUNTED
    assert not cache.exists()
    code, checks = examined(*command, *arguments(*more, "--set", "images.compiler=/bin/false"))
    assert code == 1
    assert checks["bcc"]["state"] == "degraded"
    assert checks["image tc_monitor"] == {
        "name": "image tc_monitor",
        "state": "missing",
        "found": "none fits the sources",
        "remedy": "apt-get install python3-bpfcc",
        "exit_code": 1,
    }
    assert checks["hook tcx"]["found"] == "not tried: maps tc_monitor is missing"
    (sources / "tc_monitor.c").write_text("not C")
    code, checks = examined(*command, *arguments(*more))
    assert code == 1
    assert "compiling tc_monitor.c failed" in checks["compile tc_monitor.c"]["found"]


def test_a_program_that_is_not_passive_or_counts_wrong_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    made = image.load(image.SHIPPED / "tc_monitor.json")
    assert made is not None
    drops = bytes.fromhex("b70000000200000095000000 00000000".replace(" ", ""))  # r0 = TC_ACT_SHOT; exit
    programs = {**made.programs, "netmon_receive": made.programs["netmon_receive"]._replace(instructions=drops)}
    loaded = loader.LoadedImage(made._replace(programs=programs))
    try:
        with pytest.raises(KernelLacksError, match="gave 0x2 and not 0xffffffff"):
            features.test_run(loaded)
    finally:
        loaded.close()
    passes = bytes.fromhex("b7000000ffffffff9500000000000000")  # r0 = TCX_NEXT; exit: counts nothing
    programs["netmon_receive"] = made.programs["netmon_receive"]._replace(instructions=passes)
    loaded = loader.LoadedImage(made._replace(programs=programs))
    try:
        with pytest.raises(KernelLacksError, match="of 23 packets it counted: receive 0, transmit 23"):
            features.tcx(loaded)
    finally:
        loaded.close()
    assert features.TC_PROGRAMS[Direction.RECEIVE] == "netmon_receive"


def test_a_failure_in_the_namespace_reaches_the_caller_and_the_thread_goes() -> None:
    def job(_: object) -> None:
        raise KernelLacksError("as told")

    with pytest.raises(KernelLacksError, match="as told"):
        features.in_new_namespace(job)
    namespace = os.stat("/proc/self/ns/net").st_ino
    assert features.in_new_namespace(lambda each: each.identity[1]) != namespace


def test_the_text_is_one_line_a_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-compile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(doctor.Examination(Config(), compile_too=False).checks())) + 1
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "degraded"}
    degraded = [line.split("  ")[1].strip() for line in lines if line.startswith("degraded")]
    assert lines[-1] == "the probes that are on run here" + (f"; degraded: {', '.join(degraded)}" if degraded else "")


def test_a_long_refusal_stays_on_its_line_and_keeps_its_end() -> None:
    words = "\n".join(["the kernel refused", *("r1 = 0\x1b[2J" for _ in range(200)), "the reason", "processed 9 insns"])
    text = doctor.line(features.Finding("program x", "missing", words, "do this", 69), colour=False)
    assert text.isprintable()
    assert len(text) < 330
    assert text.startswith("missing   program x")
    assert text.endswith("the reason; remedy: do this")


def test_memlock_is_left_as_it_was() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    finding = host.memlock()
    assert finding.state == "ok"
    if "not charged" in finding.found:
        assert resource.getrlimit(resource.RLIMIT_MEMLOCK) == before
