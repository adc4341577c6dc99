"""Try what this kernel and machine allow, and say what to do about what is missing.

One line a check: ok; degraded, the probes that are on run without it; missing, they do not. Features are tried with the
programs that the agent loads, in a network namespace made for it where that is allowed; nothing of this host is changed.

Exit codes: 0 the probes run, 1 what is installed does not fit, 69 the kernel lacks something, 77 a privilege is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from otel_netmon.abi.enums import Late
from otel_netmon.cli.options import add_config_arguments, add_json_argument, load_config, print_warnings
from otel_netmon.cli.output import Colour, colour_wanted, paint, print_json
from otel_netmon.cli.top_view import printable
from otel_netmon.errors import ImageError, KernelLacksError, NetmonError, PrivilegeError
from otel_netmon.kernel import compiler, features, host, image, loader
from otel_netmon.loading import plaintext_constants

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy would start a thread for each core

if TYPE_CHECKING:
    from otel_netmon.config.model import Config
    from otel_netmon.kernel.features import Finding, State

COLOURS: dict[State, Colour] = {"ok": "green", "degraded": "yellow", "missing": "red"}
GRAVEST_FIRST = (PrivilegeError.exit_code, KernelLacksError.exit_code, NetmonError.exit_code)
"""Without the privilege what the kernel lacks cannot be told; what is installed comes last."""
FOUND_LENGTH = 240


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the configuration's options, ``--json`` and ``--no-compile``."""
    add_config_arguments(parser)
    add_json_argument(parser)
    parser.add_argument("--no-compile", action="store_true", help="compile only where no image fits; saves a second")


def run(args: argparse.Namespace) -> int:
    """Print the findings as they come; give the exit code of the gravest."""
    loaded = load_config(args)
    checks = Examination(loaded.config, compile_too=not args.no_compile).checks()
    if args.json:
        findings = list(checks)
        print_json({"exit_code": exit_code(findings), "checks": [finding._asdict() for finding in findings]})
        return exit_code(findings)
    print_warnings(loaded)
    colour = colour_wanted(sys.stdout)
    findings = []
    for finding in checks:
        findings.append(finding)
        print(line(finding, colour), flush=True)
    print(paint(verdict(findings), "bold", colour))
    return exit_code(findings)


def exit_code(findings: Sequence[Finding]) -> int:
    """What the command ends with."""
    codes = {finding.exit_code for finding in findings}
    return next((code for code in GRAVEST_FIRST if code in codes), 0)


def line(finding: Finding, colour: bool) -> str:
    """One finding as one line; a long message of the verifier loses its middle."""
    statistics = "processed "  # the verifier's last line; the one before says what is wrong
    words = " ".join(text for text in finding.found.splitlines() if not text.startswith(statistics))
    found = printable(" ".join(words.split()))
    if len(found) > FOUND_LENGTH:
        found = f"{found[: FOUND_LENGTH // 3]} ... {found[-FOUND_LENGTH * 2 // 3 :]}"
    state = paint(f"{finding.state:<8}", COLOURS[finding.state], colour)
    text = f"{finding.name:<23}  {found}" + (f"; remedy: {finding.remedy}" if finding.remedy else "")
    return f"{state}  {text}"


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    missing = [finding.name for finding in findings if finding.state == "missing"]
    degraded = [finding.name for finding in findings if finding.state == "degraded"]
    if missing:
        return f"the probes that are on cannot run here: {len(missing)} missing, first {missing[0]}"
    return "the probes that are on run here" + (f"; degraded: {', '.join(degraded)}" if degraded else "")


