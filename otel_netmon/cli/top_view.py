"""What ``otel-netmon top`` shows, as text without a terminal: numbers for people, rows, and the plain page.

Pure: a /status document in, text out. All names and messages come from the network, so every cell goes through ``printable``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, NamedTuple

from otel_netmon.cli.output import print_table
from otel_netmon.selfmon.status import (
    ConnectionsStatus,
    FlowStatus,
    InterfaceStatus,
    OtlpStatus,
    ProbeStatus,
    SeriesStatus,
    SpoolStatus,
    StageStatus,
    Status,
)

ATTACHED = frozenset({"tcx", "clsact", "native", "generic"})
"""Words of a hook that is attached (``attachments.ATTACHED``, which this command need not load); others say why not."""

NOTE_TITLE_WIDTH = 15
TROUBLED_SERVERS = 3
"""Servers whose failures, resets and retransmits have a line."""
_PREFIXES = ("", "k", "M", "G", "T", "P")


class InterfaceRow(NamedTuple):
    """One interface, ready to be shown; ``coverage`` is the lower one of the two directions."""

    name: str
    receive: str
    receive_packets: str
    receive_coverage: str
    transmit: str
    transmit_packets: str
    transmit_coverage: str
    coverage: str
    attached: str
    refused: bool


class FlowRow(NamedTuple):
    """One conversation with both of its directions, ready to be shown; a direction that is not listed is ``-``."""

    client: str
    server: str
    transport: str
    receive: str
    transmit: str
    packets: str
    bytes: str


class Note(NamedTuple):
    """One line below the tables: what it is about, its text, and whether something is wrong."""

    title: str
    text: str
    bad: bool = False


def printable(text: str) -> str:
    """The text with everything escaped that moves a cursor, changes a colour or turns the direction of writing."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)


def scaled(value: float, unit: str = "") -> str:
    """A quantity with three digits and an SI prefix: ``1.23 Mbit/s``, ``17 kB``, ``0``."""
    prefix = 0
    while value >= 999.5 and prefix < len(_PREFIXES) - 1:
        value /= 1000
        prefix += 1
    if prefix == 0:
        digits = 0 if value >= 9.95 or abs(value - round(value)) < 0.05 else 1
    else:
        digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {_PREFIXES[prefix]}{unit}".rstrip()


