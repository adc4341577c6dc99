"""The TLS part of a replay: captures with known handshakes, cut and carried in every way, beside tshark, and damaged."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_netmon.decode.tls_ciphers import cipher_name
from otel_netmon.replay import Replay, replay
from support import tls_messages as t
from support.http2_captures import write
from support.tcp_talk import CLIENT, SERVER, Packet, Talk
from support.tls_captures import handshakes
from support.tls_talk import NOT_AFTER, Authority, Flight, contexts, converse, packets

pytestmark = pytest.mark.kernel

NAME = "secure.example"
FUZZ_HANDSHAKES = int(os.environ.get("NETMON_FUZZ_MESSAGES", "2003")) // 3
"""A handshake has three messages and more."""
SEED = int(os.environ.get("NETMON_FUZZ_SEED", "0")) or secrets.randbits(32)
VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
HELLO = t.record(
    t.HANDSHAKE,
    t.handshake(t.CLIENT_HELLO, t.client_hello([0xC02F, 0x009C], [t.server_name(NAME.encode()), t.alpn(b"h2")])),
)
ANSWER = t.record(t.HANDSHAKE, t.handshake(t.SERVER_HELLO, t.server_hello(0xC02F)))
BEHIND: list[Flight] = [(True, HELLO), (False, ANSWER), (True, t.change_cipher_spec()), (False, t.change_cipher_spec())]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_file(authority: Authority) -> Path:
    return authority.issue([NAME])


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Replay]:
    def replayed(found: list[Packet], captured: int | None = None) -> Replay:
        result = replay(write(tmp_path / "tls.pcap", found, captured), tmp_path)
        assert result.messages_lost == {}
        return result

    return replayed


def one(result: Replay) -> dict[str, Any]:
    (found,) = result.tls
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_of_openssl(
    version: str, run: Callable[..., Replay], authority: Authority, server_file: Path
) -> None:
    both = contexts(server_file, authority.file, VERSIONS[version])
    both[0].set_alpn_protocols(["h2"])
    both[1].set_alpn_protocols(["h2"])
    said = converse(both)
    agreed = said.client.cipher()
    assert agreed is not None
    numbers = {each["name"]: each["id"] & 0xFFFF for each in both[0].get_ciphers()}
    told = one(run(packets(said.flights)))
    expected = {
        "client": "192.0.2.1",
        "client_port": 40000,
        "server": "192.0.2.2",
        "server_port": 8443,
        "sni": NAME,
        "version": version,
        "cipher": cipher_name(numbers[agreed[0]]),
        "alpn": None if version == "1.3" else "h2",
        "alpn_offered": ["h2"],
        "resumed": False,
        "cert_not_after": None if version == "1.3" else f"{NOT_AFTER:%Y-%m-%dT%H:%M:%SZ}",
        "alert": None,
        "outcome": "established",
    }
    assert {key: told[key] for key in expected} == expected
    assert told["handshake_ms"] > 0
    assert json.dumps(told)


def test_failures(run: Callable[..., Replay], authority: Authority, server_file: Path) -> None:
    refused = converse(contexts(server_file, authority.file, VERSIONS["1.2"]), name="other.example")
    told = one(run(packets(refused.flights)))
    assert (told["outcome"], told["alert"], told["version"]) == ("failed", "bad_certificate", "1.2")
    told = one(run(packets([(True, HELLO), (False, t.alert(70))])))
    assert (told["outcome"], told["alert"], told["version"], told["cipher"], told["handshake_ms"]) == (
        "failed",
        "protocol_version",
        None,
        None,
        None,
    )
    assert one(run(packets([(True, HELLO), (False, b"HTTP/1.1 400 Bad Request\r\n\r\n")])))["outcome"] == "failed"
    assert one(run(packets([(True, HELLO)], close=False)))["outcome"] == "incomplete"
    talk = Talk()
    assert one(run([*talk.open(), *talk.say(True, HELLO), talk.reset(False)]))["outcome"] == "failed"


@pytest.mark.parametrize("size", [1, 7, 53, 536])
def test_cuts_order_and_repetition(
    size: int, run: Callable[..., Replay], authority: Authority, server_file: Path
) -> None:
    flights = converse(contexts(server_file, authority.file, VERSIONS["1.2"])).flights
    whole = one(run(packets(flights)))
    generator = random.Random(size)  # noqa: S311
    talk = Talk()
    found = talk.open()
    for from_client, data in flights:
        said = talk.say(from_client, data, size)
        said += generator.choices(said, k=2)
        generator.shuffle(said)
        found += said
    found += [talk.fin(True), talk.fin(False)]
    told = one(run(found))
    assert {**told, "handshake_ms": 0} == {**whole, "handshake_ms": 0}


@pytest.mark.parametrize(
    "before",
    [
        [(False, b"220 mx ESMTP\r\n"), (True, b"EHLO me\r\n"), (False, b"250 STARTTLS\r\n"), (True, b"STARTTLS\r\n"), (False, b"220 go\r\n")],
        [(False, b"* OK ready\r\n"), (True, b"a1 STARTTLS\r\n"), (False, b"a1 OK\r\n")],
        [(False, b"+OK\r\n"), (True, b"STLS\r\n"), (False, b"+OK\r\n")],
        [(True, b"\0\0\0\x08\x04\xd2\x16\x2f"), (False, b"S")],
        [(False, b"J\0\0\0\n8.0.0" + bytes(60)), (True, b"\x20\0\0\1\x85\xae\x3f\x20\0\0\0\1\x21" + bytes(23))],
        [(True, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"), (False, b"HTTP/1.1 200 OK\r\n\r\n")],
        [(True, b"\x05\x01\0"), (False, b"\x05\0"), (True, b"\x05\1\0\1\x7f\0\0\1\1\xbb"), (False, b"\5\0\0\1" + bytes(6))],
        [(True, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n")],
    ],
)  # fmt: skip
@pytest.mark.parametrize("joined", [True, False])
def test_behind_other_protocols(before: list[Flight], joined: bool, run: Callable[..., Replay]) -> None:
    last_from_client, last = before[-1]
    said = [*before, *BEHIND]
    if joined and last_from_client:  # in one breath
        said = [*before[:-1], (True, last + HELLO), *BEHIND[1:]]
    told = one(run(packets(said)))
    assert (told["sni"], told["outcome"], told["alpn_offered"]) == (NAME, "established", ["h2"])


def test_several_connections_between_the_same_ends(run: Callable[..., Replay]) -> None:
    found: list[Packet] = []
    time_ns = 0
    for number in range(5):
        talk = Talk(numbers=(1000 * number, 77_000 * number))
        talk.time_ns = time_ns
        found += talk.open()
        for from_client, data in BEHIND:
            found += talk.say(from_client, data)
        found += [talk.fin(True), talk.fin(False)]
        time_ns = talk.time_ns
    result = run(found)
    assert [each["outcome"] for each in result.tls] == ["established"] * 5


def test_what_is_cut_by_the_snap_length_is_told_as_far_as_it_is_there(run: Callable[..., Replay]) -> None:
    told = run(packets([(True, HELLO), (False, ANSWER + bytes(5000))]), captured=54 + len(HELLO)).tls
    assert [each["sni"] for each in told] == [NAME]


def damaged(data: bytes, generator: random.Random) -> bytes:
    octets = bytearray(data)
    for _ in range(generator.choice([0, 1, 1, 2, 8])):
        octets[generator.randrange(len(octets))] = generator.choice([0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)])
    return bytes(octets)


def test_damaged_handshakes_are_each_counted(tmp_path: Path, authority: Authority, server_file: Path) -> None:
    """Through the kernel comes what comes without it, and every packet is accounted for."""
    generator = random.Random(SEED)  # noqa: S311
    templates = [converse(contexts(server_file, authority.file, version)).flights for version in VERSIONS.values()]
    found: list[Packet] = []
    time_ns = 0
    for number in range(FUZZ_HANDSHAKES):
        client = CLIENT[:12] + (0x0A000000 + number).to_bytes(4, "big") + CLIENT[16:]
        talk = Talk(client, SERVER)
        talk.time_ns = time_ns
        found += talk.open()
        for from_client, data in generator.choice(templates):
            found += talk.say(from_client, damaged(data, generator), generator.choice([200, 536, 1460]))
        time_ns = talk.time_ns
    path = write(tmp_path / "damaged.pcap", found)
    result = replay(path, tmp_path)
    assert (result.read, result.counted, result.unparsed) == (len(found), len(found), {})
    assert result.messages_lost == {}
    assert len(result.tls) <= FUZZ_HANDSHAKES
    assert len({each["client"] for each in result.tls}) == len(result.tls)
    assert len(result.tls) > FUZZ_HANDSHAKES / 2
    told = Counter(
        (each["sni"], each["ja3"], each["outcome"] == "established", each["cert_not_after"] is None)
        for each in result.tls
    )
    without = Counter(
        (each.server_name, each.ja3, each.outcome == "established", each.not_after is None) for each in handshakes(path)
    )
    assert told == without, f"NETMON_FUZZ_SEED={SEED}"


@pytest.mark.skipif(shutil.which("tshark") is None, reason="needs tshark")
def test_beside_tshark(tmp_path: Path, authority: Authority, server_file: Path) -> None:
    found: list[Packet] = []
    time_ns = 0
    for number in range(24):
        version = list(VERSIONS)[number % 4]
        both = contexts(server_file, authority.file, VERSIONS[version])
        both[0].set_alpn_protocols(["h2"] if number % 3 else ["http/1.1", "h2"])
        client = CLIENT[:16] + (40_000 + number).to_bytes(2, "big")
        talk = Talk(client, SERVER[:16] + (443).to_bytes(2, "big"))
        talk.time_ns = time_ns
        found += talk.open()
        for from_client, data in converse(both).flights:
            found += talk.say(from_client, data)
        found += [talk.fin(True), talk.fin(False)]
        time_ns = talk.time_ns
    path = write(tmp_path / "tls.pcap", found)
    fields = [
        "tcp.srcport",
        "tls.handshake.extensions_server_name",
        "tls.handshake.ja3",
        "tcp.dstport",
        "tls.handshake.ja3s",
    ]
    fields += ["tls.handshake.ciphersuite", "tls.handshake.type"]
    words = [word for each in fields for word in ("-e", each)]
    listed = subprocess.run(
        ["tshark", "-n", "-r", path, "-Y", "tls.handshake.type <= 2", "-T", "fields", "-E", "occurrence=f", *words],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    theirs: dict[int, dict[str, str]] = {}
    for line in listed.splitlines():
        source, name, fingerprint, destination, answered, suite, kind = line.split("\t")
        if kind == "1":
            theirs[int(source)] = {"sni": name, "ja3": fingerprint}
        else:
            theirs[int(destination)] |= {"ja3s": answered, "cipher": cipher_name(int(suite, 16))}
    ours = {each["client_port"]: each for each in replay(path, tmp_path).tls}
    assert len(theirs) == 24
    assert {port: {key: each[key] for key in theirs[port]} for port, each in ours.items()} == theirs


def test_the_command_prints_it(tmp_path: Path) -> None:
    path = write(tmp_path / "tls.pcap", packets(BEHIND))
    done = subprocess.run(
        [sys.executable, "-m", "otel_netmon", "replay", path, "--output", "json"], check=True, capture_output=True
    )
    (told,) = json.loads(done.stdout)["tls"]
    assert set(told) >= {
        *("client", "server", "sni", "version", "cipher", "alpn", "ja3", "ja4", "handshake_ms"),
        *("cert_not_after", "outcome"),
    }