class Examination:
    """All checks for one configuration.

    Args:
        config: which probes are on, how they attach, where images and their compiler are.
        compile_too: whether to compile a program, too.
    """

    def __init__(self, config: Config, *, compile_too: bool) -> None:
        self._config = config
        self._compile_too = compile_too
        self._cache = Path(config.images.directory)
        self._sources = Path(config.images.sources) if config.images.sources else None
        self._on = {
            "tc_monitor": config.probes.flows.enabled,
            "xdp_monitor": config.probes.xdp.enabled,
            "socket_monitor": False,  # whatever is refused of it, the agent runs
            "drop_monitor": False,  # likewise
            "plaintext_monitor": False,  # likewise
        }
        self._sizes = {
            "tc_monitor": {"flow_table": config.probes.flows.table_entries},
            "socket_monitor": {"connection_stats": config.probes.connections.table_entries},
        }
        self._late: dict[str, dict[Late, int]] = {"plaintext_monitor": plaintext_constants(config)}
        if config.messages.vantage == "host":
            self._late["socket_monitor"] = {Late.MESSAGES: 1, Late.STREAMS: 1, Late.HTTP: 1}
        self._images: dict[str, image.Image] = {}
        self._loaded: dict[str, loader.LoadedImage] = {}

    def checks(self) -> Iterator[Finding]:
        """Every check, in the order in which one stands on another."""
        try:
            yield from self._checks()
        finally:
            for loaded in self._loaded.values():
                loaded.close()

    def _checks(self) -> Iterator[Finding]:
        programs = any(self._on.values())
        yield host.kernel()
        yield host.capabilities(needed=programs, namespaces=bool(self._config.interfaces.namespaces))
        bpf = features.attempt("bpf(2)", features.bpf_call, needed=programs)
        yield bpf
        blocked_by = bpf if bpf.state != "ok" else None
        yield host.unprivileged_bpf()
        yield host.jit()
        yield host.lockdown()
        if blocked_by is None:
            yield host.memlock()
        for kind, name in features.MAP_TYPES.items():
            yield features.attempt(
                f"map type {name}", partial(features.map_type, kind), needed=programs, blocked_by=blocked_by
            )
        yield features.attempt("map batch calls", features.batch_calls, needed=programs, blocked_by=blocked_by)
        yield features.membarrier()
        yield from self._image_checks(blocked_by)
        for stem in image.SOURCES:
            yield from self._program_checks(stem, blocked_by)
        yield features.attempt("rtnetlink", features.rtnetlink)
        yield features.attempt("/proc/net/dev", host.netdev, needed=self._config.probes.interfaces.enabled)
        yield host.cgroup2()

    def _image_checks(self, blocked_by: Finding | None) -> Iterator[Finding]:
        interpreter = compiler.find_interpreter(self._config.images.compiler)
        yield host.bcc(interpreter)
        yield host.cache_directory(self._cache)
        for stem in image.SOURCES:
            found = features.attempt(f"image {stem}", partial(self._find_image, stem), needed=self._on[stem])
            absent = stem not in self._images
            if absent and interpreter is not None:
                found = found._replace(state="degraded", remedy="the agent compiles one at start", exit_code=0)
            yield found
            if interpreter is not None and (absent or (self._compile_too and stem == "tc_monitor")):
                yield features.attempt(
                    f"compile {stem}.c",
                    partial(self._compile, stem, interpreter),
                    needed=absent and self._on[stem],
                    blocked_by=blocked_by,
                )

    def _find_image(self, stem: str) -> str:
        found = host.find_image(stem, self._cache, self._sources)
        if found is None:
            raise ImageError("none fits the sources", "apt-get install python3-bpfcc")
        self._images[stem], origin = found
        return f"fits the sources ({origin}, made by {self._images[stem].compiler})"

    def _compile(self, stem: str, interpreter: str) -> str:
        made, told = host.compile_test(stem, interpreter, self._sources, self._images.get(stem))
        self._images.setdefault(stem, made)
        return told

    def _program_checks(self, stem: str, blocked_by: Finding | None) -> Iterator[Finding]:
        needed = self._on[stem]
        maps = features.attempt(f"maps {stem}", partial(self._load, stem), needed=needed, blocked_by=blocked_by)
        yield maps
        blocked_by = blocked_by or (maps if maps.state != "ok" else None)
        attempt = partial(features.attempt, needed=needed)
        programs: dict[str, Finding] = {}
        for name in image.SOURCES[stem]:
            size = self._with(stem, partial(features.program_size, name, late=self._late.get(stem)))
            programs[name] = attempt(_label(stem, name), size, blocked_by=blocked_by)
            yield programs[name]
        if stem == "tc_monitor":
            refused = [blocked_by or programs[name] for name in features.TC_PROGRAMS.values()]
            blocked_by = next((each for each in refused if each.state != "ok"), None)
            yield attempt("test run", self._with(stem, features.test_run), blocked_by=blocked_by)
            yield attempt("clock", self._with(stem, _tick_rate), blocked_by=blocked_by)
            yield from self._hook_checks(blocked_by)
        if stem == "socket_monitor":
            blocked_by = blocked_by or next((each for each in programs.values() if each.state != "ok"), None)
            yield attempt("hooks cgroup", self._with(stem, features.cgroup_hooks), blocked_by=blocked_by)
        if stem == "drop_monitor":
            blocked_by = blocked_by or next((each for each in programs.values() if each.state != "ok"), None)
            yield attempt("hook kfree_skb", self._with(stem, features.drop_hook), blocked_by=blocked_by)
        if stem == "plaintext_monitor":
            blocked_by = blocked_by or next((each for each in programs.values() if each.state != "ok"), None)
            yield attempt("hook uprobe", self._with(stem, features.uprobe_hook), blocked_by=blocked_by)

    def _load(self, stem: str) -> str:
        if stem not in self._images:
            raise ImageError("there is no image to load")
        loaded = loader.LoadedImage(self._images[stem], self._sizes.get(stem))
        self._loaded[stem] = loaded
        return ", ".join(f"{name} {each.max_entries:,}" for name, each in loaded.definitions.items()) + " entries"

    def _with(self, stem: str, trial: Callable[[loader.LoadedImage], str]) -> Callable[[], str]:
        """The trial on what `_load` has loaded by the time it runs."""
        return lambda: trial(self._loaded[stem])

    def _hook_checks(self, blocked_by: Finding | None) -> Iterator[Finding]:
        """Whether tc programs can be attached in the way that the configuration says."""
        way = self._config.probes.flows.attach
        on = self._on["tc_monitor"]
        links = self._with("tc_monitor", features.tcx)
        needed = on and (way == "tcx" or (way == "auto" and blocked_by is not None))
        tcx = features.attempt("hook tcx", links, needed=needed, blocked_by=blocked_by)
        if tcx.state == "degraded" and way == "auto":
            tcx = tcx._replace(remedy="none needed where clsact works")
        yield tcx
        filters = self._with("tc_monitor", features.clsact)
        if blocked_by is None and (way == "tcx" or (way == "auto" and tcx.state == "ok")):
            present = host.has_clsact()
            told = "this kernel does not say whether it has it" if present is None else "there" if present else "absent"
            yield features.Finding("hook clsact", "ok", f"{told}, and not needed")
            return
        try:
            needed = on and (way == "clsact" or blocked_by is None)
            yield features.attempt("hook clsact", filters, needed=needed, blocked_by=blocked_by)
        except features.NoNamespace as refused:
            yield _clsact_unseen(str(refused), needed=on)


def _clsact_unseen(why: str, *, needed: bool) -> Finding:
    """What can be said of clsact without a network namespace to try it in."""
    untried = f"no network namespace to try it in ({why})"
    present = host.has_clsact()
    if present:
        return features.Finding("hook clsact", "ok", f"present; {untried}")
    if present is None or not needed:
        return features.Finding("hook clsact", "degraded", untried, "try again as root")
    remedy = "use a kernel with CONFIG_NET_CLS_ACT, CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"
    return features.Finding("hook clsact", "missing", "absent", remedy, KernelLacksError.exit_code)


def _label(stem: str, program: str) -> str:
    """The check of a program; with its image where several have one of this name."""
    several = sum(program in programs for programs in image.SOURCES.values()) > 1
    return f"program {program}" + (f" of {stem}" if several else "")


def _tick_rate(loaded: loader.LoadedImage) -> str:
    from otel_netmon.readers.flows import tick_rate  # numpy

    rate = tick_rate(*features.read_clocks(loaded))
    return f"{rate} jiffies a second" if rate else "no known tick rate fits: the agent measures it at start"
