"""otel-netmon: the network traffic of one Linux host as OpenTelemetry, counted by eBPF."""

__version__ = "0.1.0"
