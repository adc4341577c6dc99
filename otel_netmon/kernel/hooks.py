"""The programs that count at an interface, and what each interface has them compiled in with."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.abi.enums import LATE_DEFAULTS, Direction, Late
from otel_netmon.kernel.loader import LoadedImage
from otel_netmon.kernel.messages import HTTP_PROGRAM, STREAM_PROGRAM

TC_HOOKS: Mapping[str, tuple[Direction, str]] = {
    "tc_receive": (Direction.RECEIVE, "netmon_receive"),
    "tc_transmit": (Direction.TRANSMIT, "netmon_transmit"),
}


def interface_constants(
    image: LoadedImage,
    *,
    decapsulate: bool,
    namespace: int = 0,
    l2_length: int = LATE_DEFAULTS[Late.L2_LENGTH],
) -> dict[Late, int]:
    """Gives the late constants of the programs of an interface; without more, of Ethernet in the agent's own namespace.

    Args:
        image: the loaded tc_monitor: what it runs for messages is called.
        decapsulate: see probes.flows.decapsulate.
        namespace: number of the network namespace.
        l2_length: octets before the network header.
    """
    return {
        Late.NAMESPACE: namespace,
        Late.L2_LENGTH: l2_length,
        Late.DECAPSULATE: int(decapsulate),
        Late.STREAMS: int(image.runs(STREAM_PROGRAM)),
        Late.HTTP: int(image.runs(HTTP_PROGRAM)),
    }
