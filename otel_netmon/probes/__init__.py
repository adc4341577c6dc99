"""One declarative record per feature: what it runs, where, what it needs, what it gives."""

from __future__ import annotations

from otel_netmon.probes.base import Probe
from otel_netmon.probes.connections import CONNECTIONS
from otel_netmon.probes.dns import DNS
from otel_netmon.probes.drops import DROPS
from otel_netmon.probes.flows import FLOWS
from otel_netmon.probes.http import HTTP
from otel_netmon.probes.interfaces import INTERFACES
from otel_netmon.probes.netstat import NETSTAT
from otel_netmon.probes.tls import TLS
from otel_netmon.probes.tls_plaintext import TLS_PLAINTEXT
from otel_netmon.probes.xdp import XDP

PROBES: dict[str, Probe] = {
    probe.name: probe for probe in (FLOWS, DNS, TLS, HTTP, CONNECTIONS, XDP, INTERFACES, NETSTAT, DROPS, TLS_PLAINTEXT)
}
