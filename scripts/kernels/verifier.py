"""Loads every program of the shipped images and tells what the running kernel's verifier said, as JSON.

Run with the agent's interpreter and the project's root on PYTHONPATH; needs root.
"""

from __future__ import annotations

import json
import re
import sys

from otel_netmon.abi.enums import Late
from otel_netmon.errors import NetmonError
from otel_netmon.kernel import image
from otel_netmon.kernel.loader import LoadedImage, raise_memlock

_LOOKING = {Late.STREAMS: 1, Late.HTTP: 1}
_TC: dict[str, dict[Late, int]] = {
    "default": {},
    "looking into packets": _LOOKING,
    "no layer 2": {Late.L2_LENGTH: 0, **_LOOKING},
    "decapsulate": {Late.DECAPSULATE: 1, **_LOOKING},
}
_AT_SOCKETS = {Late.MESSAGES: 1, **_LOOKING}
_PLAINTEXT = {Late.HTTP: 1, Late.HANDSHAKE_BYTES: 0}
_REPLAY = {Late.REPLAY: 1, Late.STREAMS: 1}
VARIANTS: dict[str, dict[str, dict[Late, int]]] = {
    "netmon_receive": {**_TC, "replay": _REPLAY, "replay, decapsulate": {**_REPLAY, Late.DECAPSULATE: 1}},
    "netmon_transmit": _TC,
    "netmon_dns": {"default": {}, "replay": {Late.REPLAY: 1}},
    "netmon_stream": {"default": {}, "HTTP": {Late.HTTP: 1}, "replay": {Late.REPLAY: 1}},
    "netmon_sockops": {
        "default": {},
        "no namespace": {Late.NETNS: 0},
        "looking into packets": _AT_SOCKETS,
        "no namespace, looking into packets": {Late.NETNS: 0, **_AT_SOCKETS},
    },
    "netmon_ingress": {"default": {}, "looking into packets": _AT_SOCKETS},
    "netmon_egress": {"default": {}, "looking into packets": _AT_SOCKETS},
    "netmon_release": {"default": {}, "looking into packets": _AT_SOCKETS},
    "netmon_dns of socket_monitor": {"default": {}},
    "netmon_stream of socket_monitor": {"default": {}, "HTTP": {Late.HTTP: 1}},
    "netmon_stream of plaintext_monitor": {"HTTP": _PLAINTEXT},
    "netmon_http of plaintext_monitor": {"default": _PLAINTEXT},
    "netmon_http2 of plaintext_monitor": {"default": _PLAINTEXT},
}
"""The late constants that the agent and replay use, by program: each makes other code live. The rest has only the default."""

_STATISTICS = re.compile(r"processed (\d+) insns")
_HELPER = re.compile(r"unknown func|cannot use helper")
"""How the verifier says that a program may not call a helper (kernel/bpf/verifier.c)."""


def reports() -> list[dict[str, object]]:
    """One record for each program and variant: its instructions, how many the verifier processed, its words if it refused."""
    raise_memlock()
    result: list[dict[str, object]] = []
    for path in sorted(image.SHIPPED.glob("*.json")):
        source = image.parse(path.read_text(), str(path))
        try:
            loaded = LoadedImage(source)
        except NetmonError as error:
            result.append({"program": f"maps of {source.name}", "variant": "default", "refused": str(error)})
            continue
        for name, program in sorted(source.programs.items()):
            of_several = source.name != "tc_monitor" and name in image.SOURCES["tc_monitor"]
            title = f"{name} of {source.name}" if of_several else name
            for variant, late in VARIANTS.get(title, {"default": {}}).items():
                record: dict[str, object] = {"program": title, "variant": variant}
                record["instructions"] = len(program.instructions) // 8
                try:
                    log = loaded.verifier_report(name, late)
                except NetmonError as error:
                    helper = name in image.FALLBACKS and Late.NETNS not in late and _HELPER.search(str(error))
                    record["lacks" if helper else "refused"] = str(error)
                else:
                    found = _STATISTICS.search(log)
                    record["processed"] = int(found.group(1)) if found else None
                result.append(record)
        loaded.close()
    return result


if __name__ == "__main__":
    json.dump(reports(), sys.stdout)
