"""Results of the kernels as one table, for a terminal and as docs/kernels.md."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]
Row = tuple[str, list[str]]

_INTRODUCTION = """# Kernels

Written by `make kernels ARGS=--write-docs` from a run; do not edit.

The same shipped program images, compiled once, on Debian's kernels under emulation (qemu without KVM) and on the kernel of the
machine that made this page. Every figure was read from the kernel or the agent during the run. Three rounds each, on a veth pair
between two network namespaces: the defaults ended by SIGTERM, native XDP ended by SIGKILL, generic XDP after that.
"""

_LEGEND = """
- *tcx*, *native*, *generic*: a bpf link, which goes with the process that holds it, also when that is killed.
- *clsact*: a filter of a clsact qdisc, where the kernel has no TCX (before Linux 6.6). It outlives a killed agent; the next start
  removes it.
- *lacks a helper*: the agent takes the variant below.
- *verified*: how many instructions the verifier processed before it let the program in; the budget is 50,000.
- *left*: programs, maps, links, filters, qdiscs and XDP programs of the agent that are in the kernel after it ended.
"""


def headings(results: list[Result]) -> list[str]:
    """One column a kernel."""
    return [f"{each['label']} ({each['kernel']})" if "kernel" in each else each["label"] for each in results]


def _series(result: Result) -> str:
    return ".".join(str(result["kernel"]).split(".")[:2])


def _hook(result: Result, name: str) -> str:
    return str(result.get("figures", {}).get("hooks", {}).get(name, "-"))


def _found(result: Result, name: str) -> str:
    for check in result.get("checks", []):
        if check["name"] == name:
            return (
                _number(check["found"]) if check["ok"] else f"{_number(check['found'])} of {_number(check['expected'])}"
            )
    return "-"


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _figure(result: Result, name: str) -> str:
    value = result.get("figures", {}).get(name)
    return "-" if value is None else _number(value)


def _verified(result: Result, program: str, variant: str) -> str:
    for each in result.get("verifier", []):
        if (each["program"], each["variant"]) == (program, variant):
            if "lacks" in each:
                return "lacks a helper"
            return "refused" if "refused" in each else _number(each["processed"])
    return "-"


def _all_packets(result: Result, side: str) -> str:
    """What the interface counted, and by how many the agent counted more or less."""
    truth = result.get("figures", {}).get("packets", {}).get(side)
    for check in result.get("checks", []):
        if truth is not None and check["name"].startswith("orderly: all packets"):
            difference = check["found"][side]
            return _number(truth) + (f" ({difference:+d})" if difference else "")
    return "-"


def _left(result: Result, name: str) -> str:
    checks = [c for c in result.get("checks", []) if c["name"].startswith(f"{name}: ") and "left" in c["name"]]
    if not checks:
        return "-"
    return "nothing" if all(check["ok"] for check in checks) else "; ".join(c["name"] for c in checks if not c["ok"])


def _left_by_kill(result: Result) -> str:
    filters = result.get("figures", {}).get("filters_left_by_kill")
    if filters is None:
        return _left(result, "killed")
    return (
        f"{sum(filters.values())} filters, swept"
        if _left(result, "after the kill") == "nothing"
        else "filters, not swept"
    )


def rows(results: list[Result]) -> list[Row]:
    """The table: what it is about, and one cell a kernel."""
    table: list[Row] = [
        (title, [_hook(each, key) for each in results])
        for title, key in (
            ("tc receive", "tc_receive"),
            ("tc transmit", "tc_transmit"),
            ("XDP, native", "xdp native"),
            ("XDP, generic", "xdp generic"),
        )
    ]
    programs = dict.fromkeys((p["program"], p["variant"]) for each in results for p in each.get("verifier", []))
    for program, variant in programs:
        title = f"{program} verified" + ("" if variant == "default" else f" ({variant})")
        table.append((title, [_verified(each, program, variant) for each in results]))
    for title, check in (
        ("IPv4 datagrams counted", "orderly: netmon.protocol.packets of IPv4 UDP"),
        ("IPv6 datagrams counted", "orderly: netmon.protocol.packets of IPv6 UDP"),
        ("datagrams counted by native XDP", "killed: netmon.xdp.packets of IPv4 UDP"),
        ("datagrams counted by generic XDP", "after the kill: netmon.xdp.packets of IPv4 UDP"),
        ("connections counted, client", "orderly: connections of the client"),
        ("connections counted, server", "orderly: connections of the server"),
        ("refused connections counted", "orderly: refused connections of the client"),
    ):
        table.append((title, [_found(each, check) for each in results]))
    table += [
        (f"all packets, {side}", [_all_packets(each, side) for each in results]) for side in ("receive", "transmit")
    ]
    table.append(("left after SIGTERM", [_left(each, "orderly") for each in results]))
    table.append(("left after SIGKILL", [_left_by_kill(each) for each in results]))
    table.append(("checks passed", [_passed(each) for each in results]))
    return table


def _passed(result: Result) -> str:
    checks = result.get("checks", [])
    return f"{sum(check['ok'] for check in checks)} of {len(checks)}"


def text(results: list[Result]) -> str:
    """The table for a terminal, and below it each failed check."""
    ready = ("seconds to ready", [_figure(each, "orderly.ready_seconds") for each in results])
    lines = [("", headings(results)), *rows(results), ready]
    first = max(len(title) for title, _ in lines)
    widths = [max(len(cells[i]) for _, cells in lines) for i in range(len(results))]
    out = [
        f"{title:<{first}}  "
        + "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
        for title, cells in lines
    ]
    for each in results:
        if "error" in each:
            out.append(f"{each['label']}: FAILED {each['error']}")
        out += [
            f"{each['label']}: FAILED {check['name']}: expected {check['expected']}, found {check['found']}"
            for check in each.get("checks", [])
            if not check["ok"]
        ]
    return "\n".join(out) + "\n"


def markdown(results: list[Result]) -> str:
    """The page docs/kernels.md, of a run without failures."""
    lines = [f"| | {' | '.join(map(_series, results))} |", "|" + " --- |" * (len(results) + 1)]
    lines += [f"| {title} | {' | '.join(cells)} |" for title, cells in rows(results)]
    packages = [f"- {each['label']}: {each['package']}" for each in results if "package" in each]
    return "\n".join([_INTRODUCTION, *lines, _LEGEND, "Kernel packages:", "", *packages]) + "\n"
