"""Validate the configuration and say what would run on this host.

Nothing is loaded, attached or sent. --no-host leaves out what depends on this host (interfaces, files), to check a file elsewhere.
"""

from __future__ import annotations

import argparse
import os
import socket
from typing import TYPE_CHECKING, Any

from otel_netmon.cli.options import add_config_arguments, add_json_argument, load_config, print_warnings
from otel_netmon.cli.output import print_json, print_table
from otel_netmon.errors import ConfigError

if TYPE_CHECKING:
    from otel_netmon.config.load import Loaded
    from otel_netmon.config.model import Receiver


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the configuration's options, ``--json`` and ``--no-host``."""
    add_config_arguments(parser)
    add_json_argument(parser)
    parser.add_argument("--no-host", action="store_true", help="do not look at this host's interfaces and files")


def run(args: argparse.Namespace) -> int:
    """Print what would run; a wrong configuration is a ConfigError, with ``--json`` an object with ``valid: false``."""
    try:
        loaded = load_config(args)
        if not args.no_host:
            _check_host(loaded)
    except ConfigError as error:
        if not args.json:
            raise
        print_json({"valid": False, "problems": str(error).splitlines()})
        return error.exit_code
    report = describe(loaded, host=not args.no_host)
    if args.json:
        print_json({"valid": True, "problems": [], **report})
        return 0
    print_warnings(loaded)
    print_table(("what", "state", "detail"), _rows(report))
    return 0


def describe(loaded: Loaded, *, host: bool) -> dict[str, Any]:
    """What this configuration would run, ready for JSON.

    Args:
        loaded: a valid configuration.
        host: look at the interfaces of this host and network namespace, too.
    """
    config = loaded.config
    spool = config.export.spool
    return {
        "file": loaded.file,
        "warnings": list(loaded.warnings),
        "interfaces": {
            "include": list(config.interfaces.include),
            "exclude": list(config.interfaces.exclude),
            "namespaces": list(config.interfaces.namespaces),
            "selected": [name for name in _host_interfaces() if config.interfaces.selects(name)] if host else None,
        },
        "probes": {
            "flows": config.probes.flows.enabled,
            "xdp": config.probes.xdp.enabled,
            "interfaces": config.probes.interfaces.enabled,
        },
        "otlp": _receiver(config.otlp) if config.otlp.enabled else None,
        "destinations": {name: _receiver(each) for name, each in _destinations(loaded).items()},
        "spool": {"directory": spool.directory, "max_bytes": spool.max_bytes} if spool.directory else None,
        "prometheus": {"listen": config.prometheus.listen} if config.prometheus.enabled else None,
    }


def _receiver(receiver: Receiver) -> dict[str, Any]:
    from otel_netmon.config.checks import mask_userinfo

    targets = {signal: mask_userinfo(receiver.target(signal)) for signal in receiver.signals}
    return {"protocol": receiver.protocol, "target": mask_userinfo(receiver.metrics_target()), "targets": targets}


def _destinations(loaded: Loaded) -> dict[str, Receiver]:
    otlp = loaded.config.otlp
    return {name: otlp.destinations[name] for name in sorted(otlp.destinations)} if otlp.enabled else {}


def _host_interfaces() -> list[str]:
    return sorted(name for _, name in socket.if_nameindex())


def _check_host(loaded: Loaded) -> None:
    """Raise for what the configuration names and this host lacks."""
    config, origins = loaded.config, loaded.origins
    problems: list[str] = []

    def complain(key: str, message: str) -> None:
        source = origins[key].source if key in origins else "default"
        problems.append(f"{source}: {key}: {message}")

    present = set(_host_interfaces())
    if not config.interfaces.allow_missing and not config.interfaces.namespaces:
        for name in config.interfaces.literal_names():
            if name not in present:
                complain(
                    "interfaces.include",
                    f"there is no interface {name!r}; interfaces.allow_missing: true waits for one",
                )
    receivers: dict[str, Receiver] = {"otlp": config.otlp} if config.otlp.enabled else {}
    receivers |= {f"otlp.destinations.{name}": each for name, each in _destinations(loaded).items()}
    for section, receiver in receivers.items():
        for key in ("certificate", "client_certificate", "client_key"):
            path = getattr(receiver, key)
            if path is not None and not os.access(path, os.R_OK):
                complain(f"{section}.{key}", f"the file {path!r} cannot be read")
    for namespace in config.interfaces.namespaces:
        path = namespace if namespace.startswith("/") else f"/run/netns/{namespace}"
        if not os.path.exists(path):
            complain("interfaces.namespaces", f"there is no network namespace {path!r}")
    if problems:
        raise ConfigError("\n".join(problems))


def _rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    interfaces, otlp, prometheus = report["interfaces"], report["otlp"], report["prometheus"]
    rows = [("configuration", "ok", report["file"] or "no file")]
    if interfaces["selected"] is None:
        rows.append(
            ("interfaces", "-", f"include {_join(interfaces['include'])}, exclude {_join(interfaces['exclude'])}")
        )
    else:
        found = interfaces["selected"]
        rows.append(("interfaces", str(len(found)), _join(found)))
    if interfaces["namespaces"]:
        rows.append(("namespaces", str(len(interfaces["namespaces"])), _join(interfaces["namespaces"])))
    rows += [(f"probe {name}", "on" if enabled else "off", "") for name, enabled in report["probes"].items()]
    rows.append(("otlp", "on", _ways(otlp)) if otlp else ("otlp", "off", ""))
    rows += [(f"otlp {name}", "on", _ways(each)) for name, each in report["destinations"].items()]
    if report["spool"]:
        rows.append(
            ("spool", "on", f"{report['spool']['directory']}, at most {report['spool']['max_bytes']:,} bytes each")
        )
    rows.append(
        ("prometheus", "on", f"http://{prometheus['listen']}/metrics") if prometheus else ("prometheus", "off", "")
    )
    return rows


def _ways(receiver: dict[str, Any]) -> str:
    """Where the signals go; mostly it is one address for all."""
    by_target: dict[str, list[str]] = {}
    for signal, target in receiver["targets"].items():
        by_target.setdefault(target.removesuffix(f"/v1/{signal}"), []).append(signal)
    words = ", ".join(f"{' '.join(signals)} to {target}" for target, signals in by_target.items())
    return f"{words or 'nothing is sent'} ({receiver['protocol']})"


def _join(names: list[str]) -> str:
    return " ".join(names) or "none"
