"""HTTP inside of TLS through the whole agent: nginx, curl, Python and Node, counted as the server's log has it, without a secret."""

from __future__ import annotations

import platform
import re
import secrets
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from support.agent import Agent, agent
from support.https_server import DATA_REPEATS, PORT, STATUSES, Request, https_server
from support.netns import NetNs, Veth, veth_pair
from support.otlp_receiver import http_receiver, wait_until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="uprobes at OpenSSL are there for x86-64"),
    pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed"),
]

ON = ("--set", "probes.tls_plaintext=openssl")
SYSTEM_PYTHON = "/usr/bin/python3"
PYTHON_CLIENT = """
import http.client, ssl, sys
address, port, number, secret = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
context = ssl._create_unverified_context()
connection = http.client.HTTPSConnection(address, port, context=context)
for each in range(number):
    connection.request("PUT", f"/s/404/{each}?token={secret}", body=secret * each, headers={"Authorization": secret})
    assert connection.getresponse().read() == b"x" * 61
connection.close()
"""
ASYNCIO_CLIENT = """
import asyncio, ssl, sys
address, port, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl._create_unverified_context()
async def talk(which):
    reader, writer = await asyncio.open_connection(address, port, ssl=context)
    for each in range(number):
        writer.write(b"DELETE /s/503/%d HTTP/1.1\\r\\nHost: service.example\\r\\n\\r\\n" % which)
        await reader.readuntil(b"\\r\\n\\r\\n")
        await reader.readexactly(61)
    writer.close()
async def main():
    await asyncio.gather(*(talk(which) for which in range(3)))
asyncio.run(main())
"""
NODE_CLIENT = """
const https = require('https');
const [host, port, number] = process.argv.slice(-3);
const agent = new https.Agent({keepAlive: true, maxSockets: 1, rejectUnauthorized: false});
let done = 0;
const next = () => https.get({host, port, agent, path: '/s/200/' + done}, response => {
    response.resume();
    response.on('end', () => ++done < number ? next() : agent.destroy());
});
process.stdin.once('data', () => { process.stdin.pause(); next(); });
"""


@pytest.fixture
def link() -> Iterator[tuple[NetNs, NetNs, Veth]]:
    with veth_pair() as made:
        yield made


def counted(running: Agent, side: str) -> Counter[Request]:
    """Requests inside of TLS of one side, at the port of these tests: other processes of the machine speak TLS, too."""
    found: Counter[Request] = Counter()
    for labels, value in running.samples(
        f"http_{side}_request_duration_seconds_count", url_scheme="https", server_port=str(PORT)
    ):
        version = labels["network_protocol_version"]
        found[labels["http_request_method"], int(labels["http_response_status_code"]), version] += int(value)
    return found


def curl(where: NetNs, *arguments: str) -> None:
    where.run("curl", "--silent", "--show-error", "--insecure", "--output", "/dev/null", *arguments)


def dropped(running: Agent) -> dict[tuple[str, str, str], float]:
    """What of this probe was lost."""
    lost = running.samples("netmon_pipeline_items_total", netmon_outcome="dropped")
    return {
        (have["netmon_stage"], have["netmon_signal"], have["netmon_reason"]): value
        for have, value in lost
        if have["netmon_signal"].startswith("tls_") and value
    }


def watched(running: Agent, name: str) -> None:
    """Waits until a file with OpenSSL is watched."""
    running.wait(
        lambda: any(name in event["file"] for event in running.events("plaintext.attached")), 60, f"a watched {name}"
    )