def share(coverage: float | None) -> str:
    """A share in percent; never 100 % for less than all."""
    return "-" if coverage is None else f"{math.floor(round(coverage * 1e6) / 100) / 100:g} %"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    whole = int(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {smaller}"
    return f"{seconds:.1f} s" if seconds < 10 and seconds != whole else f"{whole} s"


def headline(document: Status) -> str:
    """Version, age, what the rates are over, and how full the table is."""
    flows = document["flows"]
    interval = document["interval_seconds"]
    fresh = document["uptime_seconds"] < interval
    rates = f"first rates after {duration(interval)}" if fresh else f"rates over {duration(interval)}"
    return printable(
        f"otel-netmon {document['version']}   up {duration(document['uptime_seconds'])}   {rates}   "
        f"{flows['live']:,} of {flows['capacity']:,} flows"
    )


def busiest(interfaces: Sequence[InterfaceStatus], room: int) -> list[InterfaceStatus]:
    """As many interfaces as there is room for: all in their order, or else those with the most bytes a second."""
    if len(interfaces) <= room:
        return list(interfaces)
    return sorted(interfaces, key=lambda each: -_octets(each))[:room]


def rest(interfaces: Sequence[InterfaceStatus], shown: Sequence[InterfaceStatus]) -> str:
    """What is said of the interfaces for which there was no room; empty if there are none."""
    hidden = len(interfaces) - len(shown)
    octets = sum(map(_octets, interfaces)) - sum(map(_octets, shown))
    return f"and {hidden} more with {scaled(max(octets, 0.0) * 8, 'bit/s')}" if hidden else ""


def interface_row(interface: InterfaceStatus) -> InterfaceRow:
    """One interface as text."""
    receive, transmit = interface["receive"], interface["transmit"]
    shares = [side["coverage"] for side in (receive, transmit) if side["coverage"] is not None]
    namespace = f"{interface['namespace']}/" if interface["namespace"] else ""
    return InterfaceRow(
        name=printable(namespace + interface["name"]),
        receive=scaled(receive["bytes_per_second"] * 8, "bit/s"),
        receive_packets=scaled(receive["packets_per_second"]),
        receive_coverage=share(receive["coverage"]),
        transmit=scaled(transmit["bytes_per_second"] * 8, "bit/s"),
        transmit_packets=scaled(transmit["packets_per_second"]),
        transmit_coverage=share(transmit["coverage"]),
        coverage=share(min(shares, default=None)),
        attached=printable(_attached(interface["hooks"])),
        refused=not ATTACHED.issuperset(interface["hooks"].values()),
    )


def flow_rows(flows: Iterable[FlowStatus]) -> list[FlowRow]:
    """Conversations, the one with the most bytes a second first, then the one with the most bytes."""
    sides: dict[tuple[str, str, int | None, str], dict[str, FlowStatus]] = {}
    for flow in flows:
        key = (flow["client"], flow["server"], flow["port"], flow["transport"])
        sides.setdefault(key, {})[flow["direction"]] = flow

    def rank(item: tuple[object, Mapping[str, FlowStatus]]) -> tuple[float, int]:
        both = item[1].values()
        return sum(flow["bytes_per_second"] for flow in both), sum(flow["bytes"] for flow in both)

    return [
        FlowRow(
            client=printable(client),
            server=printable(_endpoint(server, port)),
            transport=printable(transport),
            receive=_rate(both.get("receive")),
            transmit=_rate(both.get("transmit")),
            packets=scaled(sum(flow["packets_per_second"] for flow in both.values())),
            bytes=scaled(sum(flow["bytes"] for flow in both.values()), "B"),
        )
        for (client, server, port, transport), both in sorted(sides.items(), key=rank, reverse=True)
    ]


def notes(document: Status) -> list[Note]:
    """Probes, stages and where the metrics go, a line each; what is wrong has a line of its own."""
    probes = document["probes"]
    lines = [Note("probes", "   ".join(f"{probe['name']} {_state(probe)}" for probe in probes) or "none")]
    lines += [
        Note(f"probe {probe['name']}", f"{probe['state']}: {probe['detail']}", bad=True)
        for probe in probes
        if _wrong(probe)
    ]
    lines += [_stage(name, stage) for name, stage in document["stages"].items()]
    if "connections" in document:
        lines += _connections(document["connections"])
    if "series" in document:
        lines.append(_series(document["series"]))
    export = document["export"]
    if "otlp" in export:
        lines += _otlp("otlp", export["otlp"])
    for name, receiver in export.get("destinations", {}).items():
        lines += _otlp(f"otlp {name}", receiver)
    if "prometheus" in export:
        lines.append(Note("prometheus", f"http://{export['prometheus']['listen']}/metrics"))
    if not export:
        lines.append(Note("export", "the metrics go nowhere", bad=True))
    return [Note(printable(note.title), printable(note.text), note.bad) for note in lines]


def gravest(found: Sequence[Note], room: int) -> list[Note]:
    """As many notes as there is room for, in their order; those that tell of nothing wrong leave first."""
    ranked = sorted(range(len(found)), key=lambda number: (not found[number].bad, number))
    return [found[number] for number in sorted(ranked[:room])]


def print_page(document: Status, stream: IO[str] | None = None) -> None:
    """All of it as plain text, for logs and pipes."""
    print(headline(document), end="\n\n", file=stream)
    numbers = ("receive", "packets/s", "coverage", "transmit", "packets/s", "coverage")
    rows = [interface_row(each) for each in document["interfaces"]]
    table = [(*each[:7], each.attached) for each in rows]
    print_table(("interface", *numbers, "attached"), table, right=numbers, stream=stream)
    print(file=stream)
    print_table(
        ("client", "server", "transport", "receive", "transmit", "packets/s", "bytes"),
        flow_rows(document["flows"]["top"]),
        ("receive", "transmit", "packets/s", "bytes"),
        stream,
    )
    print(file=stream)
    for note in notes(document):
        print(f"{note.title:<{NOTE_TITLE_WIDTH - 1}} {note.text}", file=stream)


def _octets(interface: InterfaceStatus) -> float:
    return interface["receive"]["bytes_per_second"] + interface["transmit"]["bytes_per_second"]


def _attached(hooks: Mapping[str, str]) -> str:
    """``tcx`` where both directions are, else each with its word."""
    others = dict(hooks)
    sides = (others.pop("tc_receive", None), others.pop("tc_transmit", None))
    if sides[0] == sides[1]:
        words = [] if sides[0] is None else [sides[0]]
    else:
        words = [f"{name} {word or '-'}" for name, word in zip(("receive", "transmit"), sides, strict=True)]
    return ", ".join([*words, *(f"{name} {word}" for name, word in others.items())]) or "-"


def _endpoint(address: str, port: int | None) -> str:
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _rate(flow: FlowStatus | None) -> str:
    return "-" if flow is None else scaled(flow["bytes_per_second"] * 8, "bit/s")


def _state(probe: ProbeStatus) -> str:
    return probe["state"] if probe["state"] == "ok" else f"{probe['state']} ({probe['reason']})"


def _wrong(probe: ProbeStatus) -> bool:
    return probe["state"] != "ok" and probe["reason"] != "not_enabled"


def _stage(name: str, stage: StageStatus) -> Note:
    dropped = sum(stage["dropped"].values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in stage["dropped"].items() if count)
    text = f"{stage['delivered']:,} delivered, {dropped:,} dropped" + (f" ({reasons})" if reasons else "")
    return Note(f"stage {name}", text, bad=dropped > 0)


def _connections(connections: ConnectionsStatus) -> list[Note]:
    """How many there are, and the servers with trouble."""
    states = ", ".join(f"{count:,} {state}" for state, count in connections["states"].items() if count)
    text = f"{connections['live']:,} of {connections['capacity']:,} followed"
    lines = [Note("connections", f"{text}; {states}" if states else text)]
    for each in connections["top"]:
        rates = (
            (each["failed_per_second"], "failed"),
            (each["resets_per_second"], "reset"),
            (each["retransmits_per_second"], "segments sent again"),
        )
        trouble = ", ".join(f"{scaled(rate)} {what}" for rate, what in rates if rate)
        if trouble and len(lines) <= TROUBLED_SERVERS:
            server = _endpoint(each["server"], each["port"]) if each["server"] else "older than the agent"
            rtt = "" if each["rtt_seconds"] is None else f", round trip {each['rtt_seconds'] * 1e3:.3g} ms"
            lines.append(
                Note(f"{each['role']}", f"{server}: {trouble} a second{rtt}", bad=bool(each["failed_per_second"]))
            )
    return lines


def _series(series: SeriesStatus) -> Note:
    folded = sum(family["folded"] for family in series["families"])
    text = f"{series['active']:,} of {series['limit']:,}"
    more = f", {folded:,} attribute sets folded: see otel-netmon explain --series" if folded else ""
    return Note("series", text + more)


def _otlp(title: str, otlp: OtlpStatus) -> list[Note]:
    taken = [f"{otlp['points_delivered']:,} points taken, {otlp['points_pending']:,} waiting"]
    for row, word in ((otlp["spans"], "spans"), (otlp["log_records"], "events")):
        if row["offered"]:
            taken.append(f"{row['delivered']:,} {word} taken, {row['pending']:,} waiting")
    text = f"{otlp['state']}: {'; '.join(taken)}"
    last = otlp["last_success_unix_nano"]
    if last is not None:
        text += f", last at {time.strftime('%H:%M:%S', time.localtime(last / 1e9))}"
    text += f"; {otlp['protocol']} to {otlp['endpoint']}"
    lines = [Note(title, text, bad=otlp["state"] in ("failing", "rejected"))]
    if otlp["spool"] is not None:
        lines.append(_spool(title.replace("otlp", "spool", 1), otlp["spool"]))
    if otlp["last_error"] is not None:
        lines.append(Note(title.replace("otlp", "last error", 1), otlp["last_error"], bad=True))
    return lines


def _spool(title: str, spool: SpoolStatus) -> Note:
    text = f"{scaled(spool['bytes'], 'B')} of {scaled(spool['max_bytes'], 'B')}, {spool['records']:,} requests"
    oldest = spool["oldest_unix_nano"]
    if oldest is not None:
        text += f", the oldest of {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(oldest / 1e9))}"
    lost = ", ".join(f"{reason} {count:,}" for reason, count in spool["dropped"].items() if count)
    return Note(title, f"{text}; dropped: {lost}" if lost else text, bad=bool(lost))
