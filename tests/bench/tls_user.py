"""What a TLS handshake costs in user space, from the records of the ring to distributions and spans, without a kernel.

    python -m bench.tls_user --handshakes 2000 --rounds 9

Handshakes that OpenSSL makes with fifty servers' names are taken again and again, each from a client of its own, in batches as a drain gives
them; with what tells them whole, and with followers alone. CPU time of the thread, the least and the median of all rounds; every
handshake is counted.
"""

from __future__ import annotations

import argparse
import json
import ssl
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from otel_netmon.analysis.sampling import KeepRule
from otel_netmon.analysis.tcp_preambles import preamble_recognisers
from otel_netmon.config.load import load
from otel_netmon.otel.points import HistogramSeries
from otel_netmon.otel.tls import DURATION
from otel_netmon.readers.messages import Messages
from otel_netmon.sources.streams import StreamSource
from otel_netmon.sources.tls import TlsSource
from support.tcp_talk import CLIENT, SERVER, Talk
from support.tls_ring import handed_over, messages, records
from support.tls_talk import Authority, Flight, contexts, converse

NAMES = 50
SECOND = 1_000_000_000


class _Ring:
    """Nobody drains it."""

    def __init__(self) -> None:
        self.counts: Counter[object] = Counter()


def kinds(folder: Path) -> dict[str, list[list[Flight]]]:
    """What leaves the kernel of handshakes of both versions, new and resumed."""
    made: dict[str, list[list[Flight]]] = {}
    authority = Authority(folder)
    file = authority.issue(["*.shop.example"])
    for name, version in (("TLS 1.2", ssl.TLSVersion.TLSv1_2), ("TLS 1.3", ssl.TLSVersion.TLSv1_3)):
        both = contexts(file, authority.file, version)
        for each in both:
            each.set_alpn_protocols(["h2", "http/1.1"])
        for number in range(NAMES):
            first = converse(both, f"n{number:02}.shop.example")
            again = converse(both, f"n{number:02}.shop.example", first.client.session)
            made.setdefault(name, []).append(handed_over(first.flights))
            made.setdefault(f"{name}, resumed", []).append(handed_over(again.flights))
    return made


def batch(flights: list[list[Flight]], begin: int, many: int, time_ns: int) -> Messages:
    """A drain with so many handshakes."""
    made: list[bytes] = []
    for number in range(begin, begin + many):
        talk = Talk(CLIENT[:12] + (0x0A000000 + number).to_bytes(4, "big") + CLIENT[16:], SERVER)
        talk.time_ns = time_ns
        packets = talk.open()
        for from_client, data in flights[number % len(flights)]:
            packets += talk.say(from_client, data)
        made += records(talk, packets)
    return messages(made)


def measure(flights: list[list[Flight]], many: int, rounds: int, *, whole: bool) -> dict[str, float]:
    """Figures of one kind.

    Raises:
        AssertionError: a handshake was not counted.
    """
    config = load(None, {}, [], {}).config
    spans = config.spans
    rule = KeepRule(spans.share, spans.limit_per_second, round(spans.slow_seconds * 1e9) or None)
    source = TlsSource(_Ring(), config, rule, time.time_ns())  # type: ignore[arg-type]
    source.begin_cycle(1000, 100)
    streams = StreamSource([*preamble_recognisers(), source.recogniser()], source.batches if whole else None)
    nothing = messages([])
    used = []
    for number in range(rounds + 1):
        drained = batch(flights, number * many, many, number * SECOND)
        now_ns = (number + 1) * SECOND
        began = time.thread_time()
        source.take(nothing, nothing, streams.take(drained, now_ns), now_ns)
        source.take_spans()
        source.take_events()
        used.append((time.thread_time() - began) / many * 1e6)
    durations = source.points(time.time_ns())[DURATION]
    assert isinstance(durations, HistogramSeries)
    assert int(durations.count.sum()) == (rounds + 1) * many
    del used[0]  # with what is loaded and learnt
    return {"least": round(min(used), 1), "median": round(statistics.median(used), 1)}


def main() -> int:
    """Prints microseconds of CPU a handshake as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--handshakes", type=int, nargs="+", default=[2003, 101], help="of a batch")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, flights in kinds(Path(folder)).items():
            for many in arguments.handshakes:
                rounds = arguments.rounds * max(1, 2000 // many)
                report[f"{kind}, {many} a drain"] = measure(flights, many, rounds, whole=True)
            report[f"{kind}, followers alone"] = measure(
                flights, arguments.handshakes[0], arguments.rounds, whole=False
            )
    print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