def test_every_request_is_counted_at_both_ends(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    secret = secrets.token_hex(16)
    url = f"https://{pair.right_address}:{PORT}"
    hidden = ["--header", f"Authorization: Bearer {secret}", "--header", f"Cookie: session={secret}"]
    with (
        https_server(far, pair.right_address, tmp_path) as server,
        agent("--interface", pair.left, "--set", f"interfaces.namespaces={near.name}", *ON) as running,
    ):
        watched(running, "libssl")
        for status in STATUSES:
            curl(near, "--http1.1", *hidden, f"{url}/s/{status}/[1-41]?token={secret}")
            curl(near, "--http2", "--parallel", *hidden, f"{url}/s/{status}/[1-37]?token={secret}")
        curl(near, "--http1.1", f"{url}/data?[1-7]")
        curl(near, "--http2", f"{url}/data?[1-5]")
        curl(near, "--http1.1", "--data", f"{secret}" * 300, *hidden, f"{url}/s/200/[1-11]")
        curl(near, "--http2", "--data", f"{secret}" * 300, *hidden, f"{url}/s/200/[1-13]")
        near.run(SYSTEM_PYTHON, "-c", PYTHON_CLIENT, pair.right_address, str(PORT), "29", secret)
        near.run(SYSTEM_PYTHON, "-c", ASYNCIO_CLIENT, pair.right_address, str(PORT), "17")
        expected: Counter[Request] = Counter()
        for status in STATUSES:
            expected["GET", status, "1.1"] += 41
            expected["GET", status, "2"] += 37
        expected["GET", 200, "1.1"] += 7
        expected["GET", 200, "2"] += 5
        expected["POST", 200, "1.1"] += 11
        expected["POST", 200, "2"] += 13
        expected["PUT", 404, "1.1"] += 29
        expected["DELETE", 503, "1.1"] += 51
        assert server.logged() == expected
        running.becomes(lambda: counted(running, "server"), expected)
        running.becomes(lambda: counted(running, "client"), expected)
        assert dropped(running) == {}
        assert (
            running.samples("http_server_request_duration_seconds_count", url_scheme="http", server_port=str(PORT))
            == []
        )
        pages = running.get("/metrics") + running.get("/status") + running.log_text
    assert secret not in pages


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
def test_openssl_inside_of_an_executable_is_found_when_it_runs(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    with (
        https_server(far, pair.right_address, tmp_path) as server,
        agent("--interface", pair.left, "--set", f"interfaces.namespaces={near.name}", *ON) as running,
        subprocess.Popen(
            near.command("node", "-e", NODE_CLIENT, "--", pair.right_address, str(PORT), "23"), stdin=subprocess.PIPE
        ) as node,
    ):
        watched(running, "/node")
        node.communicate(b"go\n", 60)
        expected = Counter({("GET", 200, "1.1"): 23})
        assert server.logged() == expected
        running.becomes(lambda: counted(running, "client"), expected)
        running.becomes(lambda: counted(running, "server"), expected)


def test_spans_name_the_ends_and_nothing_that_is_secret(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    secret, body = secrets.token_hex(16), secrets.token_hex(16)
    number = 19
    with http_receiver() as receiver, https_server(far, pair.right_address, tmp_path) as server:
        options = ["--interface", pair.left, "--set", f"interfaces.namespaces={near.name}", *ON]
        options += [
            "--set",
            "spans.share=1",
            "--set",
            "spans.limit_per_second=10000",
            "--set",
            "otlp.protocol=http/protobuf",
        ]
        options += ["--otlp-endpoint", f"http://127.0.0.1:{receiver.port}"]

        def spans() -> list[dict[str, object]]:
            return [
                each
                for request in receiver.requests
                if request.path.endswith("/traces")
                for resource in request.body.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
                if attributes(span).get("url.scheme") == "https" and attributes(span).get("server.port") == PORT
                for each in [
                    {
                        "kind": span.kind,
                        "trace": span.trace_id.hex(),
                        "service": attributes(resource.resource).get("service.name"),
                        **attributes(span),
                    }
                ]
            ]

        with agent(*options, otlp=True) as running:
            watched(running, "libssl")
            for protocol in ("--http1.1", "--http2"):
                curl(
                    near, protocol, "--header", f"Authorization: Bearer {secret}", "--header",
                    "traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "--data", body * 200,
                    f"https://{pair.right_address}:{PORT}/s/200/[1-{number}]?token={secret}",
                )  # fmt: skip
                curl(near, protocol, f"https://{pair.right_address}:{PORT}/data")
            wait_until(lambda: len(spans()) >= 4 * (number + 1))
            memory = memory_of(running.pipeline_pid())
        every = spans()
        told = str([request.body for request in receiver.requests])
    files = [each for each in every if each["http.request.method"] == "GET"]
    assert [each["http.response.body.size"] for each in files] == [len(server.data) * DATA_REPEATS] * 4
    found = [each for each in every if each["http.request.method"] == "POST"]
    assert Counter((each["kind"], each["network.protocol.version"]) for each in found) == {
        (kind, version): number for kind in (2, 3) for version in ("1.1", "2")
    }
    # The first request of a connection waited for its handshake, and the probe of connections knows whose each end is.
    assert {each["kind"] for each in every if "netmon.http.time.tls" in each} == {2, 3}
    assert {(each["kind"], each["service"]) for each in every} == {(2, "nginx"), (3, "curl")}
    for each in found:
        assert each["trace"] == "0123456789abcdef0123456789abcdef"
        assert (each["client.address"], each["server.address"]) == (pair.left_address, pair.right_address)
        assert each["network.peer.address"] == (pair.left_address if each["kind"] == 2 else pair.right_address)
        # In HTTP/2 the server answers at once and resets the stream, mostly before the body is sent.
        whole = 200 * len(body)
        assert each["http.request.body.size"] in ((whole,) if each["network.protocol.version"] == "1.1" else (0, whole))
    assert secret not in told
    assert body not in told
    # Heads are in the ring for a while, bodies never are.
    assert body.encode() * 2 not in memory
    assert server.data * 2 not in memory


def attributes(span: object) -> dict[str, object]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value")))
        for each in span.attributes  # type: ignore[attr-defined]
    }


def memory_of(pid: int) -> bytes:
    """What a process can read and write."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            begin, end, access = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            if access.startswith("r") and "[v" not in line:
                try:
                    memory.seek(int(begin, 16))
                    found.append(memory.read(int(end, 16) - int(begin, 16)))
                except OSError:
                    continue  # beyond the end of a file
    return b"".join(found)


def code_of(pid: int, sites: Sequence[str]) -> list[bytes]:
    """The octets at sites of the journal, in the memory of a process."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        mapped = [line.split() for line in maps if "libssl" in line and "x" in line.split()[1]]
        begin, offset = int(mapped[0][0].split("-")[0], 16), int(mapped[0][2], 16)
        for site in sites:
            memory.seek(begin + int(site.split("+")[1].split(" ")[0], 16) - offset)
            found.append(memory.read(8))
    return found


def state_of(running: Agent) -> list[tuple[str, str]]:
    """State and reason of the probe; nothing while the page is not there."""
    try:
        found = running.samples("netmon_probe_state_ratio", netmon_probe="tls_plaintext")
    except ConnectionError:
        return []
    return [(have["netmon_state"], have.get("netmon_reason", "")) for have, _ in found]


def test_switched_off_it_leaves_processes_as_they_were(link: tuple[NetNs, NetNs, Veth], tmp_path: Path) -> None:
    near, far, pair = link
    file = tmp_path / "config.yaml"
    url = f"https://{pair.right_address}:{PORT}/s/200/[1-31]"

    def write(word: str) -> None:
        file.write_text(
            f"interfaces:\n  namespaces: [{near.name}]\n  include: [{pair.left}]\nprobes:\n  tls_plaintext: {word}\n"
        )

    write("openssl")
    with https_server(far, pair.right_address, tmp_path) as server, agent("--config", str(file)) as running:
        event = running.wait_event("plaintext.attached")
        sites = event["sites"]
        assert len(sites) >= 6
        pid = server.process.pid
        on = code_of(pid, sites)
        curl(near, url)
        running.becomes(lambda: counted(running, "server").total(), 31)
        write("off")
        running.process.send_signal(signal.SIGHUP)
        running.wait_event("config.reloaded")
        before = [bytes.fromhex(site.split(" ")[3]) for site in sites]
        assert on == [b"\xcc" + code[1:] for code in before]  # a breakpoint each
        running.becomes(lambda: code_of(pid, sites), before)
        curl(near, url)
        running.becomes(lambda: state_of(running), [("off", "not_enabled")])
        assert counted(running, "server").total() == 0  # counts begin anew
        write("openssl")
        running.process.send_signal(signal.SIGHUP)
        running.wait_event("plaintext.attached", 2)
        running.becomes(lambda: state_of(running), [("ok", "")])
        curl(near, url)
        running.becomes(lambda: counted(running, "server").total(), 31)
    assert server.logged() == {("GET", 200, "2"): 93}


def test_without_the_privilege_to_look_at_processes_it_says_so() -> None:
    held = "-all,+net_admin,+bpf,+perfmon,+kill,+dac_override"
    enter = ["setpriv", "--bounding-set", held, "--inh-caps", "-all"]
    with agent("--interface", "lo", *ON, enter=enter) as running:
        probe = next(each for each in running.status()["probes"] if each["name"] == "tls_plaintext")
        # Off where the kernel asks for CAP_SYS_ADMIN besides.
        assert probe["state"] in ("degraded", "off")
        assert probe["reason"] == "not_permitted"
        assert "CAP_SYS_PTRACE" in probe["detail"]
        assert next(each for each in running.status()["probes"] if each["name"] == "http")["state"] == "ok"
